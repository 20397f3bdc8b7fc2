"""The body's box in a CT scan: found on a coarse copy, grown by a margin, reversible."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from cc3d import connected_components
from numpy.typing import NDArray

from siccs_net.errors import DataError
from siccs_net.records.case import Box

_LOG = logging.getLogger(__name__)
_COARSE_MM = 3.5
"""Voxels of the coarse copy lie at most this far apart: near enough to tell the body from a table below it."""
_SMALLEST_PIECE = 0.02
"""A component with at least this share of the largest one's inner voxels is body too. In slices cropped to the lungs
the chest wall falls into pieces (needed of 78 real ones: down to 0.08); a table is a shell with hardly any inner voxel
(below 0.001 in real scans)."""


def body_box(
    image_hu: NDArray[Any],
    spacing_mm: Sequence[float],
    *,
    threshold_hu: float = -500.0,
    margin_mm: float = 10.0,
) -> Box:
    """Return the box ((z0, z1), (y0, y1), (x0, x1)) of the body in a CT scan [z, y, x] in HU, with a margin.

    The body is the largest face-connected component above the threshold of every n-th voxel (n chosen so that they
    lie at most 3.5 mm apart), with any other that is not small beside it, leaving thin shells out of account. Its box
    spans the lungs, and leaves out a table that it does not touch. The box reaches over the voxels that were skipped,
    then `margin_mm` further, and is clipped to the image.
    An image with nothing above the threshold gets its whole box, with a warning.

    Raises DataError for anything but a volume with three positive spacings.
    """
    _check(image_hu, spacing_mm)
    strides = [max(1, math.floor(_COARSE_MM / spacing)) for spacing in spacing_mm]
    coarse = image_hu[tuple(slice(None, None, stride) for stride in strides)] > threshold_hu
    found = _span_large_components(coarse)
    if found is None:
        _LOG.warning("nothing in the image lies above %g HU: it is not cropped", threshold_hu)
        found = [slice(0, size) for size in coarse.shape]
    z, y, x = (
        _widen(part, stride, math.ceil(margin_mm / spacing), size)
        for part, stride, spacing, size in zip(found, strides, spacing_mm, image_hu.shape, strict=True)
    )
    return z, y, x


def _check(image: NDArray[Any], spacing_mm: Sequence[float]) -> None:
    if image.ndim != 3 or image.size == 0 or len(spacing_mm) != 3 or min(spacing_mm) <= 0:
        raise DataError(
            "a body is looked for in a volume [z, y, x] with three positive spacings",
            found=f"shape {image.shape}, spacing {tuple(spacing_mm)} mm",
        )


def _span_large_components(mask: NDArray[np.bool_]) -> list[slice] | None:
    """Return the box of all components that are not small beside the largest one; None where there are none."""
    components, count = connected_components(mask, connectivity=6, return_N=True)
    if count == 0:
        return None
    inner = _without_surface(mask)
    sizes = np.bincount(components[inner if inner.any() else mask], minlength=count + 1)[1:]
    large = sizes >= max(_SMALLEST_PIECE * sizes.max(), 1)
    kept = np.concatenate([[False], large])[components]
    spans = [np.flatnonzero(kept.any(axis=others)) for others in ((1, 2), (0, 2), (0, 1))]
    return [slice(int(span[0]), int(span[-1]) + 1) for span in spans]


def _without_surface(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the voxels whose face neighbours all belong to the mask; outside the volume counts as if they did."""
    inner = mask.copy()
    for axis in range(mask.ndim):
        whole, part = np.moveaxis(mask, axis, 0), np.moveaxis(inner, axis, 0)
        part[1:] &= whole[:-1]
        part[:-1] &= whole[1:]
    return inner


def _widen(part: slice, stride: int, margin: int, size: int) -> tuple[int, int]:
    """Take a span of the coarse copy to voxels: up to the neighbours that were skipped, then the margin."""
    first, last = part.start * stride - (stride - 1), (part.stop - 1) * stride + (stride - 1)
    return max(first - margin, 0), min(last + 1 + margin, size)


def crop(array: NDArray[Any], box: Box) -> NDArray[Any]:
    """Return the box of an array [z, y, x] or [c, z, y, x]; a view, not a copy."""
    (z0, z1), (y0, y1), (x0, x1) = box
    return array[..., z0:z1, y0:y1, x0:x1]


def uncrop(array: NDArray[Any], box: Box, full_shape: Sequence[int], fill: float) -> NDArray[Any]:
    """Undo `crop`: return an array of `full_shape` (z, y, x) with the cropped one in its box and `fill` outside.

    Raises DataError when the array is not of the box's size.
    """
    sizes = tuple(end - start for start, end in box)
    if array.shape[-3:] != sizes:
        raise DataError("the array is not of the size of its box", found=array.shape[-3:], expected=sizes)
    whole = np.full((*array.shape[:-3], *full_shape), fill, dtype=array.dtype)
    crop(whole, box)[...] = array
    return whole
