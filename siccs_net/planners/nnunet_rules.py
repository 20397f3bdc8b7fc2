"""nnU-Net 2.8.1's five planners: patch, batch and network of `2d`, `3d_fullres`, `3d_lowres` and the cascade.

Source: Isensee et al., Nature Methods 18 (2021) 203-211, and "nnU-Net Revisited" (MICCAI 2024, arXiv 2404.09556) for
the residual encoders. nnU-Net builds every candidate network to count the elements its convolutions write; here that
count is a sum, so a plan takes milliseconds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from siccs_net.errors import UnavailableError
from siccs_net.planners import rules
from siccs_net.planners.drafts import ConfigurationDraft, DatasetShape, PlanDraft, Spacing
from siccs_net.planners.lowres import LOWRES, plan_lowres, with_cascade
from siccs_net.records.network import NetworkSpec

MIN_BATCH = 2
REFERENCE_BATCH = {2: 12, 3: 2}


@dataclass(frozen=True)
class Reference:
    """What nnU-Net calibrated a planner with.

    `elements` (by dimension) are the activation elements of one sample that go with `REFERENCE_BATCH` in `vram_gb`;
    `coverage` is the share of the data set's voxels that one batch may hold.
    """

    architecture: Literal["plain_unet", "resenc_unet"]
    elements: dict[int, float]
    vram_gb: float
    coverage: float


PLANNERS = {
    "nnunet": Reference("plain_unet", {3: 560e6, 2: 85e6}, 8, 0.05),
    "nnunet_resenc": Reference("resenc_unet", {3: 680e6, 2: 135e6}, 8, 0.05),
    "nnunet_resenc_m": Reference("resenc_unet", {3: 680e6, 2: 135e6}, 8, 1.0),
    "nnunet_resenc_l": Reference("resenc_unet", {3: 2100e6, 2: 380e6}, 24, 1.0),
    "nnunet_resenc_xl": Reference("resenc_unet", {3: 3600e6, 2: 560e6}, 40, 1.0),
}


@dataclass(frozen=True)
class _Task:
    """What stays the same while one dataset is planned."""

    reference: Reference
    target_vram_gb: float
    cases: int
    labels: int
    channels: int


def plan_nnunet(
    shape: DatasetShape, planner: str, *, target_vram_gb: float | None = None, spacing_mm: Spacing | None = None
) -> PlanDraft:
    """Return the plan that nnU-Net 2.8.1's planner makes of a dataset.

    `planner` is a key of `PLANNERS`; `target_vram_gb` scales its reference (default: the reference's own GB) and
    `spacing_mm` [z, y, x] replaces the rule for the target spacing. A dataset of single slices gets `2d` only. The
    cascade's network takes the images' channels; its trainer adds one channel a foreground label.
    Raises UnavailableError for an unknown planner and UsageError when no patch fits the memory.
    """
    task = _task(shape, planner, target_vram_gb)
    target = spacing_mm or rules.target_spacing(shape)
    order = rules.thickest_first(target)
    spacing = rules.transposed(target, order)
    median = rules.transposed(rules.median_resampled_shape(shape, target), order)
    voxels = math.prod(median) * shape.cases
    drafts = [_plan_2d(task, spacing, (rules.median_native_length(shape, order[0]), *median[1:]), voxels)]
    if median[0] != 1:
        drafts += _plan_3d(task, spacing, median, voxels)
    return PlanDraft(order, {draft.name: draft for draft in drafts})


def _task(shape: DatasetShape, planner: str, target_vram_gb: float | None) -> _Task:
    if planner not in PLANNERS:
        raise UnavailableError("unknown nnU-Net planner", found=planner, expected="one of " + ", ".join(PLANNERS))
    reference = PLANNERS[planner]
    target = reference.vram_gb if target_vram_gb is None else target_vram_gb
    return _Task(reference, target, shape.cases, shape.labels, shape.channels)


def _plan_2d(task: _Task, spacing: Spacing, median: Spacing, dataset_voxels: float) -> ConfigurationDraft:
    draft = _configuration(task, "2d", spacing[1:], median[1:], dataset_voxels)
    return replace(draft, median_shape=median, batch_dice=True)


def _plan_3d(task: _Task, spacing: Spacing, median: Spacing, dataset_voxels: float) -> list[ConfigurationDraft]:
    full = _configuration(task, "3d_fullres", spacing, median, dataset_voxels)
    low = _plan_lowres(task, full)
    return with_cascade(replace(full, batch_dice=low is not None), low)


def _plan_lowres(task: _Task, full: ConfigurationDraft) -> ConfigurationDraft | None:
    return plan_lowres(
        full, lambda spacing, median, voxels: _configuration(task, LOWRES, spacing, median, voxels * task.cases)
    )


def _configuration(
    task: _Task, name: str, spacing: Sequence[float], median: Sequence[float], dataset_voxels: float
) -> ConfigurationDraft:
    """Shrink the patch until its network fits, then fill the memory with samples."""
    topology = rules.largest_patch(spacing, median, lambda candidate: _fits(task, candidate), name=name)
    network = _network(task, topology)
    return ConfigurationDraft(
        name=name,
        spacing_mm=(None, spacing[0], spacing[1]) if network.dimension == 2 else rules.transposed(spacing, (0, 1, 2)),
        median_shape=(1.0, median[0], median[1]) if network.dimension == 2 else rules.transposed(median, (0, 1, 2)),
        patch_size=topology.patch_size,
        batch_size=_batch_size(task, topology, dataset_voxels),
        network=network,
        batch_dice=False,
        activation_elements=activation_elements(network, topology.patch_size),
    )


def _fits(task: _Task, topology: rules.Topology) -> bool:
    """The residual planners compare one sample with the reference, the default one two of the reference's twelve."""
    network = _network(task, topology)
    elements: float = activation_elements(network, topology.patch_size)
    if task.reference.architecture == "plain_unet":
        elements = elements / REFERENCE_BATCH[network.dimension] * MIN_BATCH
    return elements <= _element_limit(task, network.dimension)


def _element_limit(task: _Task, dimension: int) -> float:
    return task.reference.elements[dimension] * (task.target_vram_gb / task.reference.vram_gb)


def _batch_size(task: _Task, topology: rules.Topology, dataset_voxels: float) -> int:
    network = _network(task, topology)
    limit = _element_limit(task, network.dimension)
    elements = activation_elements(network, topology.patch_size)
    fitting = round(limit / elements * REFERENCE_BATCH[network.dimension])
    covering = round(dataset_voxels * task.reference.coverage / math.prod(topology.patch_size))
    return max(min(fitting, covering), MIN_BATCH)


def _network(task: _Task, topology: rules.Topology) -> NetworkSpec:
    """Return nnU-Net's network for a pooling: two convolutions a stage, or more and more residual blocks."""
    stages, dimension = len(topology.strides), len(topology.patch_size)
    plain = task.reference.architecture == "plain_unet"
    return NetworkSpec(
        architecture=task.reference.architecture,
        dimension=3 if dimension == 3 else 2,
        in_channels=task.channels,
        classes=task.labels,
        widths=rules.widths(stages, dimension),
        strides=topology.strides,
        kernel_sizes=topology.kernel_sizes,
        blocks_encoder=(2,) * stages if plain else (1, 3, 4, *(6,) * stages)[:stages],
        blocks_decoder=(2 if plain else 1,) * (stages - 1),
        stem_stride=(1,) * dimension,
        deep_supervision=True,
    )


def activation_elements(network: NetworkSpec, patch_size: Sequence[int]) -> int:
    """Return the number of elements that the convolutions of a plain or residual U-Net write for one sample.

    nnU-Net's estimate of memory: deep supervision is left out, and the residual encoder's skip projection counts
    once a stage whether or not that stage has one.
    """
    volumes = rules.level_volumes(network, patch_size)
    stages = list(zip(network.widths, volumes, strict=True))
    total = network.classes * volumes[0]
    for (width, volume), convolutions in zip(stages, _convolutions(network), strict=True):
        total += convolutions * width * volume
    for (width, volume), convolutions in zip(stages[:-1], network.blocks_decoder, strict=True):
        total += (convolutions + 1) * width * volume
    return total


def _convolutions(network: NetworkSpec) -> tuple[int, ...]:
    """Outputs of one width a stage's encoder writes: the residual one's stem or projection counts as one more."""
    if network.architecture == "plain_unet":
        return network.blocks_encoder
    return tuple(2 * blocks + 1 for blocks in network.blocks_encoder)
