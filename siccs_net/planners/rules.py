"""nnU-Net's rules for spacing, shape, first patch and pooling: numbers in, numbers out.

Source: Isensee et al., Nature Methods 18 (2021) 203-211 (supplementary note 2), in the form that nnU-Net 2.8.1 gives
them. Rounding is to the nearest, halves to the even number, throughout. The order of the floating-point operations is
part of the rule, because a patch of 96.5 voxels becomes 96 or 97 by its last bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from siccs_net.errors import UsageError
from siccs_net.planners.drafts import DatasetShape, Spacing
from siccs_net.preprocessing.resample import resampled_shape
from siccs_net.records.network import NetworkSpec

# An axis is thick when its spacing exceeds the others' by this factor and its extent in voxels falls short by it.
ANISOTROPY = 3.0
# Two axes are pooled together (and a kernel spans an axis) while their spacings differ by less than this factor.
POOLING_RATIO = 2.0
# No feature map gets shorter than this by pooling.
MIN_EDGE = 4
# A candidate patch starts with this many voxels (by dimension), in the proportions of the spacing.
FIRST_PATCH_VOXELS = {2: 2048**2, 3: 256**3}
# Scans are not made coarser when that leaves fewer voxels along their longest axis (assumed).
SHORTEST_COARSE = 128
# Widths double from level to level, from the first to the widest (by dimension).
FIRST_WIDTH = 32
WIDEST = {2: 512, 3: 320}


@dataclass(frozen=True)
class Topology:
    """How a patch is pooled, stage by stage; `patch_size` is the patch enlarged to a multiple of `divisor`."""

    patch_size: tuple[int, ...]
    divisor: tuple[int, ...]
    strides: tuple[tuple[int, ...], ...]
    kernel_sizes: tuple[tuple[int, ...], ...]


def target_spacing(shape: DatasetShape) -> Spacing:
    """Return the spacing [z, y, x] in mm to resample to: the median, or on a thick axis its 10th percentile.

    The thick axis never gets finer than the other two: thin outliers must not stretch thick scans.
    """
    spacings = np.asarray(shape.spacings_mm, dtype=np.float64)
    target = np.percentile(spacings, 50, axis=0)
    extent = np.percentile(np.asarray(shape.shapes, dtype=np.float64), 50, axis=0)
    worst = int(np.argmax(target))
    others = [axis for axis in range(3) if axis != worst]
    finest_allowed = max(target[others])
    if target[worst] > ANISOTROPY * finest_allowed and extent[worst] * ANISOTROPY < min(extent[others]):
        tenth = np.percentile(spacings[:, worst], 10)
        target[worst] = max(tenth, finest_allowed + 1e-5) if tenth < finest_allowed else tenth
    z, y, x = target.tolist()
    return z, y, x


def coarser_spacing(shape: DatasetShape) -> Spacing | None:
    """Return the target spacing [z, y, x] in mm with no axis finer than twice the finest: at most half the resolution.

    Thick slices so keep their distance. An axis along which the median scan has one voxel does not count. None where
    the median scan would have less than `SHORTEST_COARSE` voxels along its longest axis.
    """
    target = target_spacing(shape)
    size = median_resampled_shape(shape, target)
    finest = min((step for step, edge in zip(target, size, strict=True) if edge > 1), default=min(target))
    z, y, x = (max(step, 2 * finest) for step in target)
    return (z, y, x) if max(median_resampled_shape(shape, (z, y, x))) >= SHORTEST_COARSE else None


def thickest_first(spacing_mm: Spacing) -> tuple[int, int, int]:
    """Return the order of axes that puts the largest spacing first (the first of equals) and keeps the others."""
    worst = max(range(3), key=lambda axis: spacing_mm[axis])
    first, second = (axis for axis in range(3) if axis != worst)
    return worst, first, second


def widths(levels: int, dimension: int) -> tuple[int, ...]:
    """Return the number of channels of each level."""
    return tuple(min(FIRST_WIDTH * 2**level, WIDEST[dimension]) for level in range(levels))


def median_native_length(shape: DatasetShape, axis: int) -> float:
    """Return the median over cases of the length of a [z, y, x] axis as scanned, in voxels."""
    return float(np.median([case[axis] for case in shape.shapes]))


def level_volumes(network: NetworkSpec, patch_size: Sequence[int]) -> list[int]:
    """Return the number of voxels of a patch at each level of a network (after the stem)."""
    size = [length // stride for length, stride in zip(patch_size, network.stem_stride, strict=True)]
    volumes = []
    for strides in network.strides:
        size = [length // stride for length, stride in zip(size, strides, strict=True)]
        volumes.append(math.prod(size))
    return volumes


def transposed(values: Sequence[float], order: tuple[int, int, int]) -> tuple[float, float, float]:
    """Return [z, y, x] values in the order of the plan's axes."""
    return values[order[0]], values[order[1]], values[order[2]]


def median_resampled_shape(shape: DatasetShape, target_mm: Spacing) -> tuple[float, float, float]:
    """Return the median over cases, axis by axis, of the resampled shapes [z, y, x]; may end in .5."""
    shapes = [resampled_shape(*case, target_mm) for case in zip(shape.shapes, shape.spacings_mm, strict=True)]
    z, y, x = np.median(np.asarray(shapes), axis=0).tolist()
    return z, y, x


def first_patch(spacing_mm: Sequence[float], median_shape: Sequence[float]) -> tuple[float, ...]:
    """Return the patch to start from: as long in mm on every axis, no axis longer than the median image."""
    density = [1 / step for step in spacing_mm]
    dimension = len(density)
    scale = (FIRST_PATCH_VOXELS[dimension] / math.prod(density)) ** (1 / dimension)
    return tuple(min(round(per_mm * scale), size) for per_mm, size in zip(density, median_shape, strict=True))


def pooling(spacing_mm: Sequence[float], patch: Sequence[float], *, past_short: bool = False) -> Topology:
    """Return the pooling of a patch: halve the axes of finest spacing, and those within a factor 2 of it, while they
    are long enough; a kernel covers an axis (3, before that 1) once its spacing is within a factor 2 of the finest.

    An axis that is alone at its turn and shorter than 12 ends all pooling, as in nnU-Net; with `past_short` it is
    passed over and the other axes go on.
    """
    axes = range(len(patch))
    spacing, size = list(spacing_mm), list(patch)
    kernel, divisor = [1] * len(patch), [1] * len(patch)
    strides, kernels = [tuple(kernel)], []
    while pooled := _axes_to_pool(spacing, size, past_short):
        finest = min(spacing)
        kernel = [3 if kernel[axis] == 3 or spacing[axis] / finest < POOLING_RATIO else 1 for axis in axes]
        kernels.append(tuple(kernel))
        strides.append(tuple(2 if axis in pooled else 1 for axis in axes))
        for axis in pooled:
            divisor[axis] *= 2
            spacing[axis] *= 2
            size[axis] = math.ceil(size[axis] / 2)
    kernels.append((3,) * len(patch))
    return Topology(_padded(patch, divisor), tuple(divisor), tuple(strides), tuple(kernels))


def _axes_to_pool(spacing: Sequence[float], size: Sequence[float], past_short: bool) -> list[int]:
    candidates = [axis for axis, length in enumerate(size) if length >= 2 * MIN_EDGE]
    while candidates:
        finest = min(spacing[axis] for axis in candidates)
        pooled = [axis for axis in candidates if spacing[axis] / finest < POOLING_RATIO]
        if len(pooled) > 1 or size[pooled[0]] >= 3 * MIN_EDGE:
            return pooled
        candidates = [axis for axis in candidates if axis not in pooled] if past_short else []
    return []


def _padded(patch: Sequence[float], divisor: Sequence[int]) -> tuple[int, ...]:
    return tuple(int(math.ceil(length / part) * part) for length, part in zip(patch, divisor, strict=True))


def largest_patch(
    spacing_mm: Sequence[float],
    median_shape: Sequence[float],
    fits: Callable[[Topology], bool],
    *,
    name: str,
    past_short: bool = False,
) -> Topology:
    """Return the first patch, shrunk step by step until `fits` says yes; `past_short` as in `pooling`.

    Raises UsageError, naming the configuration, when no patch does.
    """
    topology = pooling(spacing_mm, first_patch(spacing_mm, median_shape), past_short=past_short)
    while not fits(topology):
        smaller = shrunk(spacing_mm, median_shape, topology, past_short=past_short)
        if min(smaller.patch_size) < 1 or math.prod(smaller.patch_size) >= math.prod(topology.patch_size):
            raise UsageError(
                f"no patch of configuration {name} fits the GPU memory asked for",
                found=f"patch {list(topology.patch_size)} needs more",
                hint="Ask for more memory",
            )
        topology = smaller
    return topology


def shrunk(
    spacing_mm: Sequence[float], median_shape: Sequence[float], now: Topology, *, past_short: bool = False
) -> Topology:
    """Return the next smaller patch: the axis that covers most of the median image loses one divisor.

    The divisor may fall with the patch, so the step is taken with the divisor that the smaller patch would have; no
    legal size is skipped. Of axes that cover equally much the last one shrinks.
    """
    covered = [length / size for length, size in zip(now.patch_size, median_shape, strict=True)]
    axis = max(range(len(covered)), key=lambda index: (covered[index], index))
    smaller = list(now.patch_size)
    smaller[axis] -= now.divisor[axis]
    step = pooling(spacing_mm, smaller, past_short=past_short).divisor[axis]
    patch = list(now.patch_size)
    patch[axis] -= step
    return pooling(spacing_mm, patch, past_short=past_short)
