"""Rotation, scaling and mirroring of a patch: drawn first, so that only the footprint is read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from siccs_net.augment.interpolation import sample, sample_nearest
from siccs_net.augment.settings import AugmentationSettings

FLAT_ABOVE = 3.0
ELONGATED_ABOVE = 1.5
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
            channels, (label,) = sample(list(image), [label], self.matrix, patch_size)
            image = channels[0][None] if len(channels) == 1 else np.stack(channels)
        if self.mirror:
            label = np.flip(label, self.mirror)
            image = np.flip(image, tuple(axis + 1 for axis in self.mirror))
        return np.ascontiguousarray(image), np.ascontiguousarray(label)

    def apply_label(self, label: NDArray[Any], patch_size: Sequence[int]) -> NDArray[Any]:
        """Turn a footprint of labels [*spatial] into the patch, by the nearest voxel. Outside is 0."""
        if self.matrix is not None:
            label = sample_nearest(label, self.matrix, patch_size)
        return np.ascontiguousarray(np.flip(label, self.mirror) if self.mirror else label)


def draw_spatial(
    settings: AugmentationSettings, mirror_axes: Sequence[int], spacing_mm: Sequence[float], rng: np.random.Generator
) -> SpatialParameters:
    """Draw rotation (about every axis, or in-plane for thick slices), scale and mirroring for one sample.

    `spacing_mm` has one number per patch axis; rotations are right in millimetres, not in voxels.
    """
    rotate, scale = rng.random(2) < (settings.rotation_probability, settings.scaling_probability)
    degrees = 30.0 if settings.rotation_degrees is None else settings.rotation_degrees
    angles = np.deg2rad(rng.uniform(-degrees, degrees, 3))
    factor = _draw_scale(settings, rng)
    mirror = tuple(axis for axis, draw in zip(mirror_axes, rng.random(len(mirror_axes)), strict=True) if draw < 0.5)
    if not rotate and not scale:
        return SpatialParameters(None, mirror)
    steps = np.ones(len(spacing_mm)) if settings.rotation_in == "voxels" else np.asarray(spacing_mm, np.float64)
    thick = _plane(settings, spacing_mm)
    rotation = _rotation(angles, len(steps), thick) if rotate else np.eye(len(steps))
    to_mm = np.diag(steps)
    factors = np.full(len(steps), factor if scale else 1.0)
    if settings.in_plane == "always" and thick is not None:
        factors[thick] = 1.0
    matrix = np.linalg.inv(to_mm) @ rotation @ to_mm / factors[:, None]
    return SpatialParameters(matrix, mirror)


def resolve_rotation(settings: AugmentationSettings, patch_size: Sequence[int]) -> AugmentationSettings:
    """Return the settings with what depends on the patch decided: `in_plane` flat_patch and `rotation_degrees` null.

    nnU-Net's rule (design notes 3.4): a volume patch more than 3 times longer than its axis 0 is turned in-plane, by
    up to 180 degrees, other volumes by 30; a 2-D patch by 180, by 15 if it is longer than 1.5 times its width.
    """
    in_plane = settings.in_plane
    if in_plane == "flat_patch":
        flat = len(patch_size) == 3 and max(patch_size) / patch_size[0] > FLAT_ABOVE
        in_plane = "always" if flat else "never"
    degrees = settings.rotation_degrees
    if degrees is None and len(patch_size) == 2:
        degrees = 15.0 if max(patch_size) / min(patch_size) > ELONGATED_ABOVE else 180.0
    elif degrees is None:
        degrees = 180.0 if in_plane == "always" else 30.0
    return settings.model_copy(update={"in_plane": in_plane, "rotation_degrees": degrees})


def _draw_scale(settings: AugmentationSettings, rng: np.random.Generator) -> float:
    lowest, highest = settings.scale
    if settings.scale_draw == "reciprocal_uniform":
        return 1.0 / float(rng.uniform(1 / highest, 1 / lowest))
    return float(np.exp(rng.uniform(np.log(lowest), np.log(highest))))


def _plane(settings: AugmentationSettings, spacing_mm: Sequence[float]) -> int | None:
    """Return the axis that a volume is turned about alone; None where it is turned about all (and in 2-D)."""
    if len(spacing_mm) == 2 or settings.in_plane == "never":
        return None
    if settings.in_plane == "always":
        return 0
    thick = max(spacing_mm) / min(spacing_mm) > _IN_PLANE_ONLY_ABOVE
    return int(np.argmax(spacing_mm)) if thick else None


def _rotation(angles: NDArray[np.float64], dimension: int, thick: int | None) -> NDArray[np.float64]:
    planes = [(1, 2), (0, 2), (0, 1)]
    if dimension == 2:
        planes = [(0, 1)]
    elif thick is not None:
        planes = [tuple(axis for axis in range(3) if axis != thick)]  # type: ignore[list-item]
    rotation = np.eye(dimension)
    for (first, second), angle in zip(planes, angles, strict=False):
        turn = np.eye(dimension)
        turn[first, first] = turn[second, second] = np.cos(angle)
        turn[first, second], turn[second, first] = -np.sin(angle), np.sin(angle)
        rotation = rotation @ turn
    return rotation
