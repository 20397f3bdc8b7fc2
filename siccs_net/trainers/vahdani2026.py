"""The training of Vahdani et al. 2026 as far as the paper states it; the rest is assumed and marked in the plan."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from siccs_net.augment.settings import PAPER
from siccs_net.trainers.base import Trainer


class Vahdani2026Trainer(Trainer):
    """Focal Dice loss, AdamW with AMSGrad, cosine per epoch, 100 epochs, the paper's augmentations, no mirroring."""

    defaults: ClassVar[Mapping[str, Any]] = {
        "epochs": 100,
        "learning_rate": 1e-3,
        "weight_decay": 1e-2,
        "amsgrad": True,
        "warmup_epochs": 0.0,
        "schedule": "cosine_per_epoch",
        "gradient_clip": 1.0,
        "loss": {"name": "focal_dice", "variant": "paper"},
        "foreground_fraction": 0.0,
        "mirror_axes": [],
        "augmentation": PAPER.model_dump(mode="json"),
    }
