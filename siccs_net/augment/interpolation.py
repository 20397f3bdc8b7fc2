"""An array at the places that an affine map takes a patch's voxels to: linear or nearest, plane by plane.

On one core twice (linear) and five times (nearest) as fast as scipy's `affine_transform`, which treats every order of
spline alike (96 x 160 x 160 voxels: 34 and 10 ms against 78 and 56 ms).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Places = list[NDArray[np.float32]]


def sample_linear(
    array: NDArray[np.float32], matrix: NDArray[np.float64], patch_size: Sequence[int]
) -> NDArray[np.float32]:
    """Return a patch of [*spatial], interpolated linearly; `matrix` takes offsets from its centre to the array's.

    Both are 2-D or 3-D. A place outside takes the value at the border.
    """
    flat, steps = array.ravel(), _steps(array.shape)
    patch = np.empty(tuple(patch_size), np.float32)
    for plane, places in _planes(array.shape, matrix, patch):
        base = np.zeros(plane.shape, np.intp)
        for place, size, step in zip(places, array.shape, steps, strict=True):
            np.clip(place, 0, size - 1, out=place)
            lower = np.minimum(place.astype(np.intp), max(size - 2, 0))
            place -= lower
            base += lower * step
        plane[...] = _between(flat, base, places, steps)
    return patch


def _between(
    flat: NDArray[np.float32], base: NDArray[np.intp], weights: Places, steps: Sequence[int]
) -> NDArray[np.float32]:
    """Interpolate along the first axis between what the other axes give at its two voxels."""
    if not weights:
        return flat.take(base)
    lower = _between(flat, base, weights[1:], steps[1:])
    upper = _between(flat, base + steps[0], weights[1:], steps[1:])
    upper -= lower
    upper *= weights[0]
    upper += lower
    return upper


def sample_nearest(array: NDArray[Any], matrix: NDArray[np.float64], patch_size: Sequence[int]) -> NDArray[Any]:
    """Return the same with the value of the nearest voxel, for labels."""
    flat, steps = array.ravel(), _steps(array.shape)
    patch = np.empty(tuple(patch_size), array.dtype)
    for plane, places in _planes(array.shape, matrix, patch):
        base = np.zeros(plane.shape, np.intp)
        for place, size, step in zip(places, array.shape, steps, strict=True):
            np.clip(place + np.float32(0.5), 0, size - 1, out=place)
            base += place.astype(np.intp) * step
        plane[...] = flat.take(base)
    return patch


def _steps(shape: Sequence[int]) -> list[int]:
    """Return how far apart in memory neighbours along each axis are; a single voxel is its own neighbour."""
    return [math.prod(shape[axis + 1 :]) if size > 1 else 0 for axis, size in enumerate(shape)]


def _planes(
    shape: Sequence[int], matrix: NDArray[np.float64], patch: NDArray[Any]
) -> Iterator[tuple[NDArray[Any], Places]]:
    """Yield each plane of a patch, a view, with the places in the array of its voxels, one array [y, x] an axis."""
    leading = patch.ndim - 2
    offsets = [np.arange(size) - (size - 1) / 2 for size in patch.shape]
    rows, columns = offsets[-2][:, None], offsets[-1]
    middle = [(size - 1) / 2 for size in shape]
    in_plane = [(row[-2] * rows + row[-1] * columns).astype(np.float32) for row in matrix]
    for place in np.ndindex(patch.shape[:leading]):
        shift = [
            centre + sum(row[axis] * offsets[axis][at] for axis, at in enumerate(place))
            for centre, row in zip(middle, matrix, strict=True)
        ]
        yield patch[place], [part + np.float32(more) for part, more in zip(in_plane, shift, strict=True)]
