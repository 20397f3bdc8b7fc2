"""preprocess_case and its inverse, restore_to_native, side by side.

A configuration lists its steps in order; each takes and returns a `State` in plan axes. Normalisation is not
among them: it is applied when a patch is read, with the numbers of the fold.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from siccs_net.errors import DataError
from siccs_net.geometry import Orientation
from siccs_net.io.image import Image
from siccs_net.io.store import PreparedCase
from siccs_net.preprocessing.crop import uncrop
from siccs_net.preprocessing.export import argmax_to_shape, regions_to_shape
from siccs_net.preprocessing.nnunet_steps import from_order
from siccs_net.preprocessing.resample import decide_separate_axis, resampled_shape
from siccs_net.preprocessing.statistics import count_levels, measure
from siccs_net.preprocessing.steps import State, apply_step, as_stored, known_spacing
from siccs_net.records.case import CaseGeometry, PreparedRecord, Triple
from siccs_net.records.dataset import LabelScheme
from siccs_net.records.plan import AsStored, Configuration, CropBody, Orient, Resample, Resize
from siccs_net.records.statistics import ChannelStatistics

IGNORED = 255
"""Stored class of voxels with the ignore label."""
_RECIPE_VERSION = 1


def preprocess_case(
    image: Image, label: Image | None, configuration: Configuration, labels: LabelScheme, *, case: str
) -> PreparedCase:
    """Run a configuration's steps on one scan [c, z, y, x] and, in training, its label map.

    Returns the image in the configuration's storage type and the label as classes (0 is the background, 255 the
    ignore label), both in plan axes, with the sidecar record (hashes of the arrays are filled in by the store).
    Raises DataError for a scan with another number of channels than the plan has.
    """
    _check_channels(image, configuration, case)
    state = State(image.array, None if label is None else to_classes(label.array[0], labels), image.grid.spacing_mm)
    if isinstance(configuration.orient, AsStored):
        state = as_stored(configuration.orient, state, image.orientation)
    for number, step in enumerate(configuration.steps, start=1):
        # The last step's result is stored as it is: resampling then writes that type, and no float32 volume is made.
        state = apply_step(step, state, configuration.storage if number == len(configuration.steps) else "float32")
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
                target = known_spacing(step.spacing_mm, spacing)
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


def _record(
    case: str,
    image: Image,
    label: Image | None,
    state: State,
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


def _export_axis(configuration: Configuration, state: State) -> int | None:
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
