"""An array at the places that an affine map takes a patch's voxels to: linear or nearest, some planes at a time.

Several arrays of one shape share the places. Where nothing is turned, the axes are interpolated one after another.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float32]
Places = tuple[list[Numbers], NDArray[np.int32]]
"""Of some voxels: weights of the upper of two neighbours along each axis, and where the lowest neighbour lies."""

_VOXELS_TOGETHER = 24_000
"""Few enough for the processor's cache, many enough that numpy's calls cost little."""


def sample(
    images: Sequence[Numbers], labels: Sequence[NDArray[Any]], matrix: NDArray[np.float64], patch_size: Sequence[int]
) -> tuple[list[Numbers], list[NDArray[Any]]]:
    """Return patches of arrays [*spatial] of one shape: images interpolated linearly, labels by the nearest voxel.

    `matrix` takes offsets from the patch's centre, in voxels, to offsets from the arrays'; 2-D or 3-D. A place
    outside takes the value at the border.
    """
    if np.count_nonzero(matrix) == np.count_nonzero(np.diag(matrix)):
        return _stretch(images, labels, np.diag(matrix), patch_size)
    shape = next(iter((*images, *labels))).shape
    steps = _steps(shape)
    drawn = [np.empty(tuple(patch_size), np.float32) for _ in images]
    named = [np.empty(tuple(patch_size), label.dtype) for label in labels]
    for part, (weights, lowest) in _places(shape, matrix, patch_size):
        if images:
            base = lowest.astype(np.intp)
            for image, patch in zip(images, drawn, strict=True):
                patch[part] = _between(image.reshape(-1), base, weights, steps)
        if labels:
            nearest = _nearest(weights, lowest, steps)
            for label, patch in zip(labels, named, strict=True):
                patch[part] = label.reshape(-1).take(nearest)
    return drawn, named


def sample_linear(array: Numbers, matrix: NDArray[np.float64], patch_size: Sequence[int]) -> Numbers:
    """Return a patch of one array [*spatial], interpolated linearly."""
    return sample([array], [], matrix, patch_size)[0][0]


def sample_nearest(array: NDArray[Any], matrix: NDArray[np.float64], patch_size: Sequence[int]) -> NDArray[Any]:
    """Return the same with the value of the nearest voxel, for labels."""
    return sample([], [array], matrix, patch_size)[1][0]


def _steps(shape: Sequence[int]) -> list[int]:
    """Return how far apart in memory neighbours along each axis are; a single voxel is its own neighbour."""
    return [math.prod(shape[axis + 1 :]) if size > 1 else 0 for axis, size in enumerate(shape)]


def _places(
    shape: Sequence[int], matrix: NDArray[np.float64], patch_size: Sequence[int]
) -> Iterator[tuple[slice, Places]]:
    """Yield some planes of a patch at a time, as a slice of axis 0, with the places of their voxels in the array."""
    offsets = [np.arange(size) - (size - 1) / 2 for size in patch_size]
    grids = np.meshgrid(*offsets[1:], indexing="ij", sparse=True)
    in_plane = [sum(part * grid for part, grid in zip(row[1:], grids, strict=True)) for row in matrix]
    rows = [np.asarray(part, np.float32) for part in in_plane]
    together = max(1, _VOXELS_TOGETHER // math.prod(patch_size[1:]))
    across = (slice(None), *[None] * (len(patch_size) - 1))
    for first in range(0, patch_size[0], together):
        part = slice(first, first + together)
        shifts = [(size - 1) / 2 + row[0] * offsets[0][part] for size, row in zip(shape, matrix, strict=True)]
        yield (
            part,
            _neighbours(
                [row + shift.astype(np.float32)[across] for row, shift in zip(rows, shifts, strict=True)], shape
            ),
        )


def _neighbours(places: list[Numbers], shape: Sequence[int]) -> Places:
    """Turn places along each axis, in place, into the weights of their upper neighbours; and find the lowest one."""
    lowest = np.zeros(places[0].shape, np.int32)
    for place, size, step in zip(places, shape, _steps(shape), strict=True):
        np.minimum(np.maximum(place, np.float32(0), out=place), np.float32(size - 1), out=place)
        lower = np.floor(place)
        np.minimum(lower, np.float32(max(size - 2, 0)), out=lower)
        place -= lower
        along = lower.astype(np.int32)
        along *= np.int32(step)
        lowest += along
    return places, lowest


def _between(flat: Numbers, lowest: NDArray[np.intp], weights: Sequence[Numbers], steps: Sequence[int]) -> Numbers:
    """Interpolate along the first axis between what the other axes give at its two voxels."""
    if not weights:
        return flat.take(lowest)
    lower = _between(flat, lowest, weights[1:], steps[1:])
    upper = _between(flat[steps[0] :], lowest, weights[1:], steps[1:])
    return mixed(lower, upper, weights[0])


def mixed(lower: Numbers, upper: Numbers, weight: Numbers) -> Numbers:
    """Return lower + weight · (upper - lower), in the place of `upper`."""
    upper -= lower
    upper *= weight
    upper += lower
    return upper


def _nearest(weights: Sequence[Numbers], lowest: NDArray[np.int32], steps: Sequence[int]) -> NDArray[np.intp]:
    nearest = lowest.copy()
    for weight, step in zip(weights, steps, strict=True):
        nearest += (weight >= np.float32(0.5)) * np.int32(step)
    return nearest.astype(np.intp)


def _stretch(
    images: Sequence[Numbers], labels: Sequence[NDArray[Any]], factors: NDArray[np.float64], patch_size: Sequence[int]
) -> tuple[list[Numbers], list[NDArray[Any]]]:
    """Do the same where each axis of the patch is one of the array's, stretched: axis by axis."""
    images, labels = list(images), list(labels)
    for axis, (factor, size) in enumerate(zip(factors, patch_size, strict=True)):
        shape = next(iter((*images, *labels))).shape
        extent = shape[axis]
        place = ((extent - 1) / 2 + factor * (np.arange(size) - (size - 1) / 2)).astype(np.float32)
        (weight,), lower = _neighbours([place], (extent,))
        upper = np.minimum(lower + 1, extent - 1)
        across = weight.reshape([-1 if number == axis else 1 for number in range(len(shape))])
        images = [mixed(image.take(lower, axis), image.take(upper, axis), across) for image in images]
        labels = [label.take(np.where(weight >= np.float32(0.5), upper, lower), axis) for label in labels]
    return images, labels
