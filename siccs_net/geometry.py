"""Axes, orientation and spacing: the one place that states the convention.

Canonical arrays are [z, y, x] (with channels [c, z, y, x]) in LPS orientation: x grows to the patient's left, y to
the posterior, z to the superior side. Shapes and spacings are tuples in the same order (z, y, x). An affine is the
4x4 matrix of NIfTI: it takes the index (x, y, z, 1) of the file's array to millimetres in RAS+ coordinates.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from siccs_net.errors import GeometryError

Affine = NDArray[np.float64]
Shape = tuple[int, int, int]
Spacing = tuple[float, float, float]

# Signs of the RAS axes along which canonical x, y, z grow: left, posterior, superior.
_CANONICAL_SIGNS = (-1, -1, 1)
SMALLEST_SPACING_MM, LARGEST_SPACING_MM = 0.01, 1000.0
"""Voxels below or above are a wrong unit or a damaged header; 999 mm is what 2D data carry along a missing axis."""
ANATOMICAL_AXES = {"S-I": 0, "A-P": 1, "L-R": 2}
"""Anatomical names of the canonical axes z, y and x, as plans name mirror axes."""


@dataclass(frozen=True)
class Grid:
    """The sampling of an array in space: its shape (z, y, x) and the affine of the index (x, y, z)."""

    shape: Shape
    affine: Affine

    @property
    def spacing_mm(self) -> Spacing:
        """Distance between voxel centres along z, y and x in millimetres."""
        return _spacing(self.affine)

    @property
    def voxel_volume_mm3(self) -> float:
        """Volume of one voxel in cubic millimetres (the determinant, so right for oblique grids too)."""
        return float(abs(np.linalg.det(self.affine[:3, :3])))

    def corner_distance_mm(self, other: Grid) -> float:
        """Return the largest distance between the two grids' corresponding corner voxels, in millimetres."""
        return float(np.max(np.linalg.norm(_corners(self) - _corners(other), axis=1)))


def _corners(grid: Grid) -> NDArray[np.float64]:
    last = [size - 1 for size in reversed(grid.shape)]
    corners = np.array([(*(bit * n for bit, n in zip(bits, last, strict=True)), 1) for bits in np.ndindex(2, 2, 2)])
    return (corners @ grid.affine.T)[:, :3]


def _spacing(affine: Affine) -> Spacing:
    x, y, z = (float(np.linalg.norm(affine[:3, axis])) for axis in range(3))
    return z, y, x


@dataclass(frozen=True)
class Orientation:
    """How a file's array (x, y, z order of the file) becomes a canonical one [z, y, x], and back.

    `axes[i]` is the file's axis that runs along canonical x, y, z (i = 0, 1, 2); `flips[i]` says that it runs the
    other way. `native_shape` and `native_affine` are the file's own.
    """

    axes: Shape
    flips: tuple[bool, bool, bool]
    native_shape: Shape
    native_affine: Affine

    @classmethod
    def of(cls, shape: Shape, affine: Affine) -> Orientation:
        """Return the orientation of a file's array with this shape (file order) and affine.

        Raises GeometryError when the affine is not finite, singular, or has a spacing outside 0.01 to 1000 mm.
        """
        check_affine(affine)
        axes, flips = _closest_axes(np.asarray(affine, dtype=np.float64).tobytes())
        return cls(axes, flips, shape, np.asarray(affine, dtype=np.float64))

    @property
    def grid(self) -> Grid:
        """The canonical grid."""
        step = np.zeros((4, 4))
        step[3, 3] = 1
        for canonical, (axis, flip) in enumerate(zip(self.axes, self.flips, strict=True)):
            step[axis, canonical] = -1 if flip else 1
            step[axis, 3] = self.native_shape[axis] - 1 if flip else 0
        x, y, z = (self.native_shape[axis] for axis in self.axes)
        return Grid((z, y, x), self.native_affine @ step)

    def to_canonical(self, native: NDArray[Any]) -> NDArray[Any]:
        """Return the file's array [i, j, k] as canonical [z, y, x]; a view, not a copy."""
        canonical = native.transpose(self.axes)[tuple(slice(None, None, -1 if flip else 1) for flip in self.flips)]
        return canonical.transpose(2, 1, 0)

    def to_native(self, canonical: NDArray[Any]) -> NDArray[Any]:
        """Return a canonical array [z, y, x] in the file's order [i, j, k]: the exact inverse; a view."""
        turned = canonical.transpose(2, 1, 0)[tuple(slice(None, None, -1 if flip else 1) for flip in self.flips)]
        return turned.transpose(np.argsort(self.axes))


def check_affine(affine: Affine) -> None:
    """Raise GeometryError unless the affine has finite numbers, a spacing of 0.01 to 1000 mm and a volume."""
    linear = np.asarray(affine, dtype=np.float64)[:3, :3]
    if not np.all(np.isfinite(affine)):
        raise GeometryError("the affine is not finite", found=np.asarray(affine).tolist())
    spacing = _spacing(affine)
    if min(spacing) <= 0:
        raise GeometryError("the voxel spacing is zero", found=f"{spacing} mm (z, y, x)", expected="positive numbers")
    if min(spacing) < SMALLEST_SPACING_MM or max(spacing) > LARGEST_SPACING_MM:
        raise GeometryError(
            "the voxel spacing is implausible",
            found=f"{', '.join(f'{size:g}' for size in spacing)} mm (z, y, x)",
            expected=f"{SMALLEST_SPACING_MM:g} to {LARGEST_SPACING_MM:g} mm",
            hint="The header may be damaged or in another unit, such as metres",
        )
    if abs(np.linalg.det(linear / np.linalg.norm(linear, axis=0))) < 1e-3:
        raise GeometryError("the affine is singular: two axes point the same way", found=linear.tolist())


@lru_cache(maxsize=1024)
def _closest_axes(affine: bytes) -> tuple[Shape, tuple[bool, bool, bool]]:
    """Match each canonical axis with the file's axis nearest to it (nibabel's polar-decomposition rule).

    It takes the numbers of a 4x4 affine, as they are the same in a case's files and most files of a dataset.
    """
    from nibabel.orientations import io_orientation

    orientation = io_orientation(np.frombuffer(affine).reshape(4, 4))  # per file axis: (RAS axis, sign)
    axes, flips = [0, 0, 0], [False, False, False]
    for axis, (ras, sign) in enumerate(orientation):
        axes[int(ras)] = axis
        flips[int(ras)] = bool(sign != _CANONICAL_SIGNS[int(ras)])
    return (axes[0], axes[1], axes[2]), (flips[0], flips[1], flips[2])


def canonical_affine(spacing_mm: Spacing, origin_mm: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> Affine:
    """Return the affine of a canonical (LPS) array with this spacing (z, y, x); the origin is in RAS+ mm."""
    z, y, x = spacing_mm
    affine = np.diag([-x, -y, z, 1.0])
    affine[:3, 3] = origin_mm
    return affine
