"""nnU-Net's rules by hand and by their properties, and the rules of the `convnext` planner."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from siccs_net.errors import DatasetError, UsageError
from siccs_net.planners import rules
from siccs_net.planners.convnext_rules import (
    USABLE_SHARE,
    depthwise_kernels,
    iterations_per_epoch,
    plan_convnext,
)
from siccs_net.planners.drafts import ConfigurationDraft, DatasetShape, PlanDraft, Shape, Spacing
from siccs_net.planners.memory import training_memory
from siccs_net.planners.nnunet_rules import activation_elements, plan_nnunet
from siccs_net.preprocessing.resample import resampled_shape

THIN = ((1.0, 0.7, 0.7), (320, 512, 512))
THICK = ((5.0, 0.7, 0.7), (60, 512, 512))


def dataset(*scans: tuple[Spacing, Shape], cases: int = 40, labels: int = 4) -> DatasetShape:
    return DatasetShape(tuple(scan[0] for scan in scans), tuple(scan[1] for scan in scans), cases, labels, 1)


# ---------------------------------------------------------------- spacing, order, shape


@pytest.mark.parametrize(
    ("scans", "expected"),
    [
        ([THIN], (1.0, 0.7, 0.7)),
        ([((1.0, 0.6, 0.6), (9, 9, 9)), ((2.0, 0.8, 0.8), (9, 9, 9))], (1.5, 0.7, 0.7)),
        # Thick: the tenth percentile of 1, 5, 5, 5, 5 mm is 1 + 0.4 x 4.
        ([((1.0, 0.7, 0.7), (300, 512, 512))] + [THICK] * 4, (2.6, 0.7, 0.7)),
        # That percentile would be finer than in the slices.
        ([((0.2, 0.7, 0.8), (900, 512, 512))] * 2 + [((5.0, 0.7, 0.8), (60, 512, 512))] * 3, (0.8 + 1e-5, 0.7, 0.8)),
        # 5 mm, but not short in voxels.
        ([((5.0, 0.7, 0.7), (171, 512, 512))] * 4 + [((1.0, 0.7, 0.7), (171, 512, 512))], (5.0, 0.7, 0.7)),
        # Exactly three times as coarse is not thick.
        ([((3.0, 1.0, 1.0), (20, 512, 512))] * 4 + [((1.0, 1.0, 1.0), (20, 512, 512))], (3.0, 1.0, 1.0)),
        # Sagittal: the thick axis is the last.
        ([((0.7, 0.7, 5.0), (512, 512, 40))] * 4 + [((0.7, 0.7, 1.0), (512, 512, 40))], (0.7, 0.7, 2.6)),
    ],
)
def test_target_spacing(scans: list[tuple[Spacing, Shape]], expected: Spacing) -> None:
    assert rules.target_spacing(dataset(*scans)) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("spacing", "order"),
    [
        ((5.0, 0.7, 0.7), (0, 1, 2)),
        ((0.6, 0.6, 3.0), (2, 0, 1)),
        ((0.6, 4.0, 0.6), (1, 0, 2)),
        ((1.0, 1.0, 1.0), (0, 1, 2)),
        ((0.6, 0.9, 0.9), (1, 0, 2)),
    ],
)
def test_the_thickest_axis_comes_first_and_of_equals_the_first(spacing: Spacing, order: tuple[int, ...]) -> None:
    assert rules.thickest_first(spacing) == order


def test_shapes_round_halves_to_even() -> None:
    assert resampled_shape((5, 7, 9), (0.5, 0.5, 0.5), (1.0, 1.0, 1.0)) == (2, 4, 4)


def test_median_shape_may_end_in_a_half() -> None:
    shape = dataset(((1.0, 1.0, 1.0), (101, 200, 211)), ((1.0, 1.0, 1.0), (102, 201, 211)))
    assert rules.median_resampled_shape(shape, (1.0, 1.0, 1.0)) == (101.5, 200.5, 211.0)


# ---------------------------------------------------------------- patch and pooling


@pytest.mark.parametrize(
    ("spacing", "median", "expected"),
    [
        ((1.0, 1.0, 1.0), (999, 999, 999), (256, 256, 256)),
        ((8.0, 1.0, 1.0), (999, 999, 999), (64, 512, 512)),
        ((8.0, 1.0, 1.0), (50.5, 999, 200), (50.5, 512, 200)),
        ((1.0, 1.0), (4096, 4096), (2048, 2048)),
        ((4.0, 1.0), (4096, 4096), (1024, 4096)),
    ],
)
def test_the_first_patch_is_as_long_in_mm_on_every_axis(
    spacing: tuple[float, ...], median: tuple[float, ...], expected: tuple[float, ...]
) -> None:
    assert rules.first_patch(spacing, median) == expected


def test_thick_axes_wait_until_the_others_are_as_coarse() -> None:
    topology = rules.pooling((5.0, 0.7, 0.7), (28, 256, 256))
    assert topology.divisor == (4, 64, 64)
    assert topology.strides == ((1, 1, 1), (1, 2, 2), (1, 2, 2), (2, 2, 2), (2, 2, 2), (1, 2, 2), (1, 2, 2))
    assert topology.kernel_sizes == ((1, 3, 3), (1, 3, 3), *((3, 3, 3),) * 5)


@pytest.mark.parametrize(
    ("patch", "strides"),
    [
        ((8, 8), ((1, 1), (2, 2))),
        ((7, 7), ((1, 1),)),
        ((11, 7), ((1, 1),)),
        ((12, 7), ((1, 1), (2, 1))),
        ((15, 15), ((1, 1), (2, 2), (2, 2))),
    ],
)
def test_one_axis_alone_is_pooled_from_twelve_voxels_on(
    patch: tuple[int, int], strides: tuple[tuple[int, int], ...]
) -> None:
    assert rules.pooling((1.0, 1.0), patch).strides == strides


@given(
    st.lists(st.tuples(st.floats(0.3, 8.0), st.integers(1, 600)), min_size=2, max_size=3),
)
def test_pooling_keeps_its_promises(axes: list[tuple[float, int]]) -> None:
    spacing, patch = [axis[0] for axis in axes], [axis[1] for axis in axes]
    topology = rules.pooling(spacing, patch)
    for axis, (size, divisor) in enumerate(zip(topology.patch_size, topology.divisor, strict=True)):
        assert size % divisor == 0
        assert 0 <= size - patch[axis] < divisor
        assert divisor == math.prod(stride[axis] for stride in topology.strides)
        assert divisor == 1 or size // divisor >= rules.MIN_EDGE
    assert len(topology.kernel_sizes) == len(topology.strides)
    assert topology.kernel_sizes[-1] == (3,) * len(axes)
    assert set(topology.strides[0]) == {1}


def test_the_last_of_equally_covered_axes_shrinks_and_no_size_is_skipped() -> None:
    start = rules.pooling((1.0, 1.0, 1.0), (256, 256, 256))
    once = rules.shrunk((1.0, 1.0, 1.0), (512, 512, 512), start)
    assert start.divisor == (64, 64, 64)
    assert once.patch_size == (256, 256, 224)
    assert rules.shrunk((1.0, 1.0, 1.0), (512, 512, 512), once).patch_size == (256, 224, 224)


def test_no_patch_that_fits_is_an_error_and_not_an_endless_loop() -> None:
    with pytest.raises(UsageError, match="no patch of configuration tiny fits"):
        rules.largest_patch((1.0, 1.0, 1.0), (64, 64, 64), lambda _: False, name="tiny")


def test_activation_elements_of_a_small_plain_network_by_hand() -> None:
    draft = plan_nnunet(dataset(((1.0, 1.0, 1.0), (12, 12, 12)), labels=2), "nnunet").configurations["3d_fullres"]
    assert draft.patch_size == (12, 12, 12)
    assert draft.network.strides == ((1, 1, 1), (2, 2, 2))
    assert activation_elements(draft.network, draft.patch_size) == (2 + 3) * 32 * 12**3 + 2 * 64 * 6**3 + 2 * 12**3


def test_activation_elements_of_a_small_residual_network_by_hand() -> None:
    draft = plan_nnunet(dataset(((1.0, 1.0, 1.0), (12, 12, 12)), labels=2), "nnunet_resenc").configurations["2d"]
    assert draft.network.blocks_encoder == (1, 3)
    # stem, one block, transposed and one convolution; projection and three blocks; logits
    assert draft.activation_elements == (1 + 2 + 2) * 32 * 12**2 + (1 + 6) * 64 * 6**2 + 2 * 12**2


@pytest.mark.parametrize(
    "arguments",
    [
        ((), (), 1, 2, 1),
        (((1.0, 1.0, 1.0),), (), 1, 2, 1),
        (((1.0, 0.0, 1.0),), ((9, 9, 9),), 1, 2, 1),
        (((1.0, 1.0, 1.0),), ((9, 0, 9),), 1, 2, 1),
        (((1.0, 1.0, 1.0),), ((9, 9, 9),), 0, 2, 1),
        (((1.0, 1.0, 1.0),), ((9, 9, 9),), 1, 1, 1),
    ],
)
def test_a_dataset_that_cannot_be_planned_is_refused(arguments: tuple[object, ...]) -> None:
    with pytest.raises(DatasetError, match="cannot be planned"):
        DatasetShape(*arguments)  # type: ignore[arg-type]


# ---------------------------------------------------------------- convnext


def needed_gib(draft: ConfigurationDraft, batch: int | None = None) -> float:
    batch = draft.batch_size if batch is None else batch
    memory = training_memory(draft.network, draft.patch_size, batch, activation_bytes=2, checkpointing=False)
    return memory.total_bytes / 2**30


def check_draft(draft: ConfigurationDraft, vram: float) -> None:
    """What every draft of the convnext planner promises."""
    network = draft.network
    assert needed_gib(draft) <= vram * USABLE_SHARE
    assert draft.batch_size >= 2
    for size, stride in zip(draft.patch_size, network.total_stride, strict=True):
        assert size % stride == 0
        assert stride == 1 or size // stride >= rules.MIN_EDGE
    assert all(3 <= size <= 7 and size % 2 == 1 for kernel in network.kernel_sizes for size in kernel)
    assert network.blocks_encoder == network.blocks_decoder == (1, 1, 3, *(1,) * 20)[: len(network.widths)]


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(*[st.floats(0.4, 6.0)] * 3),
    st.tuples(*[st.integers(1, 500)] * 3),
    st.sampled_from([4.0, 8.0, 24.0]),
)
@example((0.5, 4.0, 1.0), (45, 353, 1), 4.0)  # each axis pools alone: nine levels
@example((3.0, 6.0, 6.0), (17, 432, 434), 4.0)  # the short axis is alone at its turn
def test_every_convnext_plan_keeps_its_promises(spacing: Spacing, size: Shape, vram: float) -> None:
    plan = plan_convnext(dataset((spacing, size)), target_vram_gb=vram)
    assert sorted(plan.transpose_forward) == [0, 1, 2]
    for draft in plan.configurations.values():
        check_draft(draft, vram)


def convnext(*scans: tuple[Spacing, Shape], vram: float | None = None) -> PlanDraft:
    return plan_convnext(dataset(*scans), target_vram_gb=vram)


def test_the_stem_halves_all_axes_of_thin_slices_and_leaves_thick_ones() -> None:
    assert convnext(THIN).configurations["3d_fullres"].network.stem_stride == (2, 2, 2)
    assert convnext(THICK).configurations["3d_fullres"].network.stem_stride == (1, 2, 2)
    assert convnext(THICK).configurations["2d"].network.stem_stride == (2, 2)


def test_the_batch_could_not_be_larger() -> None:
    draft = convnext(THIN).configurations["2d"]
    assert needed_gib(draft) <= 8 * USABLE_SHARE < needed_gib(draft, draft.batch_size + 1)


def test_few_cases_limit_the_batch_as_in_nnunet() -> None:
    slices = dataset(((999.0, 1.0, 1.0), (1, 512, 512)), cases=78, labels=3)
    assert plan_convnext(slices).configurations["2d"].batch_size == round(0.05 * 78)


def test_more_memory_gives_a_larger_patch() -> None:
    sizes = [math.prod(convnext(THIN, vram=vram).configurations["3d_fullres"].patch_size) for vram in (4, 8, 24, 80)]
    assert sizes == sorted(set(sizes))
    assert convnext(THIN) == convnext(THIN, vram=8)


def test_kernels_reach_as_far_across_slices_as_in_them() -> None:
    ones = ((1, 1, 1),)
    assert depthwise_kernels((1.0, 1.0, 1.0), (1, 1, 1), ones) == ((7, 7, 7),)
    assert depthwise_kernels((1.3, 1.0, 1.0), (1, 1, 1), ones) == ((7, 7, 7),)
    assert depthwise_kernels((1.5, 1.0, 1.0), (1, 1, 1), ones) == ((5, 7, 7),)
    assert depthwise_kernels((2.5, 1.0, 1.0), (1, 1, 1), ones) == ((3, 7, 7),)
    pooled_in_plane = (*ones, (1, 2, 2), (1, 2, 2))
    assert depthwise_kernels((9.0, 1.0, 1.0), (1, 2, 2), pooled_in_plane) == ((3, 7, 7), (5, 7, 7), (7, 7, 7))


@pytest.mark.parametrize(
    ("spacing", "size", "order"),
    [((1.0, 1.0, 1.0), (1, 512, 400), (0, 1, 2)), ((1.0, 5.0, 1.0), (512, 400, 1), (2, 0, 1))],
)
def test_single_slices_are_planned_in_2d_whatever_their_spacing(
    spacing: Spacing, size: Shape, order: tuple[int, ...]
) -> None:
    plan = convnext((spacing, size))
    assert plan.transpose_forward == order
    assert list(plan.configurations) == ["2d"]


def test_dice_is_summed_over_the_batch_where_a_patch_shows_little() -> None:
    assert convnext(THIN).configurations["3d_fullres"].batch_dice
    assert not convnext(((1.5, 1.5, 1.5), (40, 48, 44))).configurations["3d_fullres"].batch_dice


def test_a_spacing_that_is_given_is_used() -> None:
    plan = plan_convnext(dataset(THIN), spacing_mm=(1.5, 1.0, 1.0))
    assert plan.configurations["3d_fullres"].spacing_mm == (1.5, 1.0, 1.0)
    assert plan.configurations["2d"].spacing_mm == (None, 1.0, 1.0)


def test_too_little_memory_is_refused() -> None:
    with pytest.raises(UsageError, match="Ask for more memory"):
        convnext(THIN, vram=1e-6)


@pytest.mark.parametrize(
    ("cases", "median", "patch", "batch", "expected"),
    [
        (40, (100.0, 200.0, 200.0), (100, 100, 100), 2, 80),
        (40, (100.0, 200.0, 200.0), (100, 200, 200), 2, 50),
        (400, (100.0, 200.0, 200.0), (50, 100, 100), 2, 250),
        (10, (60.0, 100.0, 100.0), (100, 100), 7, 86),
    ],
)
def test_an_epoch_shows_the_data_once_within_limits(
    cases: int, median: tuple[float, ...], patch: tuple[int, ...], batch: int, expected: int
) -> None:
    assert iterations_per_epoch(cases, median, patch_size=patch, batch_size=batch) == expected


@pytest.mark.parametrize(
    ("spacing", "size", "expected"),
    [
        ((1.0, 0.7, 0.7), (300, 500, 500), (1.4, 1.4, 1.4)),
        ((5.0, 0.7, 0.7), (60, 500, 500), (5.0, 1.4, 1.4)),
        ((0.1, 1.0, 0.8), (1, 350, 380), (1.6, 1.6, 1.6)),  # the one slice's thickness says nothing
        ((5.0, 4.0, 4.0), (50, 90, 100), None),  # coarse enough
    ],
)
def test_coarser_halves_the_finest_axes_of_scans_that_have_voxels_to_spare(
    spacing: Spacing, size: Shape, expected: Spacing | None
) -> None:
    found = rules.coarser_spacing(dataset((spacing, size)))
    assert found == (expected if expected is None else pytest.approx(expected))


def test_planning_needs_no_torch() -> None:
    code = (
        "import siccs_net.planners.convnext_rules, siccs_net.planners.nnunet_rules, sys; print('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
