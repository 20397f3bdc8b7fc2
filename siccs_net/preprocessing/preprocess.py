"""preprocess_case and its inverse, restore_to_native, side by side.

A configuration lists its steps in order; each takes and returns a `_Prepared` in plan axes. Normalisation is not
among them: it is applied when a patch is read, with the numbers of the fold.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from siccs_net.errors import DataError, UnavailableError
from siccs_net.geometry import Orientation
from siccs_net.io.image import Image
from siccs_net.io.store import PreparedCase
from siccs_net.preprocessing.clahe import clahe
from siccs_net.preprocessing.crop import body_box, crop, uncrop
from siccs_net.preprocessing.export import argmax_to_shape, regions_to_shape
from siccs_net.preprocessing.nnunet_steps import from_order, nonzero_box, normalise, ordered_spacing, to_order
from siccs_net.preprocessing.resample import decide_separate_axis, resample_image, resampled_shape
from siccs_net.preprocessing.resample_labels import resample_labels
from siccs_net.preprocessing.statistics import count_levels, measure
from siccs_net.records.case import Box, CaseGeometry, PreparedRecord, Triple
from siccs_net.records.dataset import LabelScheme
from siccs_net.records.plan import (
    AsStored,
    Clahe,
    Configuration,
    CropBody,
    CropNonzero,
    Normalise,
    Orient,
    Resample,
    Resize,
    Step,
)
from siccs_net.records.statistics import ChannelStatistics

IGNORED = 255
"""Stored class of voxels with the ignore label."""
MOST_VOXELS = 2**31
"""A resampled scan larger than this is refused before it is made: 8 GiB a channel in floating point."""
_RECIPE_VERSION = 1


@dataclass(frozen=True)
class _Prepared:
    """A case between two steps: arrays in plan axes and where they come from."""

    image: NDArray[Any]
    label: NDArray[np.uint8] | None
    spacing_mm: tuple[float, float, float]
    transpose: Triple = (0, 1, 2)
    oriented_shape: Triple = (0, 0, 0)
    crop_box: Box = ((0, 0), (0, 0), (0, 0))
    order: Literal["canonical", "file", "RAS+"] = "canonical"
    scan_spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0)


def preprocess_case(
    image: Image, label: Image | None, configuration: Configuration, labels: LabelScheme, *, case: str
) -> PreparedCase:
    """Run a configuration's steps on one scan [c, z, y, x] and, in training, its label map.

    Returns the image in the configuration's storage type and the label as classes (0 is the background, 255 the
    ignore label), both in plan axes, with the sidecar record (hashes of the arrays are filled in by the store).
    Raises DataError for a scan with another number of channels than the plan has.
    """
    _check_channels(image, configuration, case)
    state = _Prepared(image.array, None if label is None else to_classes(label.array[0], labels), image.grid.spacing_mm)
    if isinstance(configuration.orient, AsStored):
        state = _as_stored(configuration.orient, state, image.orientation)
    for number, step in enumerate(configuration.steps, start=1):
        # The last step's result is stored as it is: resampling then writes that type, and no float32 volume is made.
        state = _apply(step, state, configuration.storage if number == len(configuration.steps) else "float32")
    stored = to_storage(state.image, configuration.storage)
    return PreparedCase(stored, state.label, _record(case, image, label, state, stored, configuration, labels))


def restore_to_native(
    slabs: Iterator[tuple[int, NDArray[np.float32]]],
    geometry: CaseGeometry,
    labels: LabelScheme,
    orientation: Orientation,
) -> NDArray[Any]:
    """Undo `preprocess_case` for logits: return the label map [z, y, x] on the scan's canonical grid.

    `slabs` yields (start, logits [classes or regions, d, *in-plane]) along plan axis 0, in order and without gaps.
    They are interpolated linearly to the cropped grid and reduced plane by plane to the largest class, or to the last
    region with a positive logit, so the logits are never held at native size. Voxels outside the crop are background.
    """
    cropped_shape, separate = tuple(end - start for start, end in geometry.crop_box), geometry.export_separate_axis
    reduce = regions_to_shape if labels.regions else argmax_to_shape
    classes = reduce(slabs, geometry.prepared_shape, labels.outputs, cropped_shape, separate_axis=separate)
    values = _label_values(classes, labels.class_values)
    whole = uncrop(values, geometry.crop_box, geometry.oriented_shape, 0)
    canonical = from_order(whole.transpose(np.argsort(geometry.transpose)), orientation, geometry.order)
    if canonical.shape != orientation.grid.shape:
        raise DataError(
            "the prepared case is not of this scan", found=str(canonical.shape), expected=str(orientation.grid.shape)
        )
    return canonical


def recipe_sha256(configuration: Configuration, labels: LabelScheme) -> str:
    """Return the hash of everything that decides a prepared case besides its files."""
    recipe = {
        "version": _RECIPE_VERSION,
        "steps": [step.model_dump(mode="json") for step in configuration.steps],
        "storage": configuration.storage,
        "dimension": configuration.dimension,
        "classes": labels.stored_values,
        "ignore": labels.ignore,
    }
    return hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()


def peak_bytes(shape: Triple, cropped: Triple, spacing_mm: Sequence[float], configuration: Configuration) -> int:
    """Return the memory that preparing a scan takes at most, from its shape, its body's and its spacing (z, y, x).

    The file's voxels are counted with 4 bytes, as are those of its label map; the prepared ones as they are resampled
    (4 bytes, twice those stored) with their label and the compressed copy.
    """
    prepared = cropped if any(isinstance(step, CropBody) for step in configuration.steps) else shape
    spacing: Sequence[float] = spacing_mm
    for step in configuration.steps:
        match step:
            case Orient() | AsStored():
                prepared = (prepared[step.transpose[0]], prepared[step.transpose[1]], prepared[step.transpose[2]])
                spacing = [spacing[axis] for axis in step.transpose]
            case Resample():
                target = _spacing(step.spacing_mm, spacing)
                prepared, spacing = resampled_shape(prepared, spacing, target), target
            case Resize():
                prepared = step.shape
    channels = configuration.channels
    return math.prod(shape) * 4 * (channels + 1) + math.prod(prepared) * (8 * channels + 2)


def to_classes(label: NDArray[Any], labels: LabelScheme) -> NDArray[np.uint8]:
    """Return label values [z, y, x] as class indices.

    Regions stay what they are made of: a loss looks at them. Raises DataError for a value that dataset.json does not
    name.
    """
    lookup, named = np.zeros(max(labels.values) + 1, np.uint8), np.zeros(max(labels.values) + 1, np.bool_)
    lookup[list(labels.stored_values)] = range(len(labels.stored_values))
    if labels.ignore is not None:
        lookup[labels.ignore] = IGNORED
    named[list(labels.values)] = True
    low, high = int(label.min()), int(label.max())
    if low < 0 or high >= len(lookup) or not (named[: high + 1].all() or named[label].all()):
        found = sorted(set(np.unique(label).tolist()) - labels.values)
        raise DataError(
            "the label map holds values that dataset.json does not name", found=found, expected=sorted(labels.values)
        )
    if np.array_equal(lookup[: high + 1], np.arange(high + 1)):
        return label.astype(np.uint8, copy=False)
    classes: NDArray[np.uint8] = lookup[label]
    return classes


def to_storage(image: NDArray[Any], storage: str) -> NDArray[Any]:
    """Round and clip an image [c, z, y, x] to the plan's storage type; floating point is kept as float32."""
    if image.dtype == storage or storage == "float32":
        return image.astype(storage, copy=False)
    limits = np.iinfo(storage)
    stored = np.empty_like(image, dtype=storage)
    for channel, out in zip(image, stored, strict=True):
        for plane, target in zip(channel, out, strict=True):
            rounded = np.rint(plane) if plane.dtype.kind == "f" else plane
            target[...] = np.clip(rounded, limits.min, limits.max)
    return stored


def _check_channels(image: Image, configuration: Configuration, case: str) -> None:
    found, expected = image.array.shape[0], configuration.channels
    if found != expected:
        raise DataError(f"case {case!r} has another number of channels than the plan", found=found, expected=expected)


def _apply(step: Step, state: _Prepared, dtype: str = "float32") -> _Prepared:
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


def _as_stored(step: AsStored, state: _Prepared, orientation: Orientation) -> _Prepared:
    """Give a canonical case the order of voxels that the plan asks for, before its steps."""
    label = None if state.label is None else to_order(state.label, orientation, step.order)
    spacing = ordered_spacing(orientation, step.order)
    return replace(
        state, image=to_order(state.image, orientation, step.order), label=label, spacing_mm=spacing, order=step.order
    )


def _transposed(axes: Triple, state: _Prepared) -> _Prepared:
    image = state.image.transpose(0, *(axis + 1 for axis in axes))
    shape = (image.shape[1], image.shape[2], image.shape[3])
    spacing = (state.spacing_mm[axes[0]], state.spacing_mm[axes[1]], state.spacing_mm[axes[2]])
    label = None if state.label is None else state.label.transpose(axes)
    whole = ((0, shape[0]), (0, shape[1]), (0, shape[2]))
    return _Prepared(image, label, spacing, axes, shape, whole, state.order, spacing)


def _crop_body(step: CropBody, state: _Prepared) -> _Prepared:
    box = body_box(state.image[0], state.spacing_mm, threshold_hu=step.threshold_hu, margin_mm=step.margin_mm)
    return _cropped(box, state)


def _cropped(box: Box, state: _Prepared) -> _Prepared:
    label = None if state.label is None else crop(state.label, box)
    return replace(state, image=crop(state.image, box), label=label, crop_box=box)


def _resample(step: Resample, state: _Prepared, dtype: str) -> _Prepared:
    target = _spacing(step.spacing_mm, state.spacing_mm)
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


def _spacing(wanted: Sequence[float | None], own: Sequence[float]) -> tuple[float, float, float]:
    z, y, x = (have if want is None else want for want, have in zip(wanted, own, strict=True))
    return z, y, x


def _resize(step: Resize, state: _Prepared) -> _Prepared:
    _check_size(state.image.shape[1:], step.shape)
    image = resample_image(state.image, step.shape, order="area" if step.mode == "area" else 1)
    label = None if state.label is None else resample_labels(state.label, step.shape)
    old = zip(state.spacing_mm, state.image.shape[1:], step.shape, strict=True)
    z, y, x = (spacing * before / after for spacing, before, after in old)
    return replace(state, image=image, label=label, spacing_mm=(z, y, x))


def _clahe(step: Clahe, state: _Prepared) -> _Prepared:
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


def _record(
    case: str,
    image: Image,
    label: Image | None,
    state: _Prepared,
    stored: NDArray[Any],
    configuration: Configuration,
    labels: LabelScheme,
) -> PreparedRecord:
    shape = (stored.shape[1], stored.shape[2], stored.shape[3])
    geometry = CaseGeometry(
        canonical_spacing_mm=image.grid.spacing_mm,
        oriented_shape=state.oriented_shape,
        crop_box=state.crop_box,
        prepared_shape=shape,
        transpose=state.transpose,
        order=state.order,
        export_separate_axis=_export_axis(configuration, state),
    )
    return PreparedRecord(
        case=case,
        recipe_sha256=recipe_sha256(configuration, labels),
        input_sha256=(*image.sha256, *(label.sha256 if label is not None else ())),
        image_sha256="",
        label_sha256=None,
        geometry=geometry,
        statistics_all=tuple(measure(channel) for channel in stored),
        statistics_foreground=foreground_statistics(stored, state.label),
        label_voxels=_label_voxels(state.label),
    )


def _export_axis(configuration: Configuration, state: _Prepared) -> int | None:
    above = configuration.inference.export_separate_above
    return None if above is None else decide_separate_axis(state.spacing_mm, state.scan_spacing_mm, threshold=above)


def foreground_statistics(image: NDArray[Any], label: NDArray[Any] | None) -> tuple[ChannelStatistics, ...]:
    """Return each channel's statistics over the foreground; empty without a label or a voxel of it.

    Voxels with the ignore label are no foreground: most of a sparsely labelled scan would be, air included.
    """
    if label is None:
        return ()
    mask = label != 0
    if label.max() >= IGNORED:
        mask &= label != IGNORED
    if not mask.any():
        return ()
    return tuple(measure(channel, mask) for channel in image)


def _label_voxels(label: NDArray[np.uint8] | None) -> dict[str, int]:
    if label is None:
        return {}
    return {str(value): int(count) for value, count in enumerate(count_levels(label)) if count}


def _label_values(classes: NDArray[Any], class_values: Sequence[int]) -> NDArray[Any]:
    kind = np.uint8 if max(class_values) < 256 else np.uint16
    if tuple(class_values) == tuple(range(len(class_values))):
        return classes.astype(kind, copy=False)
    values: NDArray[Any] = np.asarray(class_values, dtype=kind)[classes]
    return values
