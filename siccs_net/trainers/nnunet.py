"""nnU-Net 2.8.1's training recipe (design notes, nnunet.md 3), of which every number is a setting."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from siccs_net.augment.settings import NNUNET
from siccs_net.errors import UsageError
from siccs_net.records.plan import Configuration
from siccs_net.trainers.base import Trainer


class NnUNetTrainer(Trainer):
    """Dice and cross-entropy, SGD with Nesterov momentum, polynomial schedule, 1000 epochs of the plan's 250 steps.

    Source: Isensee et al., Nature Methods 18 (2021) 203-211. Where it differs on purpose and which `--set` each of
    nnU-Net's own trainer variants is: docs/how-to/nnunet-trainers.md.
    """

    defaults: ClassVar[Mapping[str, Any]] = {
        "epochs": 1000,
        "optimizer": "sgd",
        "learning_rate": 1e-2,
        "momentum": 0.99,
        "nesterov": True,
        "weight_decay": 3e-5,
        "decay_everything": True,
        "schedule": "poly",
        "poly_exponent": 0.9,
        "warmup_epochs": 0.0,
        "gradient_clip": 12.0,
        "loss": {"name": "dice_cross_entropy", "smooth": 1e-5},
        "foreground_fraction": 0.33,
        "oversampling": "end_of_batch",
        "mirror_axes": ["S-I", "A-P", "L-R"],
        "validation_patches": 50,
        "augmentation": NNUNET.model_dump(mode="json"),
    }


class NnUNetResEncTrainer(NnUNetTrainer):
    """The same recipe for the plans with a residual encoder ("nnU-Net Revisited", MICCAI 2024)."""

    def adapt_plan(self, configuration: Configuration) -> Configuration:
        """Raises UsageError for a plan with another network."""
        if configuration.network.architecture != "resenc_unet":
            raise UsageError(
                "NnUNetResEncTrainer trains plans with a residual encoder",
                found=configuration.network.architecture,
                hint="Plan with --planner nnunet_resenc_m, or train with -tr NnUNetTrainer",
            )
        return super().adapt_plan(configuration)
