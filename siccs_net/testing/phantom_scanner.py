"""The scanner: slice thickness, reconstruction kernel and noise."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from siccs_net.testing.phantom_body import BOTTOM_MM, TOP_MM, Physique
from siccs_net.testing.phantom_grid import Array, Frame
from siccs_net.testing.phantom_paint import Phantom, paint

LABEL_NORMAL, LABEL_FIBROSIS, LABEL_GROUND_GLASS = 1, 2, 3
_LOWEST_HU, _HIGHEST_HU = -1024, 3071
_LARGEST_SUBSLICE_MM = 1.5
_SLAB_VOXELS = 600_000
# Standard deviation at 1.25 mm; it falls with the square root of the thickness, within the limits.
_NOISE_HU = {"soft": 18.0, "sharp": 42.0}
_NOISE_LIMITS_HU = (11.0, 58.0)
_NOISE_OUTSIDE = 0.45


def scan(
    phantom: Phantom, *, size: int, field_of_view_mm: float, thickness_mm: float, kernel: str, rng: np.random.Generator
) -> tuple[NDArray[np.int16], NDArray[np.uint8]]:
    """Scan a phantom: return HU and labels [z, y, x] of contiguous slices of `thickness_mm`.

    Slices thicker than 1.5 mm are averages of thinner ones, so that they blur along z as real ones do.
    """
    frame, parts = _fine_frame(phantom.body.physique, size, field_of_view_mm, thickness_mm)
    slices = len(frame.z) // parts
    image = np.empty((slices, size, size), np.int16)
    label = np.empty((slices, size, size), np.uint8)
    per_slab = max(_SLAB_VOXELS // (size * size * parts), 1)
    for start in range(0, slices, per_slab):
        chosen = slice(start, min(start + per_slab, slices))
        hu, label[chosen] = _expose(phantom, frame.slices(chosen.start * parts, chosen.stop * parts), parts)
        image[chosen] = _reconstruct(hu, kernel, thickness_mm, frame.edge_mm, rng)
    return image, label


def _fine_frame(physique: Physique, size: int, field_of_view_mm: float, thickness_mm: float) -> tuple[Frame, int]:
    """Return the frame of the thin slices in template millimetres, and how many of them make one slice."""
    parts = max(math.ceil(thickness_mm / _LARGEST_SUBSLICE_MM - 1e-6), 1)
    count = max(round((TOP_MM - BOTTOM_MM) * physique.stature / thickness_mm), 1)
    z = (np.arange(count * parts) + 0.5) * (thickness_mm / parts) / physique.stature + BOTTOM_MM
    pixel = field_of_view_mm / size / physique.girth
    axis = ((np.arange(size) - (size - 1) / 2) * pixel).astype(np.float32)
    return Frame(z.astype(np.float32), axis, axis, pixel), parts


def _expose(phantom: Phantom, frame: Frame, parts: int) -> tuple[Array, NDArray[np.uint8]]:
    """Paint thin slices and average each `parts` of them; a voxel has the label of most of its volume."""
    painted = paint(phantom, frame)
    parenchyma = _average(painted.parenchyma, parts)
    fibrosis, ground_glass = _average(painted.fibrosis, parts), _average(painted.ground_glass, parts)
    label = np.where(fibrosis > 0, LABEL_FIBROSIS, np.where(ground_glass > 0, LABEL_GROUND_GLASS, LABEL_NORMAL))
    return _average(painted.hu, parts), np.where(parenchyma >= 0.5, label, 0).astype(np.uint8)


def _average(values: Array, parts: int) -> Array:
    slices = values.reshape(-1, parts, *values.shape[1:])
    return np.asarray(slices.mean(axis=1, dtype=np.float32) if parts > 1 else slices[:, 0], np.float32)


def _reconstruct(
    hu: Array, kernel: str, thickness_mm: float, pixel_mm: float, rng: np.random.Generator
) -> NDArray[np.int16]:
    """Apply the kernel in the plane of the slices, add its noise and round to whole HU."""
    inside = hu > -975.0
    noise = rng.standard_normal(hu.shape, dtype=np.float32)
    if kernel == "sharp":
        hu = hu + 0.55 * (hu - _in_plane(hu, max(0.7 / pixel_mm, 0.6)))
        noise -= 0.75 * _in_plane(noise, 1.2)
    else:
        hu = _in_plane(hu, max(0.45 / pixel_mm, 0.25))
        noise = _in_plane(noise, 0.9)
    level = np.clip(_NOISE_HU[kernel] * math.sqrt(1.25 / thickness_mm), *_NOISE_LIMITS_HU)
    noise *= level / _NOISE_GAIN[kernel]
    hu = hu + noise * np.where(inside, np.float32(1.0), np.float32(_NOISE_OUTSIDE))
    return np.rint(np.clip(hu, _LOWEST_HU, _HIGHEST_HU)).astype(np.int16)


def _in_plane(values: Array, sigma_pixels: float) -> Array:
    return ndimage.gaussian_filter(values, (0.0, sigma_pixels, sigma_pixels), truncate=3.0)


def _noise_gain(kernel: str) -> float:
    """Return the standard deviation that the kernel's noise filter leaves of white noise: its root sum of squares."""
    impulse = np.zeros((1, 33, 33), np.float32)
    impulse[0, 16, 16] = 1.0
    response = impulse - 0.75 * _in_plane(impulse, 1.2) if kernel == "sharp" else _in_plane(impulse, 0.9)
    return float(np.sqrt((response**2).sum()))


_NOISE_GAIN = {kernel: _noise_gain(kernel) for kernel in _NOISE_HU}
