"""Rotation, scaling and mirroring of a patch: drawn first, so that only the footprint is read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from siccs_net.augment.interpolation import sample_linear, sample_nearest
from siccs_net.augment.settings import AugmentationSettings

_IN_PLANE_ONLY_ABOVE = 3.0
"""Patches with this ratio of voxel spacings are rotated in-plane only, as thick slices cannot be tilted."""

_ROUNDING = 1e-6
"""Of a voxel: a source this near to the box's border counts as on it, so that rounding reads no further layer."""


@dataclass(frozen=True)
class SpatialParameters:
    """`matrix` takes an offset from the patch centre to one in the source, in voxels (None: identity)."""

    matrix: NDArray[np.float64] | None
    mirror: tuple[int, ...]

    def footprint(self, patch_size: Sequence[int]) -> tuple[int, ...]:
        """Return the size of the smallest box about the patch's centre that holds the source of each of its voxels.

        It is the bounding box of the transformed voxel centres, grown to whole voxels; the patch itself when nothing
        is rotated or scaled, and less than that when a scale above 1 makes objects larger. Box and patch are both
        even or both odd along each axis, so that their centres fall together.
        """
        if self.matrix is None:
            return tuple(patch_size)
        half = (np.asarray(patch_size) - 1) / 2
        reach = np.abs(self.matrix) @ half
        grown = np.ceil(reach - half - _ROUNDING).astype(int)
        return tuple(size + 2 * more for size, more in zip(patch_size, grown.tolist(), strict=True))

    def apply(
        self, image: NDArray[np.float32], label: NDArray[Any], patch_size: Sequence[int]
    ) -> tuple[NDArray[np.float32], NDArray[Any]]:
        """Turn a footprint, image [c, *spatial] and label [*spatial], into the patch. Outside is 0."""
        if self.matrix is not None:
            image = np.stack([sample_linear(channel, self.matrix, patch_size) for channel in image])
            label = sample_nearest(label, self.matrix, patch_size)
        if self.mirror:
            label = np.flip(label, self.mirror)
            image = np.flip(image, tuple(axis + 1 for axis in self.mirror))
        return np.ascontiguousarray(image), np.ascontiguousarray(label)


def draw_spatial(
    settings: AugmentationSettings, mirror_axes: Sequence[int], spacing_mm: Sequence[float], rng: np.random.Generator
) -> SpatialParameters:
    """Draw rotation (about every axis, or in-plane for thick slices), scale and mirroring for one sample.

    `spacing_mm` has one number per patch axis; rotations are right in millimetres, not in voxels.
    """
    rotate, scale = rng.random(2) < (settings.rotation_probability, settings.scaling_probability)
    angles = np.deg2rad(rng.uniform(-settings.rotation_degrees, settings.rotation_degrees, 3))
    factor = float(np.exp(rng.uniform(*np.log(settings.scale))))
    mirror = tuple(axis for axis, draw in zip(mirror_axes, rng.random(len(mirror_axes)), strict=True) if draw < 0.5)
    if not rotate and not scale:
        return SpatialParameters(None, mirror)
    rotation = _rotation(angles, spacing_mm) if rotate else np.eye(len(spacing_mm))
    to_mm = np.diag(np.asarray(spacing_mm, dtype=np.float64))
    matrix = np.linalg.inv(to_mm) @ rotation @ to_mm / (factor if scale else 1.0)
    return SpatialParameters(matrix, mirror)


def _rotation(angles: NDArray[np.float64], spacing_mm: Sequence[float]) -> NDArray[np.float64]:
    planes = [(1, 2), (0, 2), (0, 1)]
    dimension = len(spacing_mm)
    if dimension == 2:
        planes = [(0, 1)]
    elif max(spacing_mm) / min(spacing_mm) > _IN_PLANE_ONLY_ABOVE:
        thick = int(np.argmax(spacing_mm))
        planes = [tuple(axis for axis in range(3) if axis != thick)]  # type: ignore[list-item]
    rotation = np.eye(dimension)
    for (first, second), angle in zip(planes, angles, strict=False):
        turn = np.eye(dimension)
        turn[first, first] = turn[second, second] = np.cos(angle)
        turn[first, second], turn[second, first] = -np.sin(angle), np.sin(angle)
        rotation = rotation @ turn
    return rotation
