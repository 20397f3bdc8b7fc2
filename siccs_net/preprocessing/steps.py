"""The steps of preprocessing: each takes and returns a case in plan axes (`State`)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from siccs_net.errors import DataError, UnavailableError
from siccs_net.geometry import Orientation
from siccs_net.preprocessing.clahe import clahe
from siccs_net.preprocessing.crop import body_box, crop
from siccs_net.preprocessing.nnunet_steps import nonzero_box, normalise, ordered_spacing, to_order
from siccs_net.preprocessing.resample import decide_separate_axis, resample_image, resampled_shape
from siccs_net.preprocessing.resample_labels import resample_labels
from siccs_net.records.case import Box, Triple
from siccs_net.records.plan import (
    AsStored,
    Clahe,
    CropBody,
    CropNonzero,
    Normalise,
    Orient,
    Resample,
    Resize,
    Step,
)

MOST_VOXELS = 2**31
"""A resampled scan larger than this is refused before it is made: 8 GiB a channel in floating point."""


@dataclass(frozen=True)
class State:
    """A case between two steps: arrays in plan axes and where they come from."""

    image: NDArray[Any]
    label: NDArray[np.uint8] | None
    spacing_mm: tuple[float, float, float]
    transpose: Triple = (0, 1, 2)
    oriented_shape: Triple = (0, 0, 0)
    crop_box: Box = ((0, 0), (0, 0), (0, 0))
    order: Literal["canonical", "file", "RAS+"] = "canonical"
    scan_spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0)


def apply_step(step: Step, state: State, dtype: str = "float32") -> State:
    """Return the case after a step; resampling writes `dtype`.

    Raises DataError where resampling would make too many voxels, UnavailableError for a step of a newer version.
    """
    match step:
        case Orient() | AsStored():
            return _transposed(step.transpose, state)
        case CropBody():
            return _crop_body(step, state)
        case CropNonzero():
            return _cropped(nonzero_box(state.image), state)
        case Normalise():
            return replace(state, image=normalise(state.image, step))
        case Resample():
            return _resample(step, state, dtype)
        case Resize():
            return _resize(step, state)
        case Clahe():
            return _clahe(step, state)
    raise UnavailableError(f"the preprocessing step {step!r} is not known to this version")


def as_stored(step: AsStored, state: State, orientation: Orientation) -> State:
    """Give a canonical case the order of voxels that the plan asks for, before its steps."""
    label = None if state.label is None else to_order(state.label, orientation, step.order)
    spacing = ordered_spacing(orientation, step.order)
    return replace(
        state, image=to_order(state.image, orientation, step.order), label=label, spacing_mm=spacing, order=step.order
    )


def _transposed(axes: Triple, state: State) -> State:
    image = state.image.transpose(0, *(axis + 1 for axis in axes))
    shape = (image.shape[1], image.shape[2], image.shape[3])
    spacing = (state.spacing_mm[axes[0]], state.spacing_mm[axes[1]], state.spacing_mm[axes[2]])
    label = None if state.label is None else state.label.transpose(axes)
    whole = ((0, shape[0]), (0, shape[1]), (0, shape[2]))
    return State(image, label, spacing, axes, shape, whole, state.order, spacing)


def _crop_body(step: CropBody, state: State) -> State:
    box = body_box(state.image[0], state.spacing_mm, threshold_hu=step.threshold_hu, margin_mm=step.margin_mm)
    return _cropped(box, state)


def _cropped(box: Box, state: State) -> State:
    label = None if state.label is None else crop(state.label, box)
    return replace(state, image=crop(state.image, box), label=label, crop_box=box)


def _resample(step: Resample, state: State, dtype: str) -> State:
    target = known_spacing(step.spacing_mm, state.spacing_mm)
    shape = resampled_shape(state.image.shape[1:], state.spacing_mm, target)
    _check_size(state.image.shape[1:], shape)
    separate = None
    if step.separate_above is not None:
        separate = decide_separate_axis(state.spacing_mm, target, threshold=step.separate_above)
    image = resample_image(
        state.image, shape, order=step.order, separate_axis=separate, antialias=step.antialias, dtype=dtype
    )
    label = None if state.label is None else resample_labels(state.label, shape, separate_axis=separate)
    return replace(state, image=image, label=label, spacing_mm=target)


def _check_size(before: Sequence[int], after: Sequence[int]) -> None:
    if math.prod(after) > MOST_VOXELS:
        raise DataError(
            "resampling would make too many voxels",
            found=f"shape {tuple(before)} to {tuple(after)}, {math.prod(after)} voxels",
            expected=f"at most {MOST_VOXELS}",
            hint="Check the spacing in the file's header",
        )


def known_spacing(wanted: Sequence[float | None], own: Sequence[float]) -> tuple[float, float, float]:
    """Return the spacing [z, y, x] in mm to resample to: a scan's own where none is wanted."""
    z, y, x = (have if want is None else want for want, have in zip(wanted, own, strict=True))
    return z, y, x


def _resize(step: Resize, state: State) -> State:
    _check_size(state.image.shape[1:], step.shape)
    image = resample_image(state.image, step.shape, order="area" if step.mode == "area" else 1)
    label = None if state.label is None else resample_labels(state.label, step.shape)
    old = zip(state.spacing_mm, state.image.shape[1:], step.shape, strict=True)
    z, y, x = (spacing * before / after for spacing, before, after in old)
    return replace(state, image=image, label=label, spacing_mm=(z, y, x))


def _clahe(step: Clahe, state: State) -> State:
    equalised = [
        clahe(
            _window(channel, step.window_hu),
            kernel_divisor=step.kernel_divisor,
            clip_limit=step.clip_limit,
            bins=step.bins,
        )
        for channel in state.image
    ]
    return replace(state, image=np.stack(equalised))


def _window(channel: NDArray[Any], window_hu: tuple[float, float]) -> NDArray[np.float32]:
    lower, upper = window_hu
    windowed = channel.astype(np.float32)
    windowed -= lower
    windowed /= upper - lower
    return np.clip(windowed, 0, 1, out=windowed)
