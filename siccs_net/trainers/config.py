"""Settings of a training and how they are resolved: trainer's defaults < plan.training < --set."""

from __future__ import annotations

import copy
import difflib
import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

from pydantic import Field, ValidationError

from siccs_net.augment.settings import AugmentationSettings
from siccs_net.augment.spatial import resolve_rotation
from siccs_net.errors import UsageError
from siccs_net.records.base import Record, explain
from siccs_net.records.plan import Configuration, Plan
from siccs_net.records.settings import parse_set

LEAST_WARMUP = 0.02
LossName = Literal["dice_cross_entropy", "cross_entropy", "dice", "topk", "dice_topk", "focal_dice"]


class LossSettings(Record):
    """`focal_dice` is the paper's (variant `paper` or `monai`); the others are nnU-Net's.

    `topk` is the cross-entropy of the `hardest_percent` of all voxels. `variant`, `focal_weight` and `gamma` are
    `focal_dice`'s alone; `smooth`, `cross_entropy_weight`, `label_smoothing` and `hardest_percent` the others'.
    """

    name: LossName = "dice_cross_entropy"
    variant: Literal["paper", "monai"] = "paper"
    focal_weight: float = Field(default=1.0, ge=0)
    dice_weight: float = Field(default=1.0, ge=0)
    gamma: float = Field(default=2.0, ge=0)
    cross_entropy_weight: float = Field(default=1.0, ge=0)
    smooth: float = Field(default=1e-5, ge=0)
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    hardest_percent: float = Field(default=10.0, gt=0, le=100)


class TrainerConfig(Record):
    """Every number of a training. All can be set with `--set name=value`, nested ones with a dot.

    `iterations_per_epoch`, `batch_size` and `mirror_axes` default to the plan's. Warm-up is linear over
    `warmup_epochs`; then the learning rate falls along a cosine to 0, per iteration or per epoch. With
    `gradient_accumulation` a batch passes the network in that many parts, with `checkpointing` a level's activations
    are computed again in the backward pass: both take less memory for the same update. (A Dice that is summed over the
    batch, `batch_dice` in the plan, is then summed over each part.)

    `optimizer` sgd uses `momentum` and `nesterov`, the Adams `adam_epsilon` and `amsgrad`; `decay_everything` lets the
    weight decay act on biases and norms too. `schedule` poly falls per epoch as (1 - epoch / epochs) ^ `poly_exponent`.
    With `oversampling` random, each sample is centred on foreground with the chance `foreground_fraction`; with
    end_of_batch that share of each batch, its last samples, is. `class_sampling` says how often each class is the
    centre: `uniform`, `inverse_frequency` (of its voxels in the training cases) or weights by label. `ema_decay`
    averages the weights over the steps; the average is validated and becomes the model. `deep_supervision` defaults to
    the plan's. `compile` uses torch.compile; `auto` does on CUDA where a compiler exists.

    With `budget_minutes` a training ends after so much time, not after `epochs`; those then only say into how many
    parts of the time the schedule is divided, so that it is complete at the end however fast the machine is. A warm-up
    then takes a fiftieth of the time at least.
    """

    epochs: int = Field(default=200, ge=1)
    budget_minutes: float | None = Field(default=None, gt=0)
    iterations_per_epoch: int | None = Field(default=None, ge=1)
    batch_size: int | None = Field(default=None, ge=1)
    optimizer: Literal["adamw", "adam", "sgd"] = "adamw"
    learning_rate: float = Field(default=4e-3, gt=0)
    momentum: float = Field(default=0.99, ge=0, lt=1)
    nesterov: bool = True
    weight_decay: float = Field(default=1e-2, ge=0)
    decay_everything: bool = False
    adam_epsilon: float | None = Field(default=None, gt=0)
    amsgrad: bool = True
    warmup_epochs: float = Field(default=1.0, ge=0)
    schedule: Literal["cosine_per_iteration", "cosine_per_epoch", "poly", "constant"] = "cosine_per_iteration"
    poly_exponent: float = Field(default=0.9, gt=0)
    gradient_clip: float | None = Field(default=1.0, gt=0)
    loss: LossSettings = Field(default_factory=LossSettings)
    deep_supervision: bool | None = None
    foreground_fraction: float = Field(default=0.5, ge=0, le=1)
    oversampling: Literal["random", "end_of_batch"] = "random"
    class_sampling: Literal["uniform", "inverse_frequency"] | dict[str, float] = "uniform"
    ema_decay: float | None = Field(default=None, gt=0, lt=1)
    mirror_axes: tuple[Literal["S-I", "A-P", "L-R"], ...] | None = None
    augmentation: AugmentationSettings = Field(default_factory=AugmentationSettings)
    validation_patches: int = Field(default=16, ge=1)
    validate_every: int = Field(default=1, ge=1)
    seed: int = Field(default=0, ge=0)
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    deterministic: bool = False
    checkpointing: bool = False
    compile: Literal["auto", "on", "off"] = "auto"
    gradient_accumulation: int = Field(default=1, ge=1)
    workers: int | None = Field(default=None, ge=0)


def resolve_config(
    kind: type[TrainerConfig], defaults: Mapping[str, Any], plan: Plan, overrides: Sequence[str] | Mapping[str, Any]
) -> TrainerConfig:
    """Return the resolved settings of a training.

    `overrides` is a mapping, or `name=value` texts as after `--set` (values in JSON; bare words are text). Raises
    UsageError for an unknown name, with the nearest right one, or a value that does not fit.
    """
    values: dict[str, Any] = {}
    for source, settings in (("the trainer", defaults), ("the plan", plan.training), ("--set", parse_set(overrides))):
        for name, value in settings.items():
            _assign(values, name, value, kind, source)
    try:
        return kind.model_validate_json(json.dumps(values))
    except ValidationError as error:
        raise UsageError("a training setting does not fit", found=explain(error)) from error


def _assign(values: dict[str, Any], name: str, value: Any, kind: type[TrainerConfig], source: str) -> None:
    """Put a value at a dotted name, checking each part of the name against the settings."""
    first, _, rest = name.partition(".")
    fields = kind.model_fields
    if first not in fields:
        raise UsageError(f"no training setting called {name!r} (from {source})", hint=_nearest(first, list(fields)))
    if not rest and not (isinstance(value, Mapping) and isinstance(values.get(first), dict)):
        values[first] = copy.deepcopy(value)
        return
    inner = values.setdefault(first, {})
    known = _nested_fields(fields[first].annotation)
    for key, item in {rest: value}.items() if rest else dict(value).items():
        if key not in known:
            raise UsageError(f"no training setting called {first}.{key} (from {source})", hint=_nearest(key, known))
        inner[key] = item


def inherit_defaults(parent: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Return a trainer's defaults over its parent's; nested settings are merged name by name."""
    merged: dict[str, Any] = copy.deepcopy(dict(parent))
    for name, value in own.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(name), Mapping)
        merged[name] = {**merged[name], **value} if both else copy.deepcopy(value)
    return merged


def _nested_fields(annotation: Any) -> list[str]:
    kinds = [annotation, *get_args(annotation)]
    return [name for kind in kinds if isinstance(kind, type) and issubclass(kind, Record) for name in kind.model_fields]


def _nearest(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"Did you mean {near[0]}?" if near else f"There are: {', '.join(known)}" if known else "It has no parts"


def complete(config: TrainerConfig, configuration: Configuration, devices: int = 1) -> TrainerConfig:
    """Fill the settings that default to the plan's or follow from the patch.

    Raises UsageError for a batch that cannot be divided as asked, into parts or over devices, and for a deterministic
    training with a budget of time.
    """
    own = {
        "deep_supervision": configuration.network.deep_supervision,
        "iterations_per_epoch": configuration.iterations_per_epoch,
        "batch_size": configuration.batch_size,
        "mirror_axes": configuration.inference.mirror_axes,
    }
    whole = config.model_copy(update={name: value for name, value in own.items() if getattr(config, name) is None})
    if whole.budget_minutes is not None:
        if whole.deterministic:
            raise UsageError(
                "a deterministic training does not end by the clock", hint="Leave out --budget, and give it epochs"
            )
        warmup = max(whole.warmup_epochs, LEAST_WARMUP * whole.epochs) if whole.warmup_epochs else 0.0
        whole = whole.model_copy(update={"warmup_epochs": warmup})
    rotation = resolve_rotation(whole.augmentation, configuration.patch_size)
    whole = whole.model_copy(update={"augmentation": rotation})
    parts, batch = whole.gradient_accumulation, whole.batch_size or 1
    if batch % devices:
        raise UsageError(
            "the batch must be divided evenly over the devices",
            found=f"{devices} devices, batch_size={batch}",
            hint=f"Use fewer devices, or such as --set batch_size={-(-batch // devices) * devices}",
        )
    if batch // devices % parts:
        raise UsageError(
            "gradient_accumulation must divide the batch into equal parts",
            found=f"gradient_accumulation={parts}, batch_size={batch}"
            + (f", {devices} devices" if devices > 1 else ""),
            hint=f"Set both, such as --set batch_size={parts * devices} gradient_accumulation={parts}",
        )
    return whole
