"""The preprocessing steps that imported nnU-Net plans have and ours do not: stored order, nonzero crop, normalising.

What each does follows nnU-Net 2.8.1: crop and normalisation run before resampling, on float32.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from siccs_net.errors import DataError
from siccs_net.geometry import Orientation
from siccs_net.records.case import Box
from siccs_net.records.plan import ChannelIntensities, Normalise

_SMALLEST_STD = 1e-8


def to_order(canonical: NDArray[Any], orientation: Orientation, order: str) -> NDArray[Any]:
    """Return a canonical array [z, y, x] or [c, z, y, x] in another order of voxels; a view where it can be.

    "file" is the file's own [k, j, i], "RAS+" has y and x turned round; "canonical" changes nothing.
    """
    if order == "canonical":
        return canonical
    if order == "RAS+":
        return canonical[..., ::-1, ::-1]
    if canonical.ndim == 3:
        return orientation.to_native(canonical).transpose(2, 1, 0)
    return np.stack([to_order(channel, orientation, order) for channel in canonical])


def from_order(array: NDArray[Any], orientation: Orientation, order: str) -> NDArray[Any]:
    """Undo `to_order`; a view, unless an array [c, ...] goes back from the file's order."""
    if order == "canonical":
        return array
    if order == "RAS+":
        return array[..., ::-1, ::-1]
    if array.ndim == 3:
        return orientation.to_canonical(array.transpose(2, 1, 0))
    return np.stack([from_order(channel, orientation, order) for channel in array])


def ordered_spacing(orientation: Orientation, order: str) -> tuple[float, float, float]:
    """Return the spacing in mm along the axes of `to_order`'s array."""
    z, y, x = orientation.grid.spacing_mm
    if order != "file":
        return z, y, x
    spacing = [0.0, 0.0, 0.0]
    for axis, size in zip(orientation.axes, (x, y, z), strict=True):
        spacing[axis] = size
    return spacing[2], spacing[1], spacing[0]


def nonzero_box(image: NDArray[Any]) -> Box:
    """Return the box of the voxels of [c, z, y, x] that are not 0 in some channel; all of it where there are none.

    nnU-Net fills the holes of that mask first, which changes no box.
    """
    mask = image[0] != 0
    for channel in image[1:]:
        mask |= channel != 0
    if not mask.any():
        z, y, x = mask.shape
        return (0, z), (0, y), (0, x)
    spans = [np.flatnonzero(mask.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)]
    z, y, x = ((int(span[0]), int(span[-1]) + 1) for span in spans)
    return z, y, x


def normalise(image: NDArray[Any], step: Normalise) -> NDArray[np.float32]:
    """Return an image [c, z, y, x] normalised channel by channel, as float32.

    Raises DataError for another number of channels, or values outside 0 to 255 for the scheme rgb_to_0_1.
    """
    if len(image) != len(step.channels):
        raise DataError(
            "the image has another number of channels than the plan", found=len(image), expected=len(step.channels)
        )
    result = image.astype(np.float32)
    inside = _inside(result) if any(channel.nonzero_only for channel in step.channels) else None
    for channel, settings in zip(result, step.channels, strict=True):
        _normalise_channel(channel, settings, inside if settings.nonzero_only else None)
    return result


def _inside(image: NDArray[np.float32]) -> NDArray[np.bool_]:
    from scipy.ndimage import binary_fill_holes

    filled: NDArray[np.bool_] = binary_fill_holes((image != 0).any(axis=0))
    return filled


def _normalise_channel(
    channel: NDArray[np.float32], settings: ChannelIntensities, inside: NDArray[np.bool_] | None
) -> None:
    """Normalise one channel in place."""
    match settings:
        case ChannelIntensities(scheme="ct", lower=float(lower), upper=float(upper), mean=float(mean), std=float(std)):
            np.clip(channel, lower, upper, out=channel)
            _scale(channel, mean, std)
        case ChannelIntensities(scheme="zscore"):
            values = channel if inside is None else channel[inside]
            mean, std = (float(values.mean()), float(values.std())) if values.size else (0.0, 1.0)
            if inside is None:
                _scale(channel, mean, std)
            else:
                _scale(values, mean, std)
                channel[inside] = values
        case ChannelIntensities(scheme="rescale_to_0_1"):
            channel -= channel.min()
            channel /= max(float(channel.max()), _SMALLEST_STD)
        case ChannelIntensities(scheme="rgb_to_0_1"):
            if channel.min() < 0 or channel.max() > 255:
                raise DataError(
                    "not a picture of 8 bits",
                    found=f"values {channel.min():g} to {channel.max():g}",
                    expected="0 to 255",
                )
            channel /= 255


def _scale(values: NDArray[np.float32], mean: float, std: float) -> None:
    values -= np.float32(mean)
    values /= np.float32(max(std, _SMALLEST_STD))
