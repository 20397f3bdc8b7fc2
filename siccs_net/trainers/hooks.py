"""What a trainer plug-in overrides: small methods, each with one job, called by the loop in the order of `HOOKS`."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from siccs_net.augment.intensity import intensity_transforms
from siccs_net.data.foreground import ForegroundIndex
from siccs_net.data.sampling import PatchSampler, class_weights
from siccs_net.errors import TrainerContractError
from siccs_net.losses import DeepSupervisionLoss, DiceCrossEntropyLoss, FocalDiceLoss
from siccs_net.networks.build import build_network
from siccs_net.preprocessing.preprocess import IGNORED
from siccs_net.records.checkpoint import Numerics
from siccs_net.records.plan import Configuration
from siccs_net.trainers.config import TrainerConfig, inherit_defaults
from siccs_net.trainers.optimisation import optimizer, schedule
from siccs_net.trainers.scoring import confusion_matrix, dice, predicted_classes
from siccs_net.trainers.task import TrainTask

HOOKS = (
    "adapt_plan",
    "build_network",
    "build_loss",
    "build_augmentation",
    "build_sampler",
    "build_optimizer",
    "build_scheduler",
    "training_step",
    "validation_step",
    "score",
    "on_epoch_end",
)
_HOOK_LIKE = ("build_", "on_", "adapt_")


class TrainerHooks:
    """The methods of a trainer that can be overridden, and the check that a subclass overrides no other by mistake.

    While `fit` runs, `configuration`, `network`, `loss`, `optimizer` and `numerics` are set for the methods to use.
    """

    config_class: ClassVar[type[TrainerConfig]] = TrainerConfig
    defaults: ClassVar[Mapping[str, Any]] = {}

    configuration: Configuration
    network: nn.Module
    loss: DeepSupervisionLoss
    optimizer: torch.optim.Optimizer
    numerics: Numerics

    def __init__(self, task: TrainTask) -> None:
        self.task = task
        self.config = task.config

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "defaults" in vars(cls):
            parent = next((base.defaults for base in cls.__mro__[1:] if issubclass(base, TrainerHooks)), {})
            cls.defaults = inherit_defaults(parent, cls.defaults)
        for name in vars(cls):
            hook_like = name.startswith(_HOOK_LIKE) or name.endswith("_step")
            if hook_like and not name.startswith("_") and name not in HOOKS:
                near = difflib.get_close_matches(name, HOOKS, n=1)
                hint = f"Did you mean {near[0]}?" if near else f"The hooks are {', '.join(HOOKS)}"
                raise TrainerContractError(
                    f"{cls.__name__}.{name} is no hook of Trainer and would never be called",
                    hint=f"{hint} Private methods start with _",
                )

    def adapt_plan(self, configuration: Configuration) -> Configuration:
        """Return the configuration to train with; what is returned is stored with the model."""
        return configuration

    def build_network(self) -> nn.Module:
        """Return the network [b, channels, *patch] -> logits [b, classes, *patch] (or a list, finest first)."""
        network = build_network(self.configuration.network)
        if self.config.checkpointing:
            network.checkpointing = True  # type: ignore[assignment]
        return network

    def build_loss(self) -> nn.Module:
        """Return the loss of (logits [b, classes, *patch], int64 labels [b, *patch]) for one output.

        A loss that is none of ours is told of regions and ignored voxels in its own way (`foreign_loss.ForeignLoss`).
        """
        settings, regions = self.config.loss, self.task.labels.region_classes
        ignore = None if self.task.labels.ignore is None else IGNORED
        if settings.name == "focal_dice":
            return FocalDiceLoss(
                variant=settings.variant,
                focal_weight=settings.focal_weight,
                dice_weight=settings.dice_weight,
                gamma=settings.gamma,
                ignore_label=ignore,
                regions=regions,
            )
        return DiceCrossEntropyLoss(
            batch_dice=self.configuration.batch_dice,
            smooth=settings.smooth,
            ignore_label=ignore,
            cross_entropy_weight=0.0 if settings.name == "dice" else settings.cross_entropy_weight,
            dice_weight=settings.dice_weight if "dice" in settings.name else 0.0,
            label_smoothing=settings.label_smoothing,
            hardest_percent=settings.hardest_percent if "topk" in settings.name else None,
            regions=regions,
        )

    def build_augmentation(self) -> Sequence[Any]:
        """Return the intensity transforms: ours, or any of batchgenerators' (they are seeded per sample)."""
        return intensity_transforms(self.config.augmentation)

    def build_sampler(self, index: ForegroundIndex) -> PatchSampler:
        """Return what decides which case and place each training sample shows."""
        return PatchSampler(
            index,
            self.task.training_cases,
            self.configuration.patch_size,
            self.config.foreground_fraction,
            self.config.seed,
            self.task.fold,
            self._class_weights(),
            end_of_batch=self.config.oversampling == "end_of_batch",
        )

    def _class_weights(self) -> dict[int, float] | None:
        scheme = self.task.labels
        plain = sorted(scheme.foreground, key=scheme.foreground.__getitem__)
        labels = ["background", *(scheme.regions or plain)]
        members = scheme.region_classes or [(number,) for number in range(1, len(labels))]
        if self.config.class_sampling != "inverse_frequency":
            return class_weights(self.config.class_sampling, labels, {})
        records = [self.task.store.read_record(case) for case in self.task.training_cases]
        counts = {
            number: sum(record.label_voxels.get(str(value), 0) for record in records for value in of_label)
            for number, of_label in enumerate(members, start=1)
        }
        return class_weights(self.config.class_sampling, labels, counts)

    def build_optimizer(self, network: nn.Module) -> torch.optim.Optimizer:
        """Return the optimizer of the network's parameters."""
        return optimizer(network, self.config, self.numerics)

    def build_scheduler(self) -> Callable[[float], float]:
        """Return the factor on the learning rate as a function of the epoch (a fraction within it)."""
        return schedule(self.config)

    def training_step(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Return the loss of one batch under `loss`, and any other scalar to log."""
        return self._measure_loss(self.network(images), labels)

    def validation_step(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Return `loss` and `confusion` [classes, classes] (reference, prediction; voxels) of one patch."""
        classes = len(self.task.labels.stored_values)
        logits = self.network(images)
        predicted = predicted_classes(logits[0] if isinstance(logits, list) else logits, self.task.labels)
        return {**self._measure_loss(logits, labels), "confusion": confusion_matrix(predicted, labels, classes)}

    def score(self, confusion: Tensor) -> dict[str, float | None]:
        """Return the Dice of each label or region and group over all validation patches (None where undefined)."""
        values = list(self.task.labels.stored_values)
        return {
            name: dice(confusion, [values.index(value) for value in members])
            for name, members in self.task.labels.reported.items()
        }

    def on_epoch_end(self, epoch: int, entry: Mapping[str, Any]) -> None:
        """Called after each epoch with its log entry; for trackers."""

    def _measure_loss(self, outputs: Any, labels: Tensor) -> dict[str, Tensor]:
        listed = list(outputs) if isinstance(outputs, list | tuple) else [outputs]
        return self.loss.measure(listed, labels)
