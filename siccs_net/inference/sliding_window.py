"""Sliding window with Gaussian weights over an ensemble, in slabs along the first axis.

Weights are separable, so their sum over all tiles is an outer product of three vectors and needs no volume of its
own. Only a slab as deep as the patch is accumulated (float32); finished planes are handed on.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Slab = tuple[int, NDArray[np.float32]]
Padding = list[tuple[int, int]]
Forward = Callable[[NDArray[Any], Padding], Tensor]
"""Takes prepared tiles [b, c, *inside], not normalised, and the padding (before, after) of each spatial axis that
makes them patches, to the ensemble's mean logits [b, classes, *patch]. Padding is 0 after normalisation."""

_SLICES_TOGETHER = 8
_PLANES_HANDED_ON = 16
_SMALLEST_WEIGHT = 1e-4


@dataclass(frozen=True)
class Axis:
    """Tiles along one axis: where each starts (negative where the array is smaller) and their weights."""

    size: int
    patch: int
    starts: tuple[int, ...]
    weights: NDArray[np.float32]

    @property
    def total(self) -> NDArray[np.float32]:
        """Sum of the weights of all tiles at every voxel of the axis."""
        total = np.zeros(self.size, dtype=np.float64)
        for start in self.starts:
            inside, within = self.clip(start)
            total[inside] += self.weights[within]
        return total.astype(np.float32)

    @property
    def padding(self) -> tuple[int, int]:
        """How far a tile reaches beyond the array on either side (0, 0 unless the array is smaller)."""
        before = max(-self.starts[0], 0)
        return before, max(self.patch - before - self.size, 0)

    def clip(self, start: int) -> tuple[slice, slice]:
        """Return the part of a tile inside the array: as array positions and as tile positions."""
        first, last = max(start, 0), min(start + self.patch, self.size)
        return slice(first, last), slice(first - start, last - start)


def tile_starts(size: int, patch: int, overlap: float) -> tuple[int, ...]:
    """Return where tiles start so that they are evenly spread and overlap by at least `overlap` of the patch.

    nnU-Net's rule: n = ceil((size - patch) / (patch * (1 - overlap))) + 1 tiles. An array smaller than the patch
    has one tile that is centred on it.
    """
    if size <= patch:
        return (-((patch - size) // 2),)
    steps = math.ceil((size - patch) / (patch * (1 - overlap)))
    # Divided first, as nnU-Net does: the other way round, a start half-way between voxels may round elsewhere.
    step = (size - patch) / steps
    return tuple(round(step * number) for number in range(steps + 1))


def gaussian_weights(patch: int, sigma_fraction: float, *, on_voxel: bool = False) -> NDArray[np.float32]:
    """Return a Gaussian over a patch axis, peak 1, with sigma as a fraction of the patch; never below 1e-4.

    It peaks in the middle of the axis or, with `on_voxel`, on voxel patch // 2 (nnU-Net's map of even patches leans by
    half a voxel).
    """
    offset = np.arange(patch) - (patch // 2 if on_voxel else (patch - 1) / 2)
    weights = np.exp(-0.5 * (offset / (patch * sigma_fraction)) ** 2)
    floored: NDArray[np.float32] = np.maximum(weights / weights.max(), _SMALLEST_WEIGHT).astype(np.float32)
    return floored


def plan_tiles(
    shape: Sequence[int], patch_size: Sequence[int], overlap: float, sigma_fraction: float, *, on_voxel: bool = False
) -> tuple[Axis, Axis, Axis]:
    """Return the tiles along the three axes of an array; a 2-D patch takes each slice by itself."""

    def tiles(size: int, patch: int) -> Axis:
        weights = gaussian_weights(patch, sigma_fraction, on_voxel=on_voxel)
        return Axis(size, patch, tile_starts(size, patch, overlap), weights)

    if len(patch_size) == 2:
        slices = Axis(shape[0], 1, tuple(range(shape[0])), np.ones(1, dtype=np.float32))
        rows, columns = map(tiles, shape[1:], patch_size)
        return slices, rows, columns
    depth, rows, columns = map(tiles, shape, patch_size)
    return depth, rows, columns


def count_tiles(axes: Sequence[Axis]) -> int:
    """Return how many tiles an array takes."""
    return math.prod(len(axis.starts) for axis in axes)


def sliding_window(
    image: NDArray[Any],
    axes: tuple[Axis, Axis, Axis],
    forward: Forward,
    classes: int,
    *,
    flat: bool,
    device: torch.device,
    tile_batch: int = 1,
    on_tiles: Callable[[int], None] = lambda count: None,
) -> Iterator[Slab]:
    """Yield (start, mean logits [classes, d, y, x]) along axis 0 of a prepared image [c, z, y, x], without gaps.

    `flat` says that patches are 2-D. `on_tiles` is told how many tiles are done, for a progress bar.
    """
    depth, rows, columns = axes
    in_plane = torch.from_numpy(1 / (rows.total[:, None] * columns.total)).to(device)
    together = _SLICES_TOGETHER if flat else 1
    groups = [depth.starts[i : i + together] for i in range(0, len(depth.starts), together)]
    padding = [axis.padding for axis in (axes[1:] if flat else axes)]
    height = min(depth.size, depth.patch + together - 1)
    slab = torch.zeros((classes, height, rows.size, columns.size), dtype=torch.float32, device=device)
    base = 0
    for number, group in enumerate(groups):
        places = list(itertools.product(group, rows.starts, columns.starts))
        for first in range(0, len(places), tile_batch):
            batch = places[first : first + tile_batch]
            logits = forward(np.stack([_read_tile(image, axes, place, flat) for place in batch]), padding)
            for place, one in zip(batch, logits, strict=True):
                _accumulate(slab, base, axes, place, one[:, None] if flat else one)
            on_tiles(len(batch))
        end = max(groups[number + 1][0], 0) if number + 1 < len(groups) else depth.size
        for start in range(base, end, _PLANES_HANDED_ON):
            stop = min(start + _PLANES_HANDED_ON, end)
            done = slab[:, start - base : stop - base] * in_plane
            done /= torch.from_numpy(depth.total[start:stop]).to(device)[:, None, None]
            yield start, done.cpu().numpy()
        _roll(slab, end - base)
        base = end


def _read_tile(image: NDArray[Any], axes: Sequence[Axis], place: Sequence[int], flat: bool) -> NDArray[Any]:
    """Return the part of one tile that lies inside the image, [c, *inside]."""
    clipped = [axis.clip(start) for axis, start in zip(axes, place, strict=True)]
    part = image[(slice(None), *(inside for inside, _ in clipped))]
    return part[:, 0] if flat else part


def _accumulate(slab: Tensor, base: int, axes: Sequence[Axis], place: Sequence[int], logits: Tensor) -> None:
    (z, dz), (y, dy), (x, dx) = (axis.clip(start) for axis, start in zip(axes, place, strict=True))
    wz, wy, wx = (
        torch.from_numpy(axis.weights[part]).to(slab.device) for axis, part in zip(axes, (dz, dy, dx), strict=True)
    )
    weights = wz[:, None, None] * wy[:, None] * wx
    target = slab[:, z.start - base : z.stop - base, y, x]
    target.addcmul_(logits[:, dz, dy, dx].to(slab.device, torch.float32), weights)


def _roll(slab: Tensor, planes: int) -> None:
    """Drop finished planes and make room for as many new ones, in place and without a copy of the slab."""
    kept = max(slab.shape[1] - planes, 0)
    for first in range(0, kept, max(planes, 1)):
        part = min(planes, kept - first)
        slab[:, first : first + part] = slab[:, first + planes : first + planes + part]
    slab[:, kept:] = 0
