"""Image resampling as one banded matrix per axis, plane by plane.

Resizing with a separable kernel is linear along each axis, so an axis is a matrix [outputs, inputs] whose rows are
zero beyond a few neighbours. Rows are taken 32 at a time and multiplied with the inputs that they touch. Only a
window of planes is held in float32; the result is the only array of its size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from siccs_net.errors import DataError, UsageError
from siccs_net.parallel import available_cpus, one_thread_a_product, run_parts, split

Order = Literal[0, 1, 3, "area"]

_ORDERS = (0, 1, 3, "area")
_BLOCK_ROWS = 32
_THROUGH_ROWS = 16  # fewer between planes: the inputs of a block are planes that are held
_PLANES_TOGETHER = 4
_MOST_THREADS = 4  # each holds planes of its own
# A cubic spline reaches every input with weights that fall by 0.27 a voxel; 1e-8 of 4096 HU is 4e-5 HU.
_SMALLEST_WEIGHT = 1e-8


@dataclass(frozen=True)
class Block:
    """Some outputs of an axis, the inputs that they depend on, and the weights [outputs, inputs]."""

    outputs: slice
    inputs: slice
    weights: NDArray[np.float32]


Axis = tuple[Block, ...] | None
"""An axis that is resampled, as blocks in ascending order, or None for one that stays as it is."""


def resampled_shape(
    shape: Sequence[int], spacing_from: Sequence[float], spacing_to: Sequence[float]
) -> tuple[int, int, int]:
    """Return the shape [z, y, x] of a volume at another spacing: int(round(old / new * size)), at least 1."""
    triples = zip(spacing_from, spacing_to, shape, strict=True)
    z, y, x = (max(1, int(round(old / new * size))) for old, new, size in triples)
    return z, y, x


def decide_separate_axis(
    spacing_from: Sequence[float], spacing_to: Sequence[float], threshold: float = 3.0
) -> int | None:
    """Return the axis of thick slices, which is not to be interpolated across, or None.

    nnU-Net's rule: the axis with the largest spacing, if that is more than `threshold` times the smallest, in the
    present spacing or else in the wanted one. Two axes that share the largest spacing are not slices.
    """
    for spacing in (spacing_from, spacing_to):
        if max(spacing) / min(spacing) > threshold:
            thick = [axis for axis, size in enumerate(spacing) if size == max(spacing)]
            return thick[0] if len(thick) == 1 else None
    return None


def resample_image(
    array: NDArray[Any],
    new_shape: Sequence[int],
    *,
    order: Order,
    separate_axis: int | None = None,
    order_separate: Order = 0,
    antialias: bool = False,
    dtype: str | type[np.generic] = np.float32,
) -> NDArray[Any]:
    """Resize an image [c, z, y, x] or [z, y, x] to `new_shape` (z, y, x) with voxel centres at half indices.

    Orders 0, 1 and 3 are splines with repeated edges, clipped to each channel's own range, as
    skimage.transform.resize(mode="edge", anti_aliasing=False, preserve_range=True) computes them in float64 (within
    2e-3 HU). "area" is the mean over the inputs that an output covers (adaptive average pooling, torch's and
    MONAI's "area"). With `separate_axis` slices are resized in their plane, each clipped to its own range, and then
    taken along that axis with `order_separate`. `antialias` smooths axes that shrink with a Gaussian of
    sigma (factor - 1) / 2 voxels first, as scikit-image does. Integers above 2^24 lose precision.

    Returns `dtype`: float32, or an integer type to which values are rounded (half to even) and cut, plane by plane, so
    that no float32 volume is made. Raises DataError for another number of axes, UsageError for an unknown order or
    shape.
    """
    _check(array, new_shape, (order, order_separate), separate_axis)
    volumes = array if array.ndim == 4 else array[None]
    orders = [order_separate if axis == separate_axis else order for axis in range(3)]
    sizes = zip(volumes.shape[1:], new_shape, orders, strict=True)
    through = separate_axis or 0
    axes = [
        resampling_axis(before, after, kind, antialias, _THROUGH_ROWS if number == through else _BLOCK_ROWS)
        for number, (before, after, kind) in enumerate(sizes)
    ]
    result = np.empty((len(volumes), *new_shape), dtype=dtype)
    for volume, out in zip(volumes, result, strict=True):
        _resample_volume(volume, axes, separate_axis, out)
    return result if array.ndim == 4 else result[0]


def _check(array: NDArray[Any], new_shape: Sequence[int], orders: Sequence[Order], separate_axis: int | None) -> None:
    if array.ndim not in (3, 4) or array.size == 0 or array.dtype.kind not in "iuf":
        raise DataError(
            "an image to resample has voxels of real numbers [c, z, y, x] or [z, y, x]",
            found=f"shape {array.shape}, {array.dtype}",
        )
    if len(new_shape) != 3 or min(new_shape) < 1:
        raise UsageError("not a shape to resample to", found=str(tuple(new_shape)), expected="three positive sizes")
    if any(order not in _ORDERS for order in orders):
        raise UsageError("not an interpolation order", found=str(tuple(orders)), expected=f"each one of {_ORDERS}")
    if separate_axis not in (None, 0, 1, 2):
        raise UsageError("not an axis of a volume", found=separate_axis, expected="0, 1, 2 or None")


@lru_cache(maxsize=64)
def resampling_axis(
    before: int, after: int, order: Order, antialias: bool = False, block_rows: int = _BLOCK_ROWS
) -> Axis:
    """Return an axis of `before` voxels resampled to `after` voxels, or None where nothing changes."""
    if before == after:
        return None
    matrix = _area_matrix(before, after) if order == "area" else _spline_matrix(before, after, order)
    if antialias and after < before:
        matrix = matrix @ _gaussian_matrix(before, (before / after - 1) / 2)
    return _blocks(np.where(np.abs(matrix) < _SMALLEST_WEIGHT, 0, matrix), block_rows)


def _spline_matrix(before: int, after: int, order: Literal[0, 1, 3]) -> NDArray[np.float64]:
    """What scipy's zoom does to unit vectors, so that its spline prefilter and its edges are included."""
    from scipy.ndimage import zoom

    unit_vectors: NDArray[np.float64] = np.eye(before)
    return zoom(unit_vectors, (1 / (before / after), 1.0), order=order, mode="nearest", grid_mode=True)


def _area_matrix(before: int, after: int) -> NDArray[np.float64]:
    """Adaptive average pooling: output i is the mean over inputs floor(i n / m) to ceil((i + 1) n / m)."""
    matrix = np.zeros((after, before))
    for output, row in enumerate(matrix):
        first, last = output * before // after, -(-(output + 1) * before // after)
        row[first:last] = 1 / (last - first)
    return matrix


def _gaussian_matrix(size: int, sigma: float) -> NDArray[np.float64]:
    from scipy.ndimage import gaussian_filter1d

    matrix: NDArray[np.float64] = gaussian_filter1d(np.eye(size), sigma, axis=0, mode="nearest")
    return matrix


def _blocks(matrix: NDArray[np.float64], block_rows: int) -> tuple[Block, ...]:
    blocks = []
    for first in range(0, len(matrix), block_rows):
        rows = matrix[first : first + block_rows]
        touched = np.flatnonzero(rows.any(axis=0))
        inputs = slice(int(touched[0]), int(touched[-1]) + 1)
        weights = np.ascontiguousarray(rows[:, inputs], dtype=np.float32)
        blocks.append(Block(slice(first, first + len(rows)), inputs, weights))
    return tuple(blocks)


def _resample_volume(volume: NDArray[Any], axes: Sequence[Axis], separate_axis: int | None, out: NDArray[Any]) -> None:
    """Fill `out` [z, y, x]: within planes first, then through them, along the first axis or the separate one."""
    first = separate_axis or 0
    volume, out = np.moveaxis(volume, first, 0), np.moveaxis(out, first, 0)
    rows, columns = (axis for number, axis in enumerate(axes) if number != first)
    through = axes[first]
    limits = float(volume.min()), float(volume.max())
    blocks = _unchanged(len(volume)) if through is None else through

    def fill(part: slice) -> None:
        windows = _resized_windows(volume, blocks[part], rows, columns, out.shape[1:], separate_axis is not None)
        for block, planes in windows:
            mixed = planes if through is None else _along_depth(planes, block.weights)
            _put(mixed, limits, out[block.outputs])

    with one_thread_a_product():
        run_parts(fill, split(len(blocks), most=min(available_cpus(), _MOST_THREADS)))


def _put(values: NDArray[np.float32], limits: tuple[float, float], out: NDArray[Any]) -> None:
    """Clip values to limits into `out`; an integer type takes them rounded, and clipped to its own range too."""
    if out.dtype.kind == "f":
        np.clip(values, *limits, out=out)
        return
    whole = np.iinfo(out.dtype)
    clipped = np.clip(values, max(limits[0], whole.min), min(limits[1], whole.max))
    np.rint(clipped, out=clipped)
    out[...] = clipped


def _unchanged(size: int) -> tuple[Block, ...]:
    """The blocks of an axis that stays as it is; their weights are not used."""
    spans = [slice(first, min(first + _THROUGH_ROWS, size)) for first in range(0, size, _THROUGH_ROWS)]
    return tuple(Block(span, span, np.empty((0, 0), dtype=np.float32)) for span in spans)


def _resized_windows(
    volume: NDArray[Any],
    blocks: Sequence[Block],
    rows: Axis,
    columns: Axis,
    shape: Sequence[int],
    clip_each: bool,
) -> Iterator[tuple[Block, NDArray[np.float32]]]:
    """Yield each block with its input planes, resized in-plane to `shape`; what two windows share is made once."""
    window = np.empty((max(_length(block.inputs) for block in blocks), *shape), dtype=np.float32)
    held = slice(0, 0)
    for block in blocks:
        wanted = block.inputs
        kept = max(held.stop - wanted.start, 0)
        window[:kept] = window[_length(held) - kept : _length(held)]
        new = volume[max(held.stop, wanted.start) : wanted.stop]
        _resize_planes(new, rows, columns, window[kept : _length(wanted)], clip_each=clip_each)
        held = wanted
        yield block, window[: _length(wanted)]


def _length(span: slice) -> int:
    return int(span.stop - span.start)


def resize_planes(
    planes: NDArray[Any], rows: Axis, columns: Axis, out: NDArray[np.float32], *, clip_each: bool = False
) -> None:
    """Fill `out` [d, y', x'] with planes [d, y, x] resized along both axes, each clipped to its range if asked to."""
    with one_thread_a_product():
        _resize_planes(planes, rows, columns, out, clip_each=clip_each)


def _resize_planes(
    planes: NDArray[Any], rows: Axis, columns: Axis, out: NDArray[np.float32], *, clip_each: bool
) -> None:
    for first in range(0, len(planes), _PLANES_TOGETHER):
        part = np.ascontiguousarray(planes[first : first + _PLANES_TOGETHER], dtype=np.float32)
        target = out[first : first + _PLANES_TOGETHER]
        target[...] = _along_rows(_along_columns(part, columns), rows)
        if clip_each:
            low, high = part.min(axis=(1, 2), keepdims=True), part.max(axis=(1, 2), keepdims=True)
            np.clip(target, low, high, out=target)


def _along_columns(planes: NDArray[np.float32], axis: Axis) -> NDArray[np.float32]:
    if axis is None:
        return planes
    out = np.empty((*planes.shape[:2], axis[-1].outputs.stop), dtype=np.float32)
    for block in axis:
        np.matmul(planes[:, :, block.inputs], block.weights.T, out=out[:, :, block.outputs])
    return out


def _along_rows(planes: NDArray[np.float32], axis: Axis) -> NDArray[np.float32]:
    if axis is None:
        return planes
    out = np.empty((len(planes), axis[-1].outputs.stop, planes.shape[2]), dtype=np.float32)
    for block in axis:
        np.matmul(block.weights, planes[:, block.inputs], out=out[:, block.outputs])
    return out


def _along_depth(planes: NDArray[np.float32], weights: NDArray[np.float32]) -> NDArray[np.float32]:
    out = np.empty((len(weights), *planes.shape[1:]), dtype=np.float32)
    np.matmul(weights, planes.transpose(1, 0, 2), out=out.transpose(1, 0, 2))
    return out
