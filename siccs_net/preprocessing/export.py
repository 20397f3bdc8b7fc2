"""From logits on the network's grid to classes or probabilities on another, plane by plane.

Logits arrive as slabs along the first axis, as a sliding window finishes them. An output plane is made as soon as
the two planes that it lies between are there; only the last two planes are held.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from siccs_net.errors import DataError, ModelError, UsageError
from siccs_net.preprocessing.cells import LinearAxis, MixedPoints, linear_axis, mixed_points, take_plane, uniform_cells
from siccs_net.preprocessing.resample import resampling_axis, resize_planes

Slab = tuple[int, NDArray[np.float32]]
"""Where a slab starts along the first axis, and its values [classes, d, y, x]."""
Logits = NDArray[np.float32]
_Item = TypeVar("_Item")


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
    z, y, x = _axes(source_shape, classes, target_shape, separate_axis)
    out = np.empty(tuple(target_shape), dtype=np.uint8 if classes <= 256 else np.uint16)
    planes = (_decide(logits, y, x) for logits in _planes(slabs, source_shape, classes))
    for output, (lower, upper) in enumerate(_neighbours(planes, z)):
        out[output] = take_plane(lower.winners, y.lower, x.lower)
        mixed = ~(lower.uniform & upper.uniform)
        if upper is not lower:
            mixed |= lower.winners != upper.winners
        points = mixed_points(mixed, y, x)
        if len(points.rows):
            out[output, points.rows, points.columns] = _largest(lower, upper, z.fraction[output], points, (y, x))
    return out


def probabilities_to_shape(
    slabs: Iterable[Slab],
    source_shape: Sequence[int],
    classes: int,
    target_shape: Sequence[int],
    *,
    separate_axis: int | None = None,
) -> Iterator[Slab]:
    """Yield (start, probabilities [classes, 1, y, x]) for every plane of `target_shape` in order.

    Probabilities are the softmax over classes of the linearly interpolated logits. Takes the slabs, and raises the
    errors, of `argmax_to_shape`.
    """
    z, _, _ = _axes(source_shape, classes, target_shape, separate_axis)
    rows, columns = (
        resampling_axis(source_shape[axis], target_shape[axis], 0 if axis == separate_axis else 1) for axis in (1, 2)
    )
    for output, (lower, upper) in enumerate(_neighbours(_planes(slabs, source_shape, classes), z)):
        probabilities = np.empty((classes, 1, *target_shape[1:]), dtype=np.float32)
        resize_planes(_between(lower, upper, z.fraction[output]), rows, columns, probabilities[:, 0])
        yield output, _softmax(probabilities)


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


def _planes(slabs: Iterable[Slab], source_shape: Sequence[int], classes: int) -> Iterator[Logits]:
    """Yield the planes [classes, y, x] of the slabs one by one; checks that they cover the source, each once."""
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
        _check_finite(slab)
        yield from (slab[:, plane] for plane in range(depth - 1))
        # A copy, so that a held plane does not keep its slab alive while the next one is made.
        last = slab[:, -1].copy()
        del slab
        yield last
        done += depth
    if done != source_shape[0]:
        raise DataError("the logits end before the volume does", found=f"{done} planes", expected=source_shape[0])


def _check_finite(slab: Logits) -> None:
    # A sum in float32 is finite unless a term is not (or it overflows): no array of truth values for every slab.
    with np.errstate(over="ignore", invalid="ignore"):
        total = slab.sum()
    if np.isfinite(total):
        return
    if wrong := int(slab.size - np.count_nonzero(np.isfinite(slab))):
        raise ModelError("the network's logits are not finite", found=f"{wrong} of {slab.size} in a slab")


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
    """Logits [classes, y, x] of a plane, the class with the largest one, and where neighbours agree on it."""

    logits: Logits
    winners: NDArray[Any]
    uniform: NDArray[np.bool_]


def _decide(logits: Logits, rows: LinearAxis, columns: LinearAxis) -> _Plane:
    winners = _argmax(logits)
    return _Plane(logits, winners, uniform_cells(winners, rows, columns))


def _argmax(logits: Logits) -> NDArray[Any]:
    """Return the lowest class with the largest logit, over the first axis."""
    best = logits[0].copy()
    winners = np.zeros(best.shape, dtype=np.uint8 if len(logits) <= 256 else np.uint16)
    for number, values in enumerate(logits[1:], start=1):
        np.copyto(winners, number, where=values > best)
        np.maximum(best, values, out=best)
    return winners


def _largest(
    lower: _Plane, upper: _Plane, fraction: np.float32, points: MixedPoints, axes: tuple[LinearAxis, LinearAxis]
) -> NDArray[Any]:
    """Return the class with the largest interpolated logit at points between two planes."""
    rows, columns = axes
    first, last = rows.lower[points.rows[0]], rows.upper[points.rows[-1]] + 1
    logits = _between(lower.logits[:, first:last], upper.logits[:, first:last], fraction)
    width = logits.shape[2]
    flat = logits.reshape(len(logits), -1)
    down, right = rows.fraction[points.rows], columns.fraction[points.columns]
    weights = (down_part * right_part for down_part in (1 - down, down) for right_part in (1 - right, right))
    interpolated = sum(
        flat.take(corner - first * width, axis=1) * weight
        for corner, weight in zip(points.corners, weights, strict=True)
    )
    return _argmax(interpolated)


def _between(lower: Logits, upper: Logits, fraction: np.float32) -> Logits:
    return lower if fraction == 0 else lower * (1 - fraction) + upper * fraction


def _softmax(logits: Logits) -> Logits:
    """Turn logits [classes, ...] into probabilities, in place."""
    logits -= logits.max(axis=0)
    np.exp(logits, out=logits)
    logits /= logits.sum(axis=0)
    return logits
