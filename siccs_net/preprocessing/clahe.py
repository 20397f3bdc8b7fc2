"""Contrast-limited adaptive histogram equalisation (CLAHE) of planes and volumes, level for level as scikit-image.

The image is divided into tiles. Each tile's histogram, clipped and summed, maps a grey value to an equalised one; a
voxel takes the mean of the maps of the 2^n tiles around it, weighted by its distance to their centres (Zuiderveld,
Contrast limited adaptive histogram equalization, Graphics Gems IV, 1994).

One array of the image's size is held, in 16 bits: it carries histogram bins, then levels, then the result. Beside it
are the tiles' maps and a few rows. A voxel's products and sums are rounded where scikit-image rounds them and in the
same order: the sum is truncated to a level, and where all tiles agree its last bit decides which. Blocks of rows are
interpolated side by side on processors that no other case needs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from siccs_net.errors import DataError, UsageError
from siccs_net.parallel import run_parts

LEVELS = 2**14
"""Grey levels that CLAHE works with and that an equalised image has at most."""
FULL_SCALE = 65535
_VOXELS_TOGETHER = 51200
"""Voxels of a block of rows: enough that threads do not wait for each other's calls, few enough to stay in cache."""


@dataclass(frozen=True)
class _Axis:
    """An axis of `size` voxels in tiles of `kernel`; the last tile is filled by reflection at the last voxel.

    Between the centres of two tiles lies a cell; the first and the last cell have only one tile.
    """

    size: int
    kernel: int

    @property
    def tiles(self) -> int:
        return -(-self.size // self.kernel)

    @property
    def voxels(self) -> NDArray[np.intp]:
        """The voxels of each tile, [tiles, kernel]."""
        places = np.arange(self.tiles * self.kernel).reshape(-1, self.kernel)
        return np.where(places < self.size, places, 2 * (self.size - 1) - places)

    @property
    def cells(self) -> NDArray[np.intp]:
        """Each voxel's cell; cell t lies between tiles t - 1 and t."""
        return (np.arange(self.size) + self.kernel // 2) // self.kernel

    @property
    def weights(self) -> NDArray[np.float64]:
        """Each voxel's weights of the lower and the upper tile, [2, size]."""
        upper = (np.arange(self.size) + self.kernel // 2) % self.kernel / self.kernel
        return np.stack([1 - upper, upper])


def clahe(image: NDArray[np.float32], *, kernel_divisor: int, clip_limit: float, bins: int) -> NDArray[np.uint16]:
    """Equalise an image [z, y, x] or [y, x] with values in 0..1; return it in 1/65535, over the whole range.

    A tile has max(size // kernel_divisor, 1) voxels along an axis. `clip_limit` is the part of a tile's voxels that
    one of its `bins` may count; 0 stands for no limit, as 1 does. Both ends of the image are stretched to the whole
    range before and after, whatever they are.

    The result is rint(65535 * e), with e = skimage.exposure.equalize_adapthist(image, kernel_size, clip_limit, bins)
    (0.26) for float32. Two things differ. A last axis of 3 or 4 voxels is an axis here, where scikit-image takes
    it for colours. Negative values are refused, where scikit-image sets them to 0. As there, a constant image
    becomes 1 everywhere (0 if its equalised level is 0).

    Raises DataError for another kind of array or values outside 0..1, UsageError for settings out of range.
    """
    _check_settings(kernel_divisor, clip_limit, bins)
    _check_image(image)
    volume = image if image.ndim == 3 else image[None]
    axes = [_Axis(size, max(size // kernel_divisor, 1)) for size in volume.shape]
    levels = _to_bins(volume, bins)
    maps = np.stack([_tile_maps(levels, axes, layer, clip_limit, bins) for layer in range(axes[0].tiles)])
    _interpolate(levels, maps, axes)
    _stretch(levels)
    return levels.reshape(image.shape)


def _check_settings(kernel_divisor: int, clip_limit: float, bins: int) -> None:
    if kernel_divisor < 1 or not 1 <= bins <= LEVELS or not clip_limit >= 0:
        raise UsageError(
            "not settings of CLAHE",
            found=f"kernel divisor {kernel_divisor}, clip limit {clip_limit}, {bins} bins",
            expected=f"a divisor of at least 1, a limit of at least 0, 1 to {LEVELS} bins",
        )


def _check_image(image: NDArray[Any]) -> None:
    if image.ndim not in (2, 3) or image.size == 0 or image.dtype != np.float32:
        raise DataError(
            "CLAHE takes an image [z, y, x] or [y, x]",
            found=f"shape {image.shape}, {image.dtype}",
            expected="at least one voxel, float32",
        )


def _blocks(shape: Sequence[int]) -> Iterator[tuple[int, slice]]:
    """Yield plane and rows of one block after the other."""
    for rows in _row_blocks(shape):
        for plane in range(shape[0]):
            yield plane, rows


def _row_blocks(shape: Sequence[int]) -> Iterator[slice]:
    together = max(_VOXELS_TOGETHER // shape[2], 1)
    return (slice(first, min(first + together, shape[1])) for first in range(0, shape[1], together))


def _to_bins(volume: NDArray[np.float32], bins: int) -> NDArray[np.uint16]:
    """Round an image to 16 bits, stretch it to 0..LEVELS - 1 and return the histogram bin of each voxel."""
    low, high = volume.min(), volume.max()
    if not (low >= 0 and high <= 1):
        raise DataError("CLAHE takes values in 0..1", found=f"{low} to {high}", hint="Window the image first")
    ends = _in_16_bits(np.array([low, high]))
    bin_of_value = _bin_of_value(int(ends[0]), int(ends[1]), bins)
    image_bins = np.empty(volume.shape, dtype=np.uint16)
    for block in _blocks(volume.shape):
        image_bins[block] = bin_of_value.take(_in_16_bits(volume[block]))
    return image_bins


def _in_16_bits(image: NDArray[np.float32]) -> NDArray[np.uint16]:
    values: NDArray[np.uint16] = np.rint(image * np.float32(FULL_SCALE)).astype(np.uint16)
    return values


def _bin_of_value(low: int, high: int, bins: int) -> NDArray[np.uint16]:
    """Return the bin of each 16-bit value up to `high`, for an image from `low` to `high`."""
    levels = np.zeros(high + 1, dtype=np.uint16)
    if low == high:
        levels[low] = min(low, LEVELS - 1)
    else:
        levels[low:] = np.round(np.arange(high - low + 1) / (high - low) * (LEVELS - 1))
    levels //= np.uint16(1 + LEVELS // bins)
    return levels


def _tile_maps(
    image_bins: NDArray[np.uint16], axes: Sequence[_Axis], layer: int, clip_limit: float, bins: int
) -> NDArray[np.uint16]:
    """Return the maps [tiles y, tiles x, bins] from bin to level of one layer of tiles along z."""
    voxels = math.prod(axis.kernel for axis in axes)
    limit = max(int(clip_limit * voxels), 1) if 0 < clip_limit < 1 else voxels
    counts = _histograms(image_bins, axes, layer, bins)
    _clip(counts.reshape(-1, bins), limit)
    levels = counts.cumsum(axis=-1) * ((LEVELS - 1) / voxels)
    return np.minimum(levels, LEVELS - 1).astype(np.uint16)


def _histograms(image_bins: NDArray[np.uint16], axes: Sequence[_Axis], layer: int, bins: int) -> NDArray[np.intp]:
    """Return the histograms [tiles y, tiles x, bins] of one layer of tiles along z."""
    z, y, x = axes
    first_bin = _as_small(np.arange(x.tiles * x.kernel) // x.kernel * bins, x.tiles * bins)
    counts = np.zeros((y.tiles, x.tiles * bins), dtype=np.intp)
    for rows, row_counts in zip(y.voxels, counts, strict=True):
        for plane in z.voxels[layer]:
            block = image_bins[plane].take(rows, axis=0)
            if x.size < len(first_bin):
                block = block.take(x.voxels.ravel(), axis=1)
            row_counts += np.bincount((block + first_bin).ravel(), minlength=len(row_counts))
    return counts.reshape(y.tiles, x.tiles, bins)


def _as_small(first_bin: NDArray[np.intp], bins: int) -> NDArray[Any]:
    """Return the smallest type in which a bin of `bins` can be counted: sums of small types are faster."""
    return first_bin.astype(np.min_scalar_type(bins - 1))


def _clip(histograms: NDArray[np.intp], limit: int) -> None:
    """Clip histograms [tiles, bins] in place and spread what was cut off over the bins below the limit."""
    bins = histograms.shape[1]
    over = np.maximum(histograms - limit, 0)
    histograms -= over
    left = over.sum(axis=1)
    share = left // bins
    below = histograms < (limit - share)[:, None]
    histograms += below * share[:, None]
    left -= below.sum(axis=1) * share
    near = np.where(histograms >= (limit - share)[:, None], limit - histograms, 0)
    histograms += near
    left -= near.sum(axis=1)
    _spread_rest(histograms, left, limit)


def _spread_rest(histograms: NDArray[np.intp], left: NDArray[np.intp], limit: int) -> None:
    """Raise evenly spaced bins by one, round after round, until nothing is left or every bin is full."""
    bins = histograms.shape[1]
    tiles = np.flatnonzero(left > 0)
    while tiles.size:
        for first in range(bins):
            free = histograms[tiles] < limit
            step = np.maximum(free.sum(axis=1) // left[tiles], 1)
            steps = np.arange(-first, bins - first) / step[:, None]
            chosen = free & (steps == np.floor(steps)) & (steps >= 0)
            histograms[tiles] += chosen
            left[tiles] -= chosen.sum(axis=1)
            tiles = tiles[(left[tiles] > 0) & free.any(axis=1)]
            if not tiles.size:
                return


def _interpolate(levels: NDArray[np.uint16], maps: NDArray[np.uint16], axes: Sequence[_Axis]) -> None:
    """Replace bins [z, y, x] by the levels to which the maps [tiles z, tiles y, tiles x, bins] around them lead."""
    _, y, x = axes
    bins = maps.shape[-1]
    maps = np.pad(maps, [(1, 1), (1, 1), (1, 1), (0, 0)], mode="edge")

    def fill(rows: slice) -> None:
        cells = y.cells[rows]
        tables = _corner_tables(maps, int(cells[0]), int(cells[-1]) + 1)
        first_bin = _as_small(((cells - cells[0])[:, None] * (x.tiles + 1) + x.cells) * bins, tables[0].shape[1])
        in_plane = y.weights[:, None, rows, None] * x.weights[None, :, None, :]
        _interpolate_rows(levels[:, rows], axes[0], tables, first_bin, in_plane)

    run_parts(fill, list(_row_blocks(levels.shape)))


def _corner_tables(maps: NDArray[np.uint16], first: int, end: int) -> list[NDArray[np.uint16]]:
    """For each cell along z, the maps at the 8 corners of the cells [first, end) along y, [8, cells * bins]."""
    deep, _, wide, _ = maps.shape
    corners = [(a, b, c) for a in (0, 1) for b in (0, 1) for c in (0, 1)]
    return [
        np.stack([maps[cell + a, first + b : end + b, c : wide - 1 + c] for a, b, c in corners]).reshape(8, -1)
        for cell in range(deep - 1)
    ]


def _interpolate_rows(
    levels: NDArray[np.uint16],
    z: _Axis,
    tables: Sequence[NDArray[np.uint16]],
    first_bin: NDArray[Any],
    in_plane: NDArray[np.float64],
) -> None:
    """Do rows [z, rows, x]; planes that lie alike between two layers of tiles share their weights."""
    shape = first_bin.shape
    places, total = np.empty(shape, dtype=np.intp), np.empty(shape, dtype=np.float32)
    weights, mapped, terms = (np.empty((8, *shape), dtype=kind) for kind in (np.float64, np.uint16, np.float32))
    lower_upper, cells = z.weights, z.cells
    for phase in range(z.kernel):
        np.multiply(in_plane, lower_upper[:, phase, None, None, None, None], out=weights.reshape(2, 2, 2, *shape))
        # The upper layer adds nothing to a plane through the centres of the lower one.
        used = slice(8 if lower_upper[1, phase] else 4)
        for plane in range(phase, z.size, z.kernel):
            np.add(levels[plane], first_bin, out=places)
            np.take(tables[cells[plane]][used], places, axis=1, out=mapped[used], mode="wrap")
            np.multiply(mapped[used], weights[used], out=terms[used], casting="same_kind")
            np.add.reduce(terms[used], axis=0, out=total)
            levels[plane] = total


def _stretch(levels: NDArray[np.uint16]) -> None:
    """Stretch levels to 0..FULL_SCALE, rounded as float32 numbers in 0..1 would be."""
    low, high = int(levels.min()), int(levels.max())
    stretched = np.zeros(high + 1, dtype=np.float32)
    if low == high:
        stretched[low] = min(low, 1)
    else:
        stretched[low:] = np.arange(high - low + 1, dtype=np.float32) / np.float32(high - low)
    table = np.rint(stretched * np.float32(FULL_SCALE)).astype(np.uint16)
    for block in _blocks(levels.shape):
        levels[block] = table.take(levels[block])
