"""Label resampling: the largest share of the linearly interpolated one-hot, exactly, without making the one-hot."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from siccs_net.errors import DataError, UsageError
from siccs_net.preprocessing.cells import (
    LinearAxis,
    MixedPoints,
    linear_axis,
    mixed_cells,
    mixed_points,
    take_plane,
)


def resample_labels(
    labels: NDArray[Any], new_shape: Sequence[int], *, separate_axis: int | None = None
) -> NDArray[Any]:
    """Resize a label map [z, y, x] of integers to `new_shape` (z, y, x) with voxel centres at half indices.

    Each output voxel gets the label with the largest share of the linearly interpolated one-hot of all labels,
    background included, so no hole opens where three labels meet. Among equal shares the label of the nearest
    input voxel wins, or else the smallest. Shares are compared in whole numbers, so ties are exact.
    `separate_axis` takes the nearest slice along that axis and interpolates within slices only.

    Returns the same dtype. Raises DataError for anything but three axes of integers, UsageError for a wrong shape.
    """
    _check(labels, new_shape, separate_axis)
    z, y, x = (
        linear_axis(before, after, nearest_only=number == separate_axis)
        for number, (before, after) in enumerate(zip(labels.shape, new_shape, strict=True))
    )
    out = np.empty(tuple(new_shape), dtype=labels.dtype)
    cells: dict[int, NDArray[np.bool_]] = {}
    for output, (lower, upper) in enumerate(zip(z.lower.tolist(), z.upper.tolist(), strict=True)):
        cells = {
            plane: cells[plane] if plane in cells else mixed_cells(labels[plane], y, x) for plane in (lower, upper)
        }
        mixed = cells[lower] | cells[upper]
        if lower != upper:
            mixed |= labels[lower] != labels[upper]
        _fill_plane(out[output], labels, output, (z, y, x), mixed)
    return out


def _check(labels: NDArray[Any], new_shape: Sequence[int], separate_axis: int | None) -> None:
    if labels.ndim != 3 or labels.size == 0 or labels.dtype.kind not in "iu":
        raise DataError(
            "a label map to resample has voxels of integers [z, y, x]", found=f"shape {labels.shape}, {labels.dtype}"
        )
    if len(new_shape) != 3 or min(new_shape) < 1:
        raise UsageError("not a shape to resample to", found=str(tuple(new_shape)), expected="three positive sizes")
    if separate_axis not in (None, 0, 1, 2):
        raise UsageError("not an axis of a volume", found=separate_axis, expected="0, 1, 2 or None")


def _fill_plane(
    out: NDArray[Any],
    labels: NDArray[Any],
    output: int,
    axes: tuple[LinearAxis, LinearAxis, LinearAxis],
    mixed: NDArray[np.bool_],
) -> None:
    """Fill one output plane [y, x]: the nearest label everywhere, then the vote where cells are mixed."""
    z, y, x = axes
    out[...] = take_plane(labels[z.nearest[output]], y.nearest, x.nearest)
    if not mixed.any():
        return
    points = mixed_points(mixed[None], y, x)
    corners, weights = _corners(labels, output, axes, points)
    out[points.rows, points.columns] = _vote(corners, weights, out[points.rows, points.columns])


def _corners(
    labels: NDArray[Any], output: int, axes: tuple[LinearAxis, LinearAxis, LinearAxis], points: MixedPoints
) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """Return the labels and the weights [corners, points] of the four or eight corners of each point.

    Weights are products of whole numbers up to 2 * size an axis: exact in float64 for sizes up to 100,000.
    """
    z, y, x = axes
    row, column = y.numerator[points.rows], x.numerator[points.columns]
    in_plane = [a * b for a in (y.denominator - row, row) for b in (x.denominator - column, column)]
    upper = int(z.numerator[output])
    planes = [(z.lower[output], z.denominator - upper), (z.upper[output], upper)][: 2 if upper else 1]
    flat = [labels[plane].ravel() for plane, _ in planes]
    corners = [plane[index] for plane in flat for index in points.corners]
    weights = [weight * area for _, weight in planes for area in in_plane]
    return np.stack(corners), np.stack(weights).astype(np.float64)


def _vote(corners: NDArray[Any], weights: NDArray[np.float64], nearest: NDArray[Any]) -> NDArray[Any]:
    """Return the label with the largest weight of each point; most have the nearest one with at least half of it."""
    share = np.where(corners == nearest, weights, 0).sum(axis=0)
    open_points = np.flatnonzero(2 * share < weights.sum(axis=0))
    winners = nearest.copy()
    winners[open_points] = _largest_share(corners[:, open_points], weights[:, open_points], nearest[open_points])
    return winners


def _largest_share(corners: NDArray[Any], weights: NDArray[np.float64], nearest: NDArray[Any]) -> NDArray[Any]:
    shares = weights.copy()
    for one, other in combinations(range(len(corners)), 2):
        same = corners[one] == corners[other]
        shares[one] += np.where(same, weights[other], 0)
        shares[other] += np.where(same, weights[one], 0)
    tied = shares == shares.max(axis=0)
    smallest = np.where(tied, corners, np.iinfo(corners.dtype).max).min(axis=0)
    return np.where((tied & (corners == nearest)).any(axis=0), nearest, smallest)
