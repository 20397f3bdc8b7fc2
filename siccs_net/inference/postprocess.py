"""Post-processing of label maps [z, y, x]: off-lung voxels, small components, holes. Never the largest component only:
interstitial lung disease has many foci.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from siccs_net.errors import DataError
from siccs_net.records.postprocessing import FillHoles, MinimumVolume, PostStep, RestrictToLung

_FACES, _CORNERS = 1, 3
"""Connectivity: foreground components touch at faces, edges or corners, background ones at faces."""
_Box = tuple[slice, slice, slice]


def postprocess(labels: NDArray[Any], steps: Sequence[PostStep], spacing_mm: Sequence[float]) -> NDArray[Any]:
    """Apply steps in their order to a label map [z, y, x] of whole numbers; return a new one of the same type.

    `spacing_mm` is along z, y and x. Raises DataError for anything but a map of whole numbers with three spacings.
    """
    if labels.ndim != 3 or labels.dtype.kind not in "iu" or len(spacing_mm) != 3 or min(spacing_mm) <= 0:
        raise DataError(
            "only label maps [z, y, x] of whole numbers with three positive spacings are post-processed",
            found=f"shape {labels.shape}, {labels.dtype}, spacing {tuple(spacing_mm)} mm",
        )
    result = labels.copy()
    box = foreground_box(labels)
    if box is not None:
        inside = result[box]
        for step in steps:
            inside = apply_step(inside, step, spacing_mm)
        result[box] = inside
    return result


def apply_step(labels: NDArray[Any], step: PostStep, spacing_mm: Sequence[float]) -> NDArray[Any]:
    """Apply one step; the map itself is returned when there is nothing to change, else a changed copy."""
    match step:
        case RestrictToLung():
            return _restrict_to_lung(labels, step, spacing_mm)
        case MinimumVolume():
            return _remove_small(labels, step, spacing_mm)
        case FillHoles():
            return _fill_holes(labels, step, spacing_mm)


def describe(step: PostStep) -> str:
    """Return a step in words."""
    match step:
        case RestrictToLung():
            return f"remove labels {_listed(step.labels)} more than {step.distance_mm:g} mm off the lungs"
        case MinimumVolume():
            return f"merge components of label {step.label} below {step.minimum_mm3:g} mm³ into what surrounds them"
        case FillHoles():
            size = "" if step.maximum_mm3 is None else f" up to {step.maximum_mm3:g} mm³"
            return f"fill holes{size} enclosed by labels {_listed(step.labels)}"


def _listed(values: Iterable[int]) -> str:
    return ", ".join(map(str, values))


def foreground_box(labels: NDArray[Any]) -> _Box | None:
    """Return the box of all labelled voxels and one voxel around it; None for an empty map."""
    found = []
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        places = np.flatnonzero(labels.any(axis=others))
        if not len(places):
            return None
        found.append(slice(max(int(places[0]) - 1, 0), min(int(places[-1]) + 2, labels.shape[axis])))
    return found[0], found[1], found[2]


def _restrict_to_lung(labels: NDArray[Any], step: RestrictToLung, spacing_mm: Sequence[float]) -> NDArray[Any]:
    lungs = _large_components(_is_any(labels, step.lung), step.smallest_share)
    outside = _is_any(labels, step.labels) & ~lungs
    if not lungs.any() or not outside.any():
        return labels
    components, count = _components(outside, _CORNERS)
    # What touches the lungs stays, however thick the slices are.
    limit_mm = max(step.distance_mm, math.hypot(*spacing_mm) * 1.000001)
    far = ~_come_near(components, count, lungs, spacing_mm, limit_mm)
    far[0] = False
    return np.where(far[components], labels.dtype.type(0), labels) if far.any() else labels


def _come_near(
    components: NDArray[Any], count: int, lungs: NDArray[np.bool_], spacing_mm: Sequence[float], limit_mm: float
) -> NDArray[np.bool_]:
    """Say for each component whether any voxel of it lies within so many mm of the lungs; entry 0 is no component's.

    Only surfaces are compared, in a tree: a map of distances of a whole chest takes ten times as long.
    """
    from scipy.spatial import KDTree

    tree = KDTree(np.argwhere(_surface(lungs)) * np.asarray(spacing_mm))
    places = np.argwhere(_surface(components > 0))
    distances, _ = tree.query(places * np.asarray(spacing_mm), distance_upper_bound=np.nextafter(limit_mm, np.inf))
    near = np.zeros(count + 1, dtype=np.bool_)
    near[components[tuple(places[np.isfinite(distances)].T)]] = True
    return near


def _surface(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    from scipy.ndimage import binary_erosion

    return mask & ~binary_erosion(mask)


def _large_components(mask: NDArray[np.bool_], smallest_share: float) -> NDArray[np.bool_]:
    components, count = _components(mask, _CORNERS)
    sizes = _sizes(components, count)
    large: NDArray[np.bool_] = (sizes >= smallest_share * sizes.max()) & (sizes > 0)
    found: NDArray[np.bool_] = large[components]
    return found


def _remove_small(labels: NDArray[Any], step: MinimumVolume, spacing_mm: Sequence[float]) -> NDArray[Any]:
    components, count = _components(labels == step.label, _CORNERS)
    volumes = _sizes(components, count) * math.prod(spacing_mm)
    small = np.flatnonzero((volumes > 0) & (volumes < step.minimum_mm3))
    return _refilled(labels, components, {int(number): None for number in small})


def _fill_holes(labels: NDArray[Any], step: FillHoles, spacing_mm: Sequence[float]) -> NDArray[Any]:
    components, count = _components(labels == 0, _FACES)
    volumes = _sizes(components, count) * math.prod(spacing_mm)
    limit = math.inf if step.maximum_mm3 is None else step.maximum_mm3
    open_ones = set(_on_the_border(components))
    closed = [n for n in range(1, count + 1) if volumes[n] <= limit and n not in open_ones]
    return _refilled(labels, components, dict.fromkeys(closed, frozenset(step.labels)))


def _on_the_border(components: NDArray[Any]) -> list[int]:
    """Return the components that reach the end of the array; an axis of one slice has no end."""
    ends = [components.take(place, axis) for axis, n in enumerate(components.shape) if n > 1 for place in (0, -1)]
    return sorted({int(number) for end in ends for number in np.unique(end)})


def _refilled(labels: NDArray[Any], components: NDArray[Any], chosen: dict[int, frozenset[int] | None]) -> NDArray[Any]:
    """Give each chosen component the most common label of the voxels at its faces (the smallest of equals).

    One that must be enclosed by certain labels alone, and is not, stays as it is.
    """
    from scipy.ndimage import binary_dilation, find_objects

    if not chosen:
        return labels
    boxes = find_objects(components)
    result = labels.copy()
    for number, enclosing in chosen.items():
        box = _grown(boxes[number - 1], labels.shape)
        inside = components[box] == number
        around = labels[box][binary_dilation(inside) & ~inside]
        counts = np.bincount(around) if around.size else np.ones(1, dtype=np.int64)
        if enclosing is None or enclosing.issuperset(np.flatnonzero(counts).tolist()):
            result[box][inside] = int(counts.argmax())
    return result


def _grown(box: Sequence[slice], shape: Sequence[int]) -> _Box:
    z, y, x = (slice(max(part.start - 1, 0), min(part.stop + 1, n)) for part, n in zip(box, shape, strict=True))
    return z, y, x


def _components(mask: NDArray[np.bool_], connectivity: int) -> tuple[NDArray[Any], int]:
    from scipy.ndimage import generate_binary_structure, label

    components, count = label(mask, generate_binary_structure(3, connectivity))
    return components, int(count)


def _sizes(components: NDArray[Any], count: int) -> NDArray[np.int64]:
    """Return the voxels of each component; entry 0, what is in none, counts as empty."""
    sizes = np.bincount(components.ravel(), minlength=count + 1)
    sizes[0] = 0
    return sizes


def _is_any(labels: NDArray[Any], values: Sequence[int]) -> NDArray[np.bool_]:
    table = np.zeros(max(int(labels.max()), *values) + 1, dtype=np.bool_)
    table[list(values)] = True
    found: NDArray[np.bool_] = table[labels]
    return found
