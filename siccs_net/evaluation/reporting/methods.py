"""A methods section in sentences, made of what a model stores; and every setting that the paper does not give."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from siccs_net.records.checkpoint import FinalRecord
from siccs_net.records.plan import (
    AsStored,
    Clahe,
    CropBody,
    CropNonzero,
    Normalise,
    Orient,
    Plan,
    Resample,
    Resize,
    Step,
)

_ORDERS = {0: "nearest neighbour", 1: "linear", 3: "cubic"}
_SCHEMES = {
    "ct": "clipped to percentiles of the fold's training cases and z-scored with their mean and standard deviation",
    "zscore": "z-scored with the mean and standard deviation of the fold's training cases",
    "zscore_image": "z-scored with each image's own mean and standard deviation",
    "rescale_to_0_1": "rescaled to 0..1",
    "none": "not normalised",
}
_SCHEDULES = {
    "cosine_per_epoch": "a cosine to 0, epoch by epoch",
    "cosine_per_iteration": "a cosine to 0, iteration by iteration",
    "constant": "a constant learning rate",
}


@dataclass(frozen=True)
class MethodsSource:
    """What the sentences are made of: the plan, one fold's record (the folds share it), and counts of the data.

    `folds` are those of the cases, of as many as the plan has; `own_folds` says that the dataset brought its folds,
    `patients_known` that it names its patients.
    """

    plan: Plan
    configuration_name: str
    record: FinalRecord
    cases: int
    folds: int
    own_folds: bool
    patients_known: bool
    training_cases: tuple[int, int]
    slice_thickness_mm: tuple[float, float]
    version: str


def methods_paragraphs(source: MethodsSource) -> tuple[str, ...]:
    """Return the methods as paragraphs: data, preprocessing, network, training, evaluation and statistics."""
    return (_data(source), _preprocessing(source), _network(source), _training(source), _evaluation(source))


def assumed_settings(source: MethodsSource) -> dict[str, str]:
    """Return each setting that is marked `assumed` in the plan, by its dotted path, with its value as text."""
    document = {
        "configurations": {source.configuration_name: _readable(source.record.configuration.model_dump(mode="json"))},
        "training": source.record.config,
        "folds": source.plan.folds,
    }
    paths = [path for path, origin in sorted(source.plan.provenance.items()) if origin == "assumed"]
    return {path: _value_text(document, path) for path in paths if _concerns(path, source.configuration_name)}


def _data(source: MethodsSource) -> str:
    fewest, most = source.training_cases
    low, high = source.slice_thickness_mm
    split = f"{most}" if fewest == most else f"{fewest} to {most}"
    return (
        f"{source.cases} scans with slices of {low:g} to {high:g} mm were segmented by siccs_net "
        f"{source.version} (plan {source.plan.name!r}, preset {source.plan.preset or 'none'}). Models were trained and "
        f"evaluated by {source.plan.folds}-fold cross-validation{_so_far(source)}, each fold trained on {split} scans. "
        f"{_folds(source)} All figures are of out-of-fold predictions."
    )


def _so_far(source: MethodsSource) -> str:
    return "" if source.folds == source.plan.folds else f", of which {source.folds} are finished"


def _folds(source: MethodsSource) -> str:
    if source.own_folds:
        return "The folds are those that came with the dataset (splits_final.json)."
    if source.patients_known:
        return "Folds were grouped by patient and stratified by lesion volume."
    return (
        "Folds were stratified by lesion volume; no patients are named, so each scan counted as a patient of its own."
    )


def _preprocessing(source: MethodsSource) -> str:
    configuration = source.record.configuration
    steps = "; then ".join(_describe_step(step) for step in configuration.steps)
    normalised = " and ".join(_SCHEMES[item.scheme] for item in configuration.normalisation)
    return f"Each scan was {steps}. Intensities were then {normalised}."


def _describe_step(step: Step) -> str:
    match step:
        case Orient():
            return "brought to the canonical orientation"
        case AsStored():
            return "taken in the order of voxels of its file"
        case CropNonzero():
            return "cropped to its voxels that are not 0"
        case Normalise():
            schemes = " and ".join(channel.scheme for channel in step.channels)
            return f"normalised ({schemes}, with the numbers of the imported plan)"
        case CropBody():
            return (
                f"cropped to the body (largest component above {step.threshold_hu:g} HU, {step.margin_mm:g} mm margin)"
            )
        case Resample():
            size = " × ".join("its own" if value is None else f"{value:g}" for value in step.spacing_mm)
            return f"resampled to {size} mm ({_ORDERS[step.order]} interpolation)"
        case Resize():
            return f"resized to {' × '.join(map(str, step.shape))} voxels (z, y, x; {step.mode} interpolation)"
        case Clahe():
            low, high = step.window_hu
            return (
                f"windowed to {low:g} to {high:g} HU and equalised by three-dimensional CLAHE (kernel of one "
                f"{step.kernel_divisor}th of the shape, clip limit {step.clip_limit:g}, {step.bins} bins)"
            )


def _network(source: MethodsSource) -> str:
    configuration = source.record.configuration
    spec = configuration.network
    memory = configuration.memory
    million = "" if memory is None else f" and {memory.parameters / 1e6:.2f} million parameters"
    return (
        f"The network was a {spec.architecture} with {len(spec.widths)} resolutions, "
        f"{'-'.join(map(str, spec.blocks_encoder))} blocks in the encoder and "
        f"{'-'.join(map(str, spec.blocks_decoder))} in the decoder, "
        f"widths {', '.join(map(str, spec.widths))}{million}, "
        f"working on {' × '.join(map(str, configuration.patch_size))} voxels (z, y, x)."
    )


def _training(source: MethodsSource) -> str:
    config = source.record.config
    loss = config["loss"]
    optimizer = "AdamW with AMSGrad" if config["amsgrad"] else "AdamW"
    iterations = config["iterations_per_epoch"] or source.record.configuration.iterations_per_epoch
    minutes = config.get("budget_minutes")
    length = f"{minutes:g} minutes" if minutes else f"{source.record.epochs} epochs of {iterations} iterations"
    return (
        f"Each fold was trained by {source.record.trainer} for {length}, batch size "
        f"{config['batch_size'] or source.record.configuration.batch_size}, with {optimizer} (learning rate "
        f"{config['learning_rate']:g}, weight decay {config['weight_decay']:g}), {_SCHEDULES[config['schedule']]}, and "
        f"the loss {_describe_loss(loss)}. Augmentations: {_describe_augmentation(config['augmentation'])}. "
        f"Numerics: {source.record.numerics.precision} on {source.record.numerics.device}. "
        "The last epoch's weights are the model; no epoch was chosen by validation."
    )


def _describe_loss(loss: Mapping[str, Any]) -> str:
    if loss["name"] != "focal_dice":
        return str(loss["name"])
    return (
        f"{loss['focal_weight']:g} × focal + {loss['dice_weight']:g} × Dice (gamma {loss['gamma']:g}, "
        f"variant {loss['variant']})"
    )


def _describe_augmentation(settings: Mapping[str, Any]) -> str:
    names = [name.removesuffix("_probability") for name in settings if name.endswith("_probability")]
    used = [
        f"{name} (p = {settings[f'{name}_probability']:g})" for name in names if settings[f"{name}_probability"] > 0
    ]
    return ", ".join(used) or "none"


def _evaluation(source: MethodsSource) -> str:
    return (
        "Predictions were brought back to each scan's native grid before Dice and volumes were measured. A lesion's "
        "volume in percent is its share of the lung (normal lung, established fibrosis and ground-glass opacity) in "
        "the same mask. Means and standard errors run over scans. Associations are Spearman's rho with a 95 % "
        "bias-corrected and accelerated bootstrap interval; agreement is Bland-Altman's limits and ICC(2,1); subgroups "
        "are compared by Mann-Whitney's U with the rank-biserial correlation as effect size."
    )


def _readable(configuration: dict[str, Any]) -> dict[str, Any]:
    """Return the configuration with its steps by name, as provenance paths name them."""
    steps = {step.pop("step"): step for step in configuration["steps"]}
    return {**configuration, "steps": {**steps, "order": " → ".join(steps)}}


def _concerns(path: str, configuration: str) -> bool:
    return not path.startswith("configurations.") or path.startswith(f"configurations.{configuration}")


def _value_text(document: Mapping[str, Any], path: str) -> str:
    """Return the value at a path; of a path that ends below a value (`training.loss.weights`) the value above it."""
    value: Any = document
    for part in path.split("."):
        if isinstance(value, list) and len(value) == 1:
            value = value[0]
        if not isinstance(value, Mapping) or part not in value:
            break
        value = value[part]
    return _text(value)


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_text(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_text, value))}]"
    return f"{value:g}" if isinstance(value, float) else str(value)
