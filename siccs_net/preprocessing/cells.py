"""Linear interpolation of classes: where each output voxel lies between inputs, and which cells need a decision.

A cell is the box between neighbouring voxel centres. Linear interpolation is convex: where all corners of a cell
agree on the class, every point inside has it. Only the others, the mixed cells, need their corners weighed.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.intp]


@dataclass(frozen=True)
class LinearAxis:
    """Each output voxel of an axis between the input voxels `lower` and `upper`, with `nearest` of the two.

    Voxel centres lie at half indices and the edge is repeated. Output o weighs upper with numerator / denominator
    and lower with the rest; both are whole numbers, so that weights can be added and compared exactly.
    """

    lower: Indices
    upper: Indices
    nearest: Indices
    numerator: NDArray[np.int64]
    denominator: int

    @cached_property
    def interpolates(self) -> bool:
        """Whether any output lies strictly between two inputs."""
        return bool(self.numerator.any())

    @cached_property
    def fraction(self) -> NDArray[np.float32]:
        """Weight of upper, in [0, 1)."""
        return (self.numerator / self.denominator).astype(np.float32)


def linear_axis(before: int, after: int, *, nearest_only: bool = False) -> LinearAxis:
    """Return the axis from `before` to `after` voxels; with `nearest_only` every output is its nearest input.

    Of two equally near inputs the nearest is the upper one, up to rounding: it is computed in float64 as scipy's
    order 0 does, so that labels and images take the same slice.
    """
    outputs = np.arange(after)
    centres = before / after * (outputs + 0.5) - 0.5
    nearest = np.clip(np.floor(centres + 0.5).astype(np.intp), 0, before - 1)
    if nearest_only:
        return LinearAxis(nearest, nearest, nearest, np.zeros_like(outputs), 1)
    denominator = 2 * after
    position = np.clip((2 * outputs + 1) * before - after, 0, (before - 1) * denominator)
    lower, numerator = np.divmod(position, denominator)
    return LinearAxis(lower, lower + (numerator > 0), nearest, numerator, denominator)


def mixed_cells(planes: NDArray[Any], rows: LinearAxis, columns: LinearAxis) -> NDArray[np.bool_]:
    """Say for each voxel of planes [..., y, x] whether the next one of its row, column or diagonal differs from it.

    An axis that does not interpolate has no cells to either side.
    """
    mixed = np.zeros(planes.shape, dtype=np.bool_)
    if columns.interpolates:
        np.not_equal(planes[..., 1:], planes[..., :-1], out=mixed[..., :-1])
    if rows.interpolates:
        mixed[..., :-1, :] |= mixed[..., 1:, :]
        mixed[..., :-1, :] |= planes[..., 1:, :] != planes[..., :-1, :]
    return mixed


@dataclass(frozen=True)
class MixedPoints:
    """The output voxels of some planes that lie in mixed cells, by plane, row and column, and their four corners.

    `corners` are flat indices into the stack of input planes, in the order (lower, lower), (lower, upper),
    (upper, lower), (upper, upper) of row and column.
    """

    planes: Indices
    rows: Indices
    columns: Indices
    corners: tuple[Indices, Indices, Indices, Indices]

    def part(self, some: slice) -> MixedPoints:
        """Return some of the points."""
        lower, right, down, both = (corner[some] for corner in self.corners)
        return MixedPoints(self.planes[some], self.rows[some], self.columns[some], (lower, right, down, both))


def mixed_points(mixed: NDArray[np.bool_], rows: LinearAxis, columns: LinearAxis) -> MixedPoints:
    """Return the output voxels whose cell is mixed; `mixed` [planes, y, x] is by input voxel, a cell's lower corner."""
    _, height, width = mixed.shape
    first_row, last_row = _outputs_between(np.flatnonzero(mixed.any(axis=(0, 2))), rows)
    first_column, last_column = _outputs_between(np.flatnonzero(mixed.any(axis=(0, 1))), columns)
    inside = take_plane(mixed, rows.lower[first_row:last_row], columns.lower[first_column:last_column])
    lines, at_columns = np.divmod(np.flatnonzero(inside), max(last_column - first_column, 1))
    planes, at_rows = (
        np.divmod(lines, max(last_row - first_row, 1)) if len(mixed) > 1 else (np.zeros_like(lines), lines)
    )
    at_rows += first_row
    at_columns += first_column
    lower = (planes * height + rows.lower[at_rows]) * width + columns.lower[at_columns]
    right = lower + (columns.upper - columns.lower)[at_columns]
    down = ((rows.upper - rows.lower) * width)[at_rows]
    return MixedPoints(planes, at_rows, at_columns, (lower, right, lower + down, right + down))


def _outputs_between(inputs: Indices, axis: LinearAxis) -> tuple[int, int]:
    """Return the outputs (first, end) whose lower inputs lie between the first and the last of some inputs."""
    if not len(inputs):
        return 0, 0
    first, end = np.searchsorted(axis.lower, [inputs[0], inputs[-1] + 1])
    return int(first), int(end)


def take_plane(plane: NDArray[Any], rows: Indices, columns: Indices) -> NDArray[Any]:
    """Return plane[..., rows, :][..., columns] of one or several planes [..., y, x]."""
    return plane.take(rows, axis=-2).take(columns, axis=-1)
