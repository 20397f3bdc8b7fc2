"""The `convnext` planner: nnU-Net's rules for spacing, patch and pooling with our own network and memory model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from siccs_net.planners import rules
from siccs_net.planners.drafts import ConfigurationDraft, DatasetShape, PlanDraft, Spacing
from siccs_net.planners.lowres import LOWRES, plan_lowres, with_cascade
from siccs_net.planners.memory import training_memory
from siccs_net.records.network import NetworkSpec

# The GPU that a plan is made for when nobody says which: nnU-Net's default too, so that plans compare.
DEFAULT_VRAM_GB = 8.0
# Of a GPU's memory the plan uses this share (assumed): the rest is for the driver, cuDNN's workspaces and gaps.
USABLE_SHARE = 0.85
# Activations are kept in bfloat16 on a GPU.
ACTIVATION_BYTES = 2
MIN_BATCH = 2
# One batch holds at most this share of the data set's voxels (nnU-Net's guard against overfitting).
COVERAGE = 0.05
# Dice is summed over the batch where one patch shows less than this share of an image (nnU-Net's threshold).
BATCH_DICE_COVERAGE = 0.25
# ConvNeXt V2's depthwise kernel, and the smallest that still sees neighbours.
KERNEL, SMALLEST_KERNEL = 7, 3
# Blocks by level; deeper levels have one.
BLOCKS = (1, 1, 3)
FEWEST_ITERATIONS, MOST_ITERATIONS = 50, 250


@dataclass(frozen=True)
class _Task:
    """What stays the same while one dataset is planned."""

    budget_bytes: float
    labels: int
    channels: int


def plan_convnext(
    shape: DatasetShape, *, target_vram_gb: float | None = None, spacing_mm: Spacing | None = None
) -> PlanDraft:
    """Return the configurations of a ConvNeXt V2 U-Net with a strided stem: `2d`, `3d_fullres`, perhaps the cascade.

    Target spacing, first patch, pooling and the axis to shrink follow nnU-Net's rules (`rules`), but a short
    axis does not keep the others from being pooled. The patch shrinks
    until two samples train in the usable part of `target_vram_gb` (default 8; `memory.training_memory`), then the
    batch grows into what is left, up to 5 % of the data set's voxels. The first pooling step becomes the stem's
    stride, so the stem leaves a thick axis alone. Where a patch covers less than a quarter of the median image,
    `3d_lowres` and `3d_cascade_fullres` are planned too (`lowres`). `spacing_mm` [z, y, x]
    replaces the rule for the target spacing.
    A dataset whose median image is one voxel thick gets `2d` only, with that axis first.
    Raises UsageError when no patch fits the memory.
    """
    vram = DEFAULT_VRAM_GB if target_vram_gb is None else target_vram_gb
    task = _Task(vram * 2**30 * USABLE_SHARE, shape.labels, shape.channels)
    target = spacing_mm or rules.target_spacing(shape)
    native = rules.median_resampled_shape(shape, target)
    order = _flat_or_thickest_first(target, native)
    spacing, median = rules.transposed(target, order), rules.transposed(native, order)
    voxels = math.prod(median) * shape.cases
    flat = replace(
        _configuration(task, "2d", spacing[1:], median[1:], voxels),
        median_shape=(rules.median_native_length(shape, order[0]), *median[1:]),
    )
    if median[0] == 1:
        return PlanDraft(order, {"2d": flat})
    full = _configuration(task, "3d_fullres", spacing, median, voxels)
    low = plan_lowres(full, lambda coarse, size, count: _configuration(task, LOWRES, coarse, size, count * shape.cases))
    drafts = [flat, *with_cascade(full, low)]
    return PlanDraft(order, {draft.name: draft for draft in drafts})


def iterations_per_epoch(
    cases: int, median_shape: Sequence[float], *, patch_size: Sequence[int], batch_size: int
) -> int:
    """Return the iterations that draw as many voxels as the cases hold, no fewer than 50 and no more than 250.

    An epoch so shows about all of the data set once. `median_shape` has three entries also for a 2D patch, whose
    volume counts as one slice.
    """
    once = cases * math.prod(median_shape) / (batch_size * math.prod(patch_size))
    return min(max(math.ceil(once), FEWEST_ITERATIONS), MOST_ITERATIONS)


def depthwise_kernels(
    spacing_mm: Sequence[float], stem_stride: Sequence[int], strides: Sequence[Sequence[int]]
) -> tuple[tuple[int, ...], ...]:
    """Return each level's kernel: on every axis the smallest odd one that reaches as far in mm as 7 of the finest.

    At least 3, at most 7: isotropic levels have 7 on all axes, an axis 1.4 times as coarse 5, from 7/3 times on 3.
    """
    spacing = [step * stride for step, stride in zip(spacing_mm, stem_stride, strict=True)]
    kernels = []
    for stride in strides:
        spacing = [step * factor for step, factor in zip(spacing, stride, strict=True)]
        kernels.append(tuple(_kernel(step / min(spacing)) for step in spacing))
    return tuple(kernels)


def _kernel(coarseness: float) -> int:
    reaching = (odd for odd in range(SMALLEST_KERNEL, KERNEL, 2) if odd * coarseness >= KERNEL)
    return next(reaching, KERNEL)


def _flat_or_thickest_first(spacing: Spacing, median: Spacing) -> tuple[int, int, int]:
    """An axis of one voxel comes first whatever its spacing: single slices must not be planned as a thin volume."""
    if 1 not in median:
        return rules.thickest_first(spacing)
    flat = median.index(1)
    first, second = (axis for axis in range(3) if axis != flat)
    return flat, first, second


def _configuration(
    task: _Task, name: str, spacing: Sequence[float], median: Sequence[float], dataset_voxels: float
) -> ConfigurationDraft:
    """Shrink the patch until two samples fit, then fill the memory with samples."""

    def fits(candidate: rules.Topology) -> bool:
        network = convnext_network(spacing, candidate, channels=task.channels, labels=task.labels)
        return _bytes(network, candidate.patch_size, MIN_BATCH) <= task.budget_bytes

    topology = rules.largest_patch(spacing, median, fits, name=name, past_short=True)
    network = convnext_network(spacing, topology, channels=task.channels, labels=task.labels)
    flat = network.dimension == 2
    return ConfigurationDraft(
        name=name,
        spacing_mm=(None, spacing[0], spacing[1]) if flat else rules.transposed(spacing, (0, 1, 2)),
        median_shape=(1.0, median[0], median[1]) if flat else rules.transposed(median, (0, 1, 2)),
        patch_size=topology.patch_size,
        batch_size=_batch_size(task, network, topology.patch_size, dataset_voxels),
        network=network,
        batch_dice=flat or math.prod(topology.patch_size) < BATCH_DICE_COVERAGE * math.prod(median),
    )


def convnext_network(
    spacing_mm: Sequence[float], topology: rules.Topology, *, channels: int, labels: int
) -> NetworkSpec:
    """Return the ConvNeXt V2 U-Net of a pooling: its first step is the stem's stride, each other one starts a level."""
    dimension = len(spacing_mm)
    first, *others = topology.strides[1:] or ((1,) * dimension,)
    strides = ((1,) * dimension, *others)
    levels = len(strides)
    blocks = (*BLOCKS, *(1,) * levels)[:levels]
    return NetworkSpec(
        architecture="convnext_unet",
        dimension=3 if dimension == 3 else 2,
        in_channels=channels,
        classes=labels,
        widths=rules.widths(levels, dimension),
        strides=strides,
        kernel_sizes=depthwise_kernels(spacing_mm, first, strides),
        blocks_encoder=blocks,
        blocks_decoder=blocks,
        stem_stride=first,
        deep_supervision=levels > 1,
        initialisation="fan_in",
    )


def _batch_size(task: _Task, network: NetworkSpec, patch: Sequence[int], dataset_voxels: float) -> int:
    """As many samples as fit and as the guard against overfitting allows, two at least."""
    one, two = _bytes(network, patch, 1), _bytes(network, patch, 2)
    fitting = math.floor((task.budget_bytes - one) / (two - one)) + 1
    covering = round(dataset_voxels * COVERAGE / math.prod(patch))
    return max(min(fitting, covering), MIN_BATCH)


def _bytes(network: NetworkSpec, patch: Sequence[int], batch: int) -> int:
    memory = training_memory(network, patch, batch, activation_bytes=ACTIVATION_BYTES, checkpointing=False)
    return memory.total_bytes
