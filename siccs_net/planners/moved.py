"""A plan moved from one dataset to another: patch, network and spacing stay, so that weights fit."""

from __future__ import annotations

from siccs_net.errors import UsageError
from siccs_net.io.dataset import Dataset
from siccs_net.planners import rules
from siccs_net.planners.drafts import DatasetShape
from siccs_net.records.plan import Configuration, Plan


def moved_plan(source: Plan, dataset: Dataset, shape: DatasetShape, *, folds: int, name: str | None) -> Plan:
    """Return `source` for another dataset: everything kept but names, folds and the median shapes (for information).

    Its provenance says where it came from. Raises UsageError when the datasets differ in the number of channels or
    labels, or the plan is for CT and a channel of the dataset is not called CT.
    """
    for label, configuration in source.configurations.items():
        _check_fits(label, configuration, source, dataset)
    configurations = {label: _measured_anew(item, shape) for label, item in source.configurations.items()}
    return source.model_copy(
        update={
            "name": name or source.name,
            "dataset_name": dataset.name,
            "folds": folds,
            "configurations": configurations,
            "measured": {},
            "provenance": {**source.provenance, "plan": f"moved:{source.dataset_name}/{source.name}"},
        }
    )


def _check_fits(label: str, configuration: Configuration, source: Plan, dataset: Dataset) -> None:
    where = f"plan {source.name!r} of {source.dataset_name} does not fit {dataset.name}: its {label}"
    channels, labels = dataset.description.channels, dataset.labels.outputs
    if configuration.channels != channels:
        raise UsageError(f"{where} takes other channels", found=channels, expected=configuration.channels)
    if configuration.network.classes != labels:
        raise UsageError(f"{where} has other labels", found=labels, expected=configuration.network.classes)
    stages = len(dataset.labels.stage_values)
    if configuration.previous_stage is not None and configuration.stage_channels != stages:
        raise UsageError(f"{where} has other labels", found=stages, expected=configuration.stage_channels)
    names = [dataset.description.channel_names[str(number)] for number in range(channels)]
    schemes = [item.scheme for item in configuration.normalisation]
    windowed = any(step.step in ("crop_body", "clahe") for step in configuration.steps)
    for number, (scheme, channel) in enumerate(zip(schemes, names, strict=True)):
        if (scheme == "ct" or (windowed and number == 0)) and channel.strip().lower() != "ct":
            raise UsageError(f"{where} is for CT in channel {number}", found=channel)


def _measured_anew(configuration: Configuration, shape: DatasetShape) -> Configuration:
    """Fill in the median shape of the new dataset's cases; a resize makes all of one shape."""
    if any(step.step == "resize" for step in configuration.steps):
        return configuration
    order = configuration.orient.transpose
    native = [rules.median_native_length(shape, axis) for axis in order]
    wanted = configuration.spacing_mm
    target = [1.0, 1.0, 1.0]
    for place, axis in enumerate(order):
        target[axis] = wanted[place] or 1.0
    resampled = rules.transposed(rules.median_resampled_shape(shape, (target[0], target[1], target[2])), order)
    z, y, x = (
        length if spacing is None else size for length, spacing, size in zip(native, wanted, resampled, strict=True)
    )
    return configuration.model_copy(update={"median_shape": (z, y, x), "memory": None})
