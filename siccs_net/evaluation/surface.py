"""Distances between the surfaces of two masks: normalised surface Dice (NSD) and 95 % Hausdorff distance (HD95).

Defined as MONAI defines them (`compute_surface_dice` without subvoxels, `compute_hausdorff_distance` with
percentile=95): a surface voxel belongs to the class and has a face neighbour that does not; outside of the volume
nothing belongs to the class. Distances run between centres of surface voxels, in mm.

All classes go through one pass: a voxel's memberships are bits of one byte, and its surface bits are those that not
all its face neighbours share. Only surface voxels are kept, and only those that the other mask's surface does not
share are looked up in a k-d tree: the others lie at distance 0.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from siccs_net.errors import GeometryError, UsageError
from siccs_net.evaluation.overlap import check_pair, code_table, lookup

TOLERANCES_MM = (2.0, 5.0)
_PERCENTILE = 95
_BITS = 8
_SLAB_VOXELS = 2**20
_QUERIED = 2**16


@dataclass(frozen=True)
class SurfaceMetrics:
    """NSD in 0..1 by tolerance in mm ("2", "5", as `format(tolerance, "g")`), and HD95 in mm; None is undefined."""

    nsd: dict[str, float | None]
    hd95_mm: float | None


@dataclass(frozen=True)
class _Surface:
    """Surface voxels of one mask: flat indices [n], class bits [n], and the other mask's surface bits there [n]."""

    voxels: NDArray[np.unsignedinteger]
    bits: NDArray[np.uint8]
    other: NDArray[np.uint8]


def surface_metrics(
    prediction: NDArray[Any],
    reference: NDArray[Any],
    spacing_mm: Sequence[float],
    classes: Mapping[str, Sequence[int]],
    tolerances_mm: Sequence[float] = TOLERANCES_MM,
    *,
    ignore_label: int | None = None,
    workers: int = 1,
) -> dict[str, SurfaceMetrics]:
    """Measure NSD and HD95 between two label maps [z, y, x] or [y, x] for each class, a name and its label values.

    HD95 is the larger of the two directed 95th percentiles. In neither mask: both None. In one mask only: NSD 0,
    HD95 None. Axes of length one are dropped: a volume of one slice is measured in 2D, since in 3D its every voxel
    would touch the outside and be surface. Voxels whose reference is `ignore_label` belong to no class in either
    mask, and touching them makes no voxel surface: slices labelled one by one have outlines. `workers` threads look up
    distances. Raises GeometryError for two shapes or a spacing that does not fit, DataError for maps that do not hold
    whole numbers, UsageError for a tolerance below 0 or a label value outside 0..65535.
    """
    check_pair(prediction, reference)
    _check_numbers(spacing_mm, prediction.ndim, tolerances_mm)
    spacing = [step for step, size in zip(spacing_mm, prediction.shape, strict=True) if size > 1] or [1.0]
    pair = _crop([np.atleast_1d(prediction.squeeze()), np.atleast_1d(reference.squeeze())], classes)
    distinct = list(dict.fromkeys(frozenset(values) for values in classes.values()))
    measured: dict[frozenset[int], SurfaceMetrics] = {}
    for first in range(0, len(distinct), _BITS):
        batch = distinct[first : first + _BITS]
        surfaces = _surfaces(pair, batch, ignore_label)
        for bit, values in enumerate(batch):
            distances = _distances(surfaces, bit, pair[0].shape, spacing, workers)
            measured[values] = _metrics(distances, tolerances_mm)
    return {name: measured[frozenset(values)] for name, values in classes.items()}


def _check_numbers(spacing_mm: Sequence[float], axes: int, tolerances_mm: Sequence[float]) -> None:
    if len(spacing_mm) != axes or not all(math.isfinite(step) and step > 0 for step in spacing_mm):
        expected = f"{axes} positive numbers, one an axis"
        raise GeometryError(
            "the spacing does not fit the label map", found=f"{tuple(spacing_mm)} mm", expected=expected
        )
    if not all(math.isfinite(tolerance) and tolerance >= 0 for tolerance in tolerances_mm):
        raise UsageError("a tolerance of NSD is not usable", found=tuple(tolerances_mm), expected="mm, 0 or more")


def _crop(pair: Sequence[NDArray[Any]], classes: Mapping[str, Sequence[int]]) -> list[NDArray[Any]]:
    """Return views of both maps in the box of what is not 0 in either, unless some class holds 0."""
    if any(0 in values for values in classes.values()):
        return list(pair)
    cropped = list(pair)
    for axis in range(pair[0].ndim):
        rest = tuple(other for other in range(pair[0].ndim) if other != axis)
        occupied = np.flatnonzero(cropped[0].any(axis=rest) | cropped[1].any(axis=rest))
        first, end = (int(occupied[0]), int(occupied[-1]) + 1) if occupied.size else (0, 0)
        box = (slice(None),) * axis + (slice(first, end),)
        cropped = [labels[box] for labels in cropped]
    return cropped


def _surfaces(
    pair: Sequence[NDArray[Any]], batch: Sequence[frozenset[int]], ignore_label: int | None
) -> tuple[_Surface, _Surface]:
    """Return the surface voxels of both masks, slab by slab: no whole volume of bits is ever held."""
    table = _membership_table(batch)
    predicted: list[_Surface] = []
    wanted: list[_Surface] = []
    planes = len(pair[0])
    plane_voxels = math.prod(pair[0].shape[1:])
    step = max(1, _SLAB_VOXELS // max(plane_voxels, 1))
    index_type = np.min_scalar_type(planes * plane_voxels)
    for first in range(0, planes, step):
        slab = range(first, min(first + step, planes))
        one, other = (_edges(labels, slab, table, pair[1], ignore_label).ravel() for labels in pair)
        predicted.append(_sparse(one, other, first * plane_voxels, index_type))
        wanted.append(_sparse(other, one, first * plane_voxels, index_type))
    return _joined(predicted), _joined(wanted)


def _membership_table(batch: Sequence[frozenset[int]]) -> NDArray[np.uint8]:
    """Return the byte of each label value whose bit i says that it belongs to batch[i]."""
    values = {value for members in batch for value in members}
    codes = {value: sum(1 << bit for bit, members in enumerate(batch) if value in members) for value in values}
    return code_table(codes, np.uint8)


def _edges(
    labels: NDArray[Any], slab: range, table: NDArray[np.uint8], reference: NDArray[Any], ignore_label: int | None
) -> NDArray[np.uint8]:
    """Return the bits of each voxel of a slab of planes that a face neighbour lacks.

    Outside of the volume all bits are 0. Ignored voxels are left without a bit and lack none to their neighbours.
    """
    first, end = max(slab.start - 1, 0), min(slab.stop + 1, len(labels))
    bits = np.empty((end - first, *labels.shape[1:]), np.uint8)
    # Plane by plane, because indexing needs eight bytes a voxel.
    for plane, source in zip(bits, labels[first:end], strict=True):
        plane[...] = lookup(np.asarray(source), table)
    around = bits
    if ignore_label is not None:
        ignored = reference[first:end] == ignore_label
        bits[ignored] = 0
        around = np.where(ignored, np.uint8(255), bits)
    inner = bits.copy()
    for axis in range(bits.ndim):
        source, target = np.moveaxis(around, axis, 0), np.moveaxis(inner, axis, 0)
        target[1:] &= source[:-1]
        target[:-1] &= source[1:]
        if axis > 0 or first == 0:
            target[:1] = 0
        if axis > 0 or end == len(labels):
            target[-1:] = 0
    np.bitwise_xor(bits, inner, out=inner)
    return inner[slab.start - first : slab.stop - first]


def _sparse(edges: NDArray[np.uint8], other: NDArray[np.uint8], offset: int, index_type: np.dtype[Any]) -> _Surface:
    voxels = np.flatnonzero(edges != 0)
    return _Surface((voxels + offset).astype(index_type), edges[voxels], other[voxels])


def _joined(parts: Sequence[_Surface]) -> _Surface:
    if not parts:
        return _Surface(np.empty(0, np.uint8), np.empty(0, np.uint8), np.empty(0, np.uint8))
    return _Surface(
        np.concatenate([part.voxels for part in parts]),
        np.concatenate([part.bits for part in parts]),
        np.concatenate([part.other for part in parts]),
    )


def _distances(
    surfaces: tuple[_Surface, _Surface], bit: int, shape: tuple[int, ...], spacing: Sequence[float], workers: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the distances in mm of each mask's surface voxels [n] to the other's surface; infinite to an empty one."""
    predicted, wanted = surfaces
    return (
        _directed(predicted, wanted, np.uint8(1 << bit), shape, spacing, workers),
        _directed(wanted, predicted, np.uint8(1 << bit), shape, spacing, workers),
    )


def _directed(
    start: _Surface, end: _Surface, bit: np.uint8, shape: tuple[int, ...], spacing: Sequence[float], workers: int
) -> NDArray[np.float64]:
    from scipy.spatial import cKDTree

    own = (start.bits & bit) != 0
    shared = (start.other[own] & bit) != 0
    targets = end.voxels[(end.bits & bit) != 0]
    if not targets.size:
        return np.full(np.count_nonzero(own), np.inf)
    distances = np.zeros(len(shared))
    if not shared.all():
        # Voxel centres lie on a lattice: splitting cells in the middle builds faster and queries as fast.
        tree = cKDTree(_positions(targets, shape, spacing), balanced_tree=False, compact_nodes=False)
        apart = np.flatnonzero(~shared)
        voxels = start.voxels[own]
        for first in range(0, len(apart), _QUERIED):  # in pieces, whose positions and answers are small
            piece = apart[first : first + _QUERIED]
            distances[piece] = tree.query(_positions(voxels[piece], shape, spacing), workers=workers)[0]
    return distances


def _positions(
    voxels: NDArray[np.unsignedinteger], shape: tuple[int, ...], spacing: Sequence[float]
) -> NDArray[np.float64]:
    """Return the centres in mm [n, axes] of flat voxel indices [n]."""
    positions = np.empty((len(voxels), len(shape)))
    rest = voxels
    for axis in reversed(range(len(shape))):
        rest, index = np.divmod(rest, voxels.dtype.type(shape[axis]))
        np.multiply(index, spacing[axis], out=positions[:, axis])
    return positions


def _metrics(
    distances: tuple[NDArray[np.float64], NDArray[np.float64]], tolerances_mm: Iterable[float]
) -> SurfaceMetrics:
    surface_voxels = sum(map(len, distances))
    nsd: dict[str, float | None] = {
        format(tolerance, "g"): _within(distances, tolerance) / surface_voxels if surface_voxels else None
        for tolerance in tolerances_mm
    }
    if not all(map(len, distances)):
        return SurfaceMetrics(nsd, None)
    return SurfaceMetrics(nsd, max(float(np.percentile(directed, _PERCENTILE)) for directed in distances))


def _within(distances: Iterable[NDArray[np.float64]], tolerance: float) -> int:
    # In float32, as MONAI compares: five steps of 0.4 mm are then 2 mm, whatever the rounding of the products.
    return sum(int(np.count_nonzero(d.astype(np.float32) <= np.float32(tolerance))) for d in distances)
