"""The segmentation of a cascade's first stage on the grid of its second: resampled as labels, shown one-hot."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from siccs_net.errors import DataError
from siccs_net.preprocessing.crop import crop
from siccs_net.preprocessing.resample import decide_separate_axis, resampled_shape
from siccs_net.preprocessing.resample_labels import resample_labels
from siccs_net.records.case import CaseGeometry
from siccs_net.records.dataset import LabelScheme
from siccs_net.records.plan import Configuration, Resample, Resize


def stage_on_grid(
    mask: NDArray[Any], geometry: CaseGeometry, configuration: Configuration, labels: LabelScheme
) -> NDArray[np.uint8]:
    """Return a mask of label values [z, y, x] (canonical grid of its scan) on the scan's prepared grid [*plan axes].

    The values of the result are 0 for background and 1, 2, … for `labels.stage_values` in their order. The mask goes
    the way of a training label: same transpose, crop and resampling. Raises DataError for a mask of another shape,
    or with a value that is no label.
    """
    classes = _stage_classes(mask, labels).transpose(geometry.transpose)
    if classes.shape != geometry.oriented_shape:
        raise DataError(
            "the previous stage's mask is not of this scan", found=classes.shape, expected=geometry.oriented_shape
        )
    array = crop(classes, geometry.crop_box)
    z, y, x = (geometry.canonical_spacing_mm[axis] for axis in geometry.transpose)
    spacing = (z, y, x)
    for step in configuration.steps:
        if isinstance(step, Resample):
            z, y, x = (old if new is None else new for old, new in zip(spacing, step.spacing_mm, strict=True))
            array, spacing = _resample(array, spacing, (z, y, x), step), (z, y, x)
        elif isinstance(step, Resize):
            z, y, x = (mm * old / new for mm, old, new in zip(spacing, array.shape, step.shape, strict=True))
            array, spacing = resample_labels(array, step.shape), (z, y, x)
    if array.shape != geometry.prepared_shape:
        raise DataError(
            "the prepared case was made by other steps", found=array.shape, expected=geometry.prepared_shape
        )
    return np.ascontiguousarray(array)


def one_hot(stage: NDArray[Any], channels: int) -> NDArray[np.float32]:
    """Return a stage's segmentation [*spatial] as one channel a foreground label, float32 [channels, *spatial]."""
    values = np.arange(1, channels + 1, dtype=stage.dtype).reshape(-1, *(1,) * stage.ndim)
    shown: NDArray[np.float32] = (stage[None] == values).astype(np.float32)
    return shown


def _stage_classes(mask: NDArray[Any], labels: LabelScheme) -> NDArray[np.uint8]:
    lookup = np.full(max(labels.values) + 1, -1, dtype=np.int16)
    lookup[0] = 0
    if labels.ignore is not None:
        lookup[labels.ignore] = 0
    for number, value in enumerate(labels.stage_values, start=1):
        lookup[value] = number
    fits = mask.min() >= 0 and mask.max() < len(lookup)
    classes = lookup[mask] if fits else np.array([-1])
    if classes.min() < 0:
        raise DataError(
            "the previous stage's mask holds values that are no label",
            found=sorted(set(np.unique(mask).tolist()) - labels.values),
            expected=sorted(labels.values),
        )
    return classes.astype(np.uint8)


def _resample(
    array: NDArray[Any], spacing: tuple[float, float, float], target: tuple[float, float, float], step: Resample
) -> NDArray[Any]:
    separate = None
    if step.separate_above is not None:
        separate = decide_separate_axis(spacing, target, threshold=step.separate_above)
    return resample_labels(array, resampled_shape(array.shape, spacing, target), separate_axis=separate)
