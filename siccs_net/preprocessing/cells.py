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


def uniform_cells(plane: NDArray[Any], rows: LinearAxis, columns: LinearAxis) -> NDArray[np.bool_]:
    """Say for each voxel of a plane [y, x] whether it agrees with the next one of its row, column and diagonal.

    An axis that does not interpolate has no cells to either side.
    """
    uniform = np.ones(plane.shape, dtype=np.bool_)
    if columns.interpolates:
        np.equal(plane[:, 1:], plane[:, :-1], out=uniform[:, :-1])
    if rows.interpolates:
        uniform[:-1] &= uniform[1:]
        uniform[:-1] &= plane[1:] == plane[:-1]
    return uniform


@dataclass(frozen=True)
class MixedPoints:
    """The output voxels of a plane that lie in mixed cells, by row and column, and their four corners.

    `corners` are flat indices into the input plane, in the order (lower, lower), (lower, upper), (upper, lower),
    (upper, upper) of row and column; `nearest` is the nearest input.
    """

    rows: Indices
    columns: Indices
    corners: tuple[Indices, Indices, Indices, Indices]
    nearest: Indices


def mixed_points(mixed: NDArray[np.bool_], rows: LinearAxis, columns: LinearAxis) -> MixedPoints:
    """Return the output voxels whose cell is mixed; `mixed` [y, x] is by input voxel, the lower corner of a cell."""
    found = np.flatnonzero(take_plane(mixed, rows.lower, columns.lower))
    at_rows, at_columns = np.divmod(found, len(columns.lower))
    width = mixed.shape[1]
    upper_row, lower_row = rows.upper[at_rows] * width, rows.lower[at_rows] * width
    lower, upper = columns.lower[at_columns], columns.upper[at_columns]
    corners = (lower_row + lower, lower_row + upper, upper_row + lower, upper_row + upper)
    nearest = rows.nearest[at_rows] * width + columns.nearest[at_columns]
    return MixedPoints(at_rows, at_columns, corners, nearest)


def take_plane(plane: NDArray[Any], rows: Indices, columns: Indices) -> NDArray[Any]:
    """Return plane[rows][:, columns]."""
    return plane.take(rows, axis=0).take(columns, axis=1)
