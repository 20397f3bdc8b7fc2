"""The lungs' box in a CT scan: air inside the body, found on a coarse copy. It decides only what need not be run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from siccs_net.records.case import Box

LUNG_THRESHOLD_HU = -300.0
"""Between lung with ground-glass and most fibrosis in it and fat (-100 HU): at -500 HU the box of 4 of 17 phantoms left
out more than 8 mm of a fibrotic base, at -300 HU none more than 1.5 mm."""
LUNG_MARGIN_MM = 8.0
_COARSE_MM = 3.5
"""Voxels of the coarse copy lie at most this far apart, as for the body's box: nearer than a chest wall is thick."""
_SMALLEST_PIECE = 0.05
"""A component with at least this share of the largest one's voxels may be lung. Bowel gas only makes the box larger."""
_LEAST_ML = 500.0
"""Less air than this is no pair of lungs: a few slices, a child's, or a body without them. Nothing is skipped then."""
_LEAST_SIDE = 0.2
"""The emptier half of the body holds at least this share of the fuller one's air. Where a lung is solid, removed or
outside the field of view, the other one's box would leave it out."""
_LARGEST_HOLE_MM2 = 500.0
"""A larger area of air that tissue surrounds on a side of the image is a lung that the side cuts..."""
_LEAST_TISSUE = 0.1
"""...where that much of the side is tissue: a table is less (0.04 in a real scan). A lung that is only grazed is
found missing by `_LEAST_SIDE`, as the image still spans the body."""


def lung_box(image_hu: NDArray[Any], spacing_mm: Sequence[float], *, margin_mm: float = LUNG_MARGIN_MM) -> Box | None:
    """Return the box ((z0, z1), (y0, y1), (x0, x1)) of the lungs in a CT scan [z, y, x] in HU, with a margin.

    Lungs are the large face-connected components of air that do not touch the sides of the image (they may touch its
    first and last slice), on every n-th voxel. The box reaches over the voxels that were skipped, then `margin_mm`
    further, and is clipped to the image. None where no pair of lungs is found: too little air, on one side only, or cut
    by a side of the image.
    """
    strides = [max(1, math.floor(_COARSE_MM / spacing)) for spacing in spacing_mm]
    steps = [stride * spacing for stride, spacing in zip(strides, spacing_mm, strict=True)]
    air = image_hu[tuple(slice(None, None, stride) for stride in strides)] < LUNG_THRESHOLD_HU
    lungs = None if _is_cut(air, steps) else _inner_air(air)
    if lungs is None or np.count_nonzero(lungs) * math.prod(steps) < _LEAST_ML * 1000 or not _on_both_sides(lungs):
        return None
    z, y, x = (
        _span(lungs, axis, stride, math.ceil(margin_mm / spacing), size)
        for axis, (stride, spacing, size) in enumerate(zip(strides, spacing_mm, image_hu.shape, strict=True))
    )
    return z, y, x


def beyond_box_mm(mask: NDArray[np.bool_], box: Box, spacing_mm: Sequence[float]) -> float:
    """Return how far a mask [z, y, x] reaches beyond a box, the largest over its six faces; 0 for one inside it."""
    farthest = 0.0
    for axis, ((start, end), spacing) in enumerate(zip(box, spacing_mm, strict=True)):
        places = np.flatnonzero(mask.any(axis=tuple(other for other in range(3) if other != axis)))
        if len(places):
            farthest = max(farthest, (start - places[0]) * spacing, (places[-1] + 1 - end) * spacing)
    return float(farthest)


def _is_cut(air: NDArray[np.bool_], steps: Sequence[float]) -> bool:
    """Say whether tissue surrounds much air on a side of the image: before, behind, and beside, within the slices."""
    from scipy.ndimage import label

    across = {1: steps[0] * steps[2], 2: steps[0] * steps[1]}
    for axis, area in across.items():
        for place in (0, -1):
            face = air.take(place, axis=axis)
            components, count = label(face)
            sizes = np.bincount(components.ravel(), minlength=count + 1) * area
            sizes[0] = 0
            sizes[np.unique(components[:, [0, -1]])] = 0
            if sizes.max() > _LARGEST_HOLE_MM2 and face.mean() < 1 - _LEAST_TISSUE:
                return True
    return False


def _inner_air(air: NDArray[np.bool_]) -> NDArray[np.bool_] | None:
    """Return the large components that touch no side of the image; None without any."""
    from scipy.ndimage import label

    components, count = label(air)
    sizes = np.bincount(components.ravel(), minlength=count + 1)
    sizes[0] = 0
    for face in (components[:, 0], components[:, -1], components[:, :, 0], components[:, :, -1]):
        sizes[np.unique(face)] = 0
    if not sizes.any():
        return None
    kept: NDArray[np.bool_] = (sizes >= max(_SMALLEST_PIECE * sizes.max(), 1))[components]
    return kept


def _on_both_sides(lungs: NDArray[np.bool_]) -> bool:
    """Say whether neither half of the image, which is the body's box, holds hardly any of the air."""
    columns = np.count_nonzero(lungs, axis=(0, 1))
    middle = len(columns) // 2
    first, second = int(columns[:middle].sum()), int(columns[middle:].sum())
    return min(first, second) >= _LEAST_SIDE * max(first, second)


def _span(lungs: NDArray[np.bool_], axis: int, stride: int, margin: int, size: int) -> tuple[int, int]:
    """Take the lungs' span on the coarse copy to voxels: up to the neighbours that were skipped, then the margin."""
    places = np.flatnonzero(lungs.any(axis=tuple(other for other in range(3) if other != axis)))
    first, last = int(places[0]) * stride - (stride - 1), int(places[-1]) * stride + (stride - 1)
    return max(first - margin, 0), min(last + 1 + margin, size)
