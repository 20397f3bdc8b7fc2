"""Sample points, smooth fields and soft edges: how a phantom is evaluated on any voxel grid.

A phantom is a function of space, not an array: the same patient can be sampled at 0.7 mm or at 5 mm. Large smooth
shapes are signed distances (mm, negative inside) on a coarse lattice and are interpolated; an edge becomes a ramp one
pixel wide, which is the partial volume of a voxel on a straight edge.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Array = NDArray[np.float32]
Point = tuple[float, float, float]


@dataclass(frozen=True)
class Frame:
    """The voxel centres of a grid, in millimetres along z, y and x, and the width over which edges are softened."""

    z: Array
    y: Array
    x: Array
    edge_mm: float

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of samples along z, y, x."""
        return len(self.z), len(self.y), len(self.x)

    @property
    def origin(self) -> Array:
        """The first voxel centre (z, y, x) in millimetres."""
        return np.array([self.z[0], self.y[0], self.x[0]], np.float32)

    @property
    def step(self) -> Array:
        """The distance between voxel centres (z, y, x) in millimetres; 1 where there is only one."""
        axes = (self.z, self.y, self.x)
        return np.array([axis[1] - axis[0] if len(axis) > 1 else 1.0 for axis in axes], np.float32)

    def mesh(self) -> tuple[Array, Array, Array]:
        """Return z, y and x shaped so that they broadcast to [z, y, x]."""
        return self.z[:, None, None], self.y[None, :, None], self.x[None, None, :]

    def slices(self, start: int, stop: int) -> Frame:
        """Return the frame of the slices start .. stop - 1."""
        return Frame(self.z[start:stop], self.y, self.x, self.edge_mm)


@dataclass(frozen=True)
class Field:
    """A smooth quantity [z, y, x] on a lattice with this origin and step (mm); constant beyond its borders."""

    values: Array
    origin: Point
    step: float

    def on(self, frame: Frame) -> Array:
        """Interpolate to a frame with Catmull-Rom splines, axis by axis.

        Written as sums of four shifted copies and not as matrix products, whose last bit depends on the number of
        threads: the same seed shall give the same voxels everywhere.
        """
        values = self.values
        for axis, positions in ((0, frame.z), (2, frame.x), (1, frame.y)):
            values = self._along(values, axis, positions)
        return values

    def _along(self, values: Array, axis: int, positions: Array) -> Array:
        shape = [1, 1, 1]
        shape[axis] = len(positions)
        taps = _catmull_rom(positions, self.origin[axis], self.step, self.values.shape[axis])
        parts = (np.take(values, index, axis=axis) * weight.reshape(shape) for index, weight in taps)
        total = next(parts)
        for part in parts:
            total += part
        return total

    def at(self, points: Array) -> Array:
        """Interpolate linearly at points [n, (z, y, x)] in millimetres."""
        index = (points - np.array(self.origin)) / self.step
        return np.asarray(ndimage.map_coordinates(self.values, index.T, order=1, mode="nearest"), np.float32)


def _catmull_rom(positions: Array, start: float, step: float, count: int) -> list[tuple[NDArray[np.intp], Array]]:
    """Return, for each of the four neighbours on an axis, its index and its weight at every position."""
    index = np.clip((positions - start) / step, 0.0, count - 1.0)
    cell = np.minimum(index.astype(np.intp), count - 2)
    t = index - cell
    weights = (
        -0.5 * t + t**2 - 0.5 * t**3,
        1.0 - 2.5 * t**2 + 1.5 * t**3,
        0.5 * t + 2.0 * t**2 - 1.5 * t**3,
        -0.5 * t**2 + 0.5 * t**3,
    )
    return [
        (np.clip(cell + offset, 0, count - 1), weight.astype(np.float32))
        for offset, weight in zip((-1, 0, 1, 2), weights, strict=True)
    ]


def lattice(low: Point, high: Point, step: float) -> Frame:
    """Return the frame of a lattice that covers the box from low to high (z, y, x in mm)."""
    axes = [np.arange(a, b + step, step, dtype=np.float32) for a, b in zip(low, high, strict=True)]
    return Frame(axes[0], axes[1], axes[2], step)


def field_of(values: Array, frame: Frame) -> Field:
    """Make a field of values [z, y, x] on a lattice with equal steps along the three axes."""
    z, y, x = (float(start) for start in frame.origin)
    return Field(np.ascontiguousarray(values, np.float32), (z, y, x), float(frame.step[0]))


def smooth_noise(rng: np.random.Generator, frame: Frame, length_mm: float) -> Array:
    """Draw Gaussian noise [z, y, x] of mean 0 and variance 1, smoothed with a sigma of length_mm / 2.

    Noise much smoother than the frame is drawn on a coarser lattice and interpolated, which is faster.
    """
    if length_mm > 8.0 * float(frame.step.max()):
        low, high = frame.origin, [float(axis[-1]) for axis in (frame.z, frame.y, frame.x)]
        coarse = lattice((float(low[0]), float(low[1]), float(low[2])), (high[0], high[1], high[2]), length_mm / 4.0)
        smooth = field_of(smooth_noise(rng, coarse, length_mm), coarse).on(frame)
    else:
        white = rng.standard_normal(frame.shape, dtype=np.float32)
        smooth = ndimage.gaussian_filter(white, length_mm / 2.0 / frame.step, truncate=3.0)
    return np.asarray((smooth - smooth.mean()) / smooth.std(), np.float32)


def coverage(distance: Array, edge_mm: float) -> Array:
    """Return the fraction 0..1 of each voxel inside a surface, from its signed distance (mm, negative inside)."""
    covered = distance * np.float32(-1.0 / edge_mm)
    covered += np.float32(0.5)
    return np.clip(covered, 0.0, 1.0, out=covered)


def blend(hu: Array, covered: Array, value: Array | float) -> None:
    """Replace the covered fraction of every voxel of hu by value, in place."""
    hu += covered * (value - hu)


def smooth_union(first: Array, second: Array, radius_mm: float) -> Array:
    """Join two signed distances with a fillet of about this radius (polynomial smooth minimum)."""
    mix = np.clip(0.5 + 0.5 * (second - first) / radius_mm, 0.0, 1.0)
    return np.asarray(second + (first - second) * mix - radius_mm * mix * (1.0 - mix), np.float32)
