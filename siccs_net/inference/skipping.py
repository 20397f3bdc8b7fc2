"""Which tiles of a prepared case run: all, or those that touch the lungs' box (docs/decisions/0012).

The grid of tiles stays what it is without skipping. Tiles that touch a box are a product of intervals, so the ones that
run are a grid too, with the same weights: inside the box the logits are the same to the bit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from siccs_net.inference.sliding_window import Axis, Slab, count_tiles
from siccs_net.io.store import PreparedCase
from siccs_net.preprocessing.lung_box import lung_box
from siccs_net.records.case import Box, CaseGeometry
from siccs_net.records.prediction import Skipped, Tiles

BACKGROUND_LOGIT = -1e4
"""Of every class but the background, outside the box: its softmax and its sigmoid are exactly 0 in float32."""


LEAST_SAVED = 0.1
"""Where a smaller share of the tiles lies outside, all are run: the answer is then that of no skipping everywhere."""


class ForegroundAtFaceError(Exception):
    """Foreground was found on a face of the box, so the box may cut it: the scan is run again as a whole."""


@dataclass(frozen=True)
class Window:
    """The tiles that run: `axes` of the part `hull` of the prepared image. The answer is kept inside `box`."""

    axes: tuple[Axis, Axis, Axis]
    shape: tuple[int, ...]
    hull: Box
    box: Box
    tiles: Tiles


def whole_window(axes: tuple[Axis, Axis, Axis], *, why: Skipped) -> Window:
    """Return the window of every tile, and why nothing is skipped."""
    shape = tuple(axis.size for axis in axes)
    whole: Box = ((0, shape[0]), (0, shape[1]), (0, shape[2]))
    total = count_tiles(axes)
    return Window(axes, shape, whole, whole, Tiles(run=total, total=total, skipped=why))


def lung_window(prepared: PreparedCase, axes: tuple[Axis, Axis, Axis]) -> Window:
    """Return the window of the tiles that touch the lungs' box of a prepared CT in HU.

    It is that of all tiles where no lungs are found, and where hardly any tile would be saved.
    """
    box = prepared_lung_box(prepared)
    if box is None:
        return whole_window(axes, why="nothing: no lungs found")
    window = box_window(axes, box)
    if window.tiles.run > (1 - LEAST_SAVED) * window.tiles.total:
        return whole_window(axes, why="nothing: few tiles lie outside the lungs")
    return window


def prepared_lung_box(prepared: PreparedCase) -> Box | None:
    """Return the lungs' box of a prepared CT in HU, in plan axes; None where no lungs are found."""
    geometry = prepared.record.geometry
    back = [geometry.transpose.index(axis) for axis in range(3)]
    spacing = prepared_spacing_mm(geometry)
    found = lung_box(prepared.image[0].transpose(back), [spacing[axis] for axis in back])
    if found is None:
        return None
    z, y, x = (found[axis] for axis in geometry.transpose)
    return z, y, x


def prepared_spacing_mm(geometry: CaseGeometry) -> tuple[float, float, float]:
    """Return the spacing of a prepared case in plan axes: that of its scan, times what resampling made of the crop."""
    own = [geometry.canonical_spacing_mm[axis] for axis in geometry.transpose]
    sizes = zip(own, geometry.crop_box, geometry.prepared_shape, strict=True)
    z, y, x = (spacing * (end - start) / size for spacing, (start, end), size in sizes)
    return z, y, x


def box_window(axes: tuple[Axis, Axis, Axis], box: Box) -> Window:
    """Return the window of the tiles that touch a box."""
    depth, rows, columns = (_restricted(axis, span) for axis, span in zip(axes, box, strict=True))
    kept, hull = (depth[0], rows[0], columns[0]), (depth[1], rows[1], columns[1])
    tiles = Tiles(run=count_tiles(kept), total=count_tiles(axes), skipped="outside the lungs")
    return Window(kept, tuple(axis.size for axis in axes), hull, box, tiles)


def _restricted(axis: Axis, span: tuple[int, int]) -> tuple[Axis, tuple[int, int]]:
    """Return the tiles of an axis that touch a span, as an axis of the part that they cover, and that part."""
    starts = [start for start in axis.starts if start < span[1] and start + axis.patch > span[0]]
    first, last = max(starts[0], 0), min(starts[-1] + axis.patch, axis.size)
    return replace(axis, size=last - first, starts=tuple(start - first for start in starts)), (first, last)


def with_background(slabs: Iterator[Slab], window: Window, outputs: int, *, regions: bool) -> Iterator[Slab]:
    """Yield slabs of the whole image from those of the window's hull: outside the box is background.

    Raises ForegroundAtFaceError as soon as foreground lies on a face of the box that is not one of the image's.
    """
    if window.box == tuple((0, size) for size in window.shape):
        yield from slabs
        return
    (top, bottom), (y0, y1), (x0, x1) = window.box
    (z_hull, _), (y_hull, _), (x_hull, _) = window.hull
    empty = _background(outputs, (1, *window.shape[1:]), regions=regions)
    yield from ((plane, empty) for plane in range(z_hull))
    for start, part in slabs:
        first = start + z_hull
        whole = _background(outputs, (part.shape[1], *window.shape[1:]), regions=regions)
        z0, z1 = max(first, top), min(first + part.shape[1], bottom)
        if z0 < z1:
            kept = part[:, z0 - first : z1 - first, y0 - y_hull : y1 - y_hull, x0 - x_hull : x1 - x_hull]
            _check_faces(kept, z0, window, regions=regions)
            whole[:, z0 - first : z1 - first, y0:y1, x0:x1] = kept
        yield first, whole
    yield from ((plane, empty) for plane in range(window.hull[0][1], window.shape[0]))


def _background(outputs: int, shape: Sequence[int], *, regions: bool) -> NDArray[np.float32]:
    logits = np.full((outputs, *shape), BACKGROUND_LOGIT, dtype=np.float32)
    if not regions:
        logits[0] = 0
    return logits


def _check_faces(kept: NDArray[np.float32], first: int, window: Window, *, regions: bool) -> None:
    """Raise ForegroundAtFaceError for foreground on the inner faces of the box in logits [output, d, y, x]."""
    offsets = (first, window.box[1][0], window.box[2][0])
    for axis, (start, end) in enumerate(window.box):
        for place in {start} - {0} | {end - 1} - {window.shape[axis] - 1}:
            inside = place - offsets[axis]
            if 0 <= inside < kept.shape[axis + 1]:
                face = kept[(slice(None),) * (axis + 1) + (inside,)]
                if (face > 0 if regions else face[1:] > face[:1]).any():
                    raise ForegroundAtFaceError
