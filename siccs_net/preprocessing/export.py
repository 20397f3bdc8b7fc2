"""From logits on the network's grid to classes or probabilities on another, plane by plane.

Logits arrive as slabs along the first axis, as a sliding window finishes them. An output plane is made as soon as
the two planes that it lies between are there; only the last two planes are held.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from siccs_net.errors import DataError, ModelError, UsageError
from siccs_net.parallel import run_parts, split
from siccs_net.preprocessing.cells import LinearAxis, MixedPoints, linear_axis, mixed_cells, mixed_points, take_plane
from siccs_net.preprocessing.resample import resampling_axis, resize_planes

Slab = tuple[int, NDArray[np.float32]]
"""Where a slab starts along the first axis, and its values [classes, d, y, x]."""
Logits = NDArray[np.float32]
# Planes are taken together so that threads do not wait for each other at many small calls, within bounded memory.
_PLANES_TOGETHER = 16
_PLANE_VALUES_TOGETHER, _POINT_VALUES_TOGETHER = 2**21, 2**18
_Item = TypeVar("_Item")
_Decision = Callable[[Logits], NDArray[Any]]
"""What to make of logits [classes, ...]: an index for each place."""


def argmax_to_shape(
    slabs: Iterable[Slab],
    source_shape: Sequence[int],
    classes: int,
    target_shape: Sequence[int],
    *,
    separate_axis: int | None = None,
) -> NDArray[Any]:
    """Return the class [z, y, x] with the largest logit after linear interpolation to `target_shape`.

    `slabs` yields (start, logits [classes, d, y, x]) in ascending order without gaps or overlaps, together
    `source_shape` (z, y, x). Voxel centres lie at half indices and edges are repeated, as in
    skimage.transform.resize(order=1, mode="edge"); `separate_axis` takes the nearest slice along that axis instead.
    The lowest class wins a tie. Only cells whose corners disagree are interpolated, which changes no class.

    Returns uint8, or uint16 for more than 256 classes. Raises DataError for slabs that do not cover the source,
    ModelError for logits that are not finite, UsageError for a shape or axis that does not exist.
    """
    axes = _axes(source_shape, classes, target_shape, separate_axis)
    return _decide_to_shape(_checked(slabs, source_shape, classes), axes, _argmax, _index_type(classes))


def regions_to_shape(
    slabs: Iterable[Slab],
    source_shape: Sequence[int],
    regions: int,
    target_shape: Sequence[int],
    *,
    separate_axis: int | None = None,
) -> NDArray[Any]:
    """Return at each voxel [z, y, x] the last region whose linearly interpolated logit is positive, from 1; else 0.

    A positive logit is a probability above a half; painting regions one over another in their order leaves the last.
    Takes the slabs, and raises the errors, of `argmax_to_shape`. Only cells whose corners disagree on the last
    region are interpolated: where they agree, so does every weighted mean of their logits.
    """
    axes = _axes(source_shape, regions, target_shape, separate_axis)
    return _decide_to_shape(_checked(slabs, source_shape, regions), axes, _last_positive, _index_type(regions + 1))


def _decide_to_shape(
    slabs: Iterator[Slab], axes: Sequence[LinearAxis], decide: _Decision, dtype: type[np.unsignedinteger[Any]]
) -> NDArray[Any]:
    """Interpolate planes of logits along three axes and decide at every voxel, in as few voxels as suffice."""
    z, y, x = axes
    out = np.empty([len(axis.lower) for axis in axes], dtype=dtype)
    held: list[_Plane] = []
    for start, planes in _thinner(slabs):
        first = start - len(held)
        parts = [planes[:, part] for part in split(planes.shape[1])]
        decided = held + list(chain.from_iterable(run_parts(lambda part: _decided(part, decide, y, x), parts)))
        outputs = range(*np.searchsorted(z.upper, [start, start + planes.shape[1]]))
        most = max(_PLANE_VALUES_TOGETHER // planes[:, 0].size, 1)
        ready = [outputs[i : i + most] for i in range(0, len(outputs), most)]

        def fill(part: range, first: int = first, decided: list[_Plane] = decided) -> None:
            between = [(decided[z.lower[output] - first], decided[z.upper[output] - first]) for output in part]
            _fill_planes(out[part.start : part.stop], between, z.fraction[part.start : part.stop], (y, x), decide)

        run_parts(fill, ready)
        held = [replace(decided[-1], logits=decided[-1].logits.copy())]  # a view would keep its slab alive
    return out


def _fill_planes(
    out: NDArray[Any],
    between: Sequence[tuple[_Plane, _Plane]],
    fractions: NDArray[np.float32],
    axes: tuple[LinearAxis, LinearAxis],
    decide: _Decision,
) -> None:
    """Decide output planes [planes, y, x], each between two input planes: together, as small calls cost more."""
    y, x = axes
    mixed = np.empty((len(between), *between[0][0].winners.shape), dtype=np.bool_)
    for plane, cells, (lower, upper) in zip(out, mixed, between, strict=True):
        plane[...] = take_plane(lower.winners, y.lower, x.lower)
        np.not_equal(lower.winners, upper.winners, out=cells)
        cells |= lower.mixed
        cells |= upper.mixed
    points = mixed_points(mixed, y, x)
    if not len(points.rows):
        return
    used = slice(y.lower[points.rows.min()], y.upper[points.rows.max()] + 1)
    logits = _between_all(between, fractions, used)
    together = max(_POINT_VALUES_TOGETHER // len(logits), 1)
    for first in range(0, len(points.rows), together):
        part = points.part(slice(first, first + together))
        out[part.planes, part.rows, part.columns] = decide(_interpolated(logits, part, axes))


def _between_all(between: Sequence[tuple[_Plane, _Plane]], fractions: NDArray[np.float32], used: slice) -> Logits:
    """Return the logits [classes, planes * y * x] of output planes on the input's grid; only `used` rows are set."""
    classes, *shape = between[0][0].logits.shape
    logits = np.empty((classes, len(between), *shape), dtype=np.float32)
    for number, ((lower, upper), fraction) in enumerate(zip(between, fractions, strict=True)):
        logits[:, number, used] = _between(lower.logits[:, used], upper.logits[:, used], fraction)
    return logits.reshape(classes, -1)


def probabilities_to_shape(
    slabs: Iterable[Slab],
    source_shape: Sequence[int],
    classes: int,
    target_shape: Sequence[int],
    *,
    separate_axis: int | None = None,
    regions: bool = False,
) -> Iterator[Slab]:
    """Yield (start, probabilities [classes, 1, y, x]) for every plane of `target_shape` in order.

    Probabilities are the softmax over classes of the linearly interpolated logits, or with `regions` each region's
    sigmoid. Takes the slabs, and raises the errors, of `argmax_to_shape`.
    """
    z, _, _ = _axes(source_shape, classes, target_shape, separate_axis)
    rows, columns = (
        resampling_axis(source_shape[axis], target_shape[axis], 0 if axis == separate_axis else 1) for axis in (1, 2)
    )
    for output, (lower, upper) in enumerate(_neighbours(_planes(_checked(slabs, source_shape, classes)), z)):
        probabilities = np.empty((classes, 1, *target_shape[1:]), dtype=np.float32)
        resize_planes(_between(lower, upper, z.fraction[output]), rows, columns, probabilities[:, 0])
        yield output, _sigmoid(probabilities) if regions else _softmax(probabilities)


def _axes(
    source_shape: Sequence[int], classes: int, target_shape: Sequence[int], separate_axis: int | None
) -> list[LinearAxis]:
    shapes = (source_shape, target_shape)
    if any(len(shape) != 3 or min(shape) < 1 for shape in shapes):
        raise UsageError("not shapes to resample between", found=str(shapes), expected="three positive sizes each")
    if classes < 1 or separate_axis not in (None, 0, 1, 2):
        raise UsageError(
            "logits need at least one class, and a separate axis is one of their three spatial axes",
            found=f"{classes} classes, axis {separate_axis}",
        )
    sizes = zip(source_shape, target_shape, strict=True)
    return [linear_axis(*size, nearest_only=axis == separate_axis) for axis, size in enumerate(sizes)]


def _checked(slabs: Iterable[Slab], source_shape: Sequence[int], classes: int) -> Iterator[Slab]:
    """Yield the slabs; checks that they cover the source, each plane once."""
    done = 0
    for start, slab in slabs:
        depth = slab.shape[1] if slab.ndim == 4 else 0
        whole = slab.shape == (classes, depth, *source_shape[1:]) and depth > 0
        if not whole or start != done or done + depth > source_shape[0]:
            raise DataError(
                "a slab of logits does not follow the one before it",
                found=f"start {start}, shape {slab.shape}",
                expected=f"start {done}, shape ({classes}, d, {source_shape[1]}, {source_shape[2]}), "
                f"at most {source_shape[0]} planes in all",
            )
        yield start, slab
        del slab
        done += depth
    if done != source_shape[0]:
        raise DataError("the logits end before the volume does", found=f"{done} planes", expected=source_shape[0])


def _thinner(slabs: Iterator[Slab]) -> Iterator[Slab]:
    """Cut slabs into some of at most `_PLANES_TOGETHER` planes."""
    for start, slab in slabs:
        for first in range(0, slab.shape[1], _PLANES_TOGETHER):
            yield start + first, slab[:, first : first + _PLANES_TOGETHER]
        del slab


def _planes(slabs: Iterator[Slab]) -> Iterator[Logits]:
    """Yield the planes [classes, y, x] of the slabs one by one."""
    for _, slab in slabs:
        for plane in range(slab.shape[1] - 1):
            _check_finite(slab[:, plane])
            yield slab[:, plane]
        # A copy, so that a held plane does not keep its slab alive while the next one is made.
        last = slab[:, -1].copy()
        del slab
        _check_finite(last)
        yield last


def _check_finite(plane: Logits) -> None:
    # A sum in float32 is finite unless a term is not (or it overflows): no array of truth values for every plane.
    with np.errstate(over="ignore", invalid="ignore"):
        total = plane.sum()
    if np.isfinite(total):
        return
    if wrong := int(plane.size - np.count_nonzero(np.isfinite(plane))):
        raise ModelError("the network's logits are not finite", found=f"{wrong} of {plane.size} in a plane")


def _neighbours(planes: Iterator[_Item], axis: LinearAxis) -> Iterator[tuple[_Item, _Item]]:
    """Yield the lower and the upper input plane of every output plane; reads on to the end of the planes."""
    number = 0
    previous = current = next(planes)
    for lower, upper in zip(axis.lower.tolist(), axis.upper.tolist(), strict=True):
        while number < upper:
            previous = current
            current = next(planes)
            number += 1
        yield (current if lower == number else previous), current
    for _ in planes:
        pass


@dataclass(frozen=True)
class _Plane:
    """Logits [classes, y, x] of a plane, the class or region that wins, and the cells whose corners disagree on it."""

    logits: Logits
    winners: NDArray[Any]
    mixed: NDArray[np.bool_]


def _decided(logits: Logits, decide: _Decision, rows: LinearAxis, columns: LinearAxis) -> list[_Plane]:
    """Decide planes of logits [classes, planes, y, x], all in one call: threads wait at many small ones."""
    _check_finite(logits)
    winners = decide(logits)
    mixed = mixed_cells(winners, rows, columns)
    return [_Plane(logits[:, plane], winners[plane], mixed[plane]) for plane in range(len(winners))]


def _index_type(count: int) -> type[np.unsignedinteger[Any]]:
    return np.uint8 if count <= 256 else np.uint16


def _argmax(logits: Logits) -> NDArray[Any]:
    """Return the lowest class with the largest logit, over the first axis."""
    best = logits[0].copy()
    winners = np.zeros(best.shape, dtype=_index_type(len(logits)))
    for number, values in enumerate(logits[1:], start=1):
        _put_later(winners, number, values > best)
        np.maximum(best, values, out=best)
    return winners


def _last_positive(logits: Logits) -> NDArray[Any]:
    """Return the last of the regions on the first axis whose logit is positive, counted from 1; 0 for none."""
    last = np.zeros(logits.shape[1:], dtype=_index_type(len(logits) + 1))
    for number, values in enumerate(logits, start=1):
        _put_later(last, number, values > 0)
    return last


def _put_later(numbers: NDArray[Any], number: int, where: NDArray[np.bool_]) -> None:
    """Write a number, larger than all that are there, where it is wanted; several times as fast as a masked copy."""
    np.maximum(numbers, np.multiply(where, number, dtype=numbers.dtype), out=numbers)


def _interpolated(logits: Logits, points: MixedPoints, axes: tuple[LinearAxis, LinearAxis]) -> Logits:
    """Return the logits [classes, points] at points of planes whose logits are [classes, planes * y * x]."""
    rows, columns = axes
    down, right = rows.fraction.take(points.rows), columns.fraction.take(points.columns)
    weights = (down_part * right_part for down_part in (1 - down, down) for right_part in (1 - right, right))
    interpolated = np.zeros((len(logits), len(points.rows)), dtype=np.float32)
    for corner, weight in zip(points.corners, weights, strict=True):
        interpolated += logits.take(corner, axis=1) * weight
    return interpolated


def _between(lower: Logits, upper: Logits, fraction: np.float32) -> Logits:
    return lower if fraction == 0 else lower * (1 - fraction) + upper * fraction


def _softmax(logits: Logits) -> Logits:
    """Turn logits [classes, ...] into probabilities, in place."""
    logits -= logits.max(axis=0)
    np.exp(logits, out=logits)
    logits /= logits.sum(axis=0)
    return logits


def _sigmoid(logits: Logits) -> Logits:
    """Turn logits into probabilities, in place and without overflow."""
    logits *= 0.5
    np.tanh(logits, out=logits)
    logits += 1
    logits *= 0.5
    return logits
