"""Plans against nnU-Net 2.8.1's own planner classes: the shared golden file, and rows that its program printed."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from siccs_net.errors import UnavailableError, UsageError
from siccs_net.io.dataset import Case, Dataset
from siccs_net.planners import rules
from siccs_net.planners.drafts import ConfigurationDraft, DatasetShape, PlanDraft, Spacing
from siccs_net.planners.nnunet_rules import PLANNERS, plan_nnunet
from siccs_net.planners.planner import PlanRequest, make_plan
from siccs_net.preprocessing.statistics import measure
from siccs_net.records.dataset import DatasetDescription
from siccs_net.records.fingerprint import CaseFingerprint, Fingerprint
from siccs_net.records.plan import Configuration, Plan

GOLDEN = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "golden" / "nnunet_2.8.1_plans.json"
ROWS = Path(__file__).with_name("nnunet_2.8.1_rows.json")
NAMES = {
    "nnunet": "ExperimentPlanner",
    "nnunet_resenc": "ResEncUNetPlanner",
    "nnunet_resenc_m": "ResEncM",
    "nnunet_resenc_l": "ResEncL",
    "nnunet_resenc_xl": "ResEncXL",
}
# dataset.json of the golden fingerprints is not in the file: background and three tissues, one CT channel.
GOLDEN_LABELS = 4
DATASETS = ("A_thin_slice_ILD_60", "C_mixed_1_to_5mm", "D_tiny_test_8", "G_2d_only")


def read_golden() -> dict[str, Any]:
    if not GOLDEN.is_file():
        pytest.skip("the shared golden file is not on this machine")
    content: dict[str, Any] = json.loads(GOLDEN.read_text())
    return content


def golden_shape(entry: dict[str, Any]) -> DatasetShape:
    return DatasetShape(
        tuple(map(tuple, entry["spacings"])), tuple(map(tuple, entry["shapes"])), entry["n"], GOLDEN_LABELS, 1
    )


def as_nnunet(plan: PlanDraft) -> dict[str, Any]:
    """A draft in the golden file's words."""
    return {name: _configuration_as_nnunet(draft) for name, draft in plan.configurations.items()}


def _configuration_as_nnunet(draft: ConfigurationDraft) -> dict[str, Any]:
    if draft.inherits_from:
        return {"inherits_from": draft.inherits_from, "previous_stage": draft.previous_stage}
    network, spatial = draft.network, slice(3 - draft.dimension, None)
    blocks = "n_conv_per_stage" if network.architecture == "plain_unet" else "n_blocks_per_stage"
    return {
        "batch_size": draft.batch_size,
        "patch_size": list(draft.patch_size),
        "median_image_size_in_voxels": list(draft.median_shape[spatial]),
        "spacing": list(draft.spacing_mm[spatial]),
        "batch_dice": draft.batch_dice,
        "n_stages": len(network.widths),
        "features_per_stage": list(network.widths),
        "kernel_sizes": [list(kernel) for kernel in network.kernel_sizes],
        "strides": [list(stride) for stride in network.strides],
        blocks: list(network.blocks_encoder),
        "n_conv_per_stage_decoder": list(reversed(network.blocks_decoder)),
    }


@pytest.mark.parametrize("planner", PLANNERS)
@pytest.mark.parametrize("dataset", DATASETS)
def test_equals_the_golden_plan(dataset: str, planner: str) -> None:
    golden = read_golden()[dataset]
    plan = plan_nnunet(golden_shape(golden["input"]), planner)
    expected = golden[NAMES[planner]]
    configurations = {
        name: {key: value for key, value in entry.items() if key != "data_identifier"}
        for name, entry in expected["configurations"].items()
    }
    assert list(plan.transpose_forward) == expected["transpose_forward"]
    assert as_nnunet(plan) == configurations


@pytest.mark.parametrize("planner", PLANNERS)
@pytest.mark.parametrize("dataset", DATASETS)
def test_make_plan_keeps_the_golden_plan(dataset: str, planner: str) -> None:
    """From fingerprint to plan file: every configuration, the cascade written out in full."""
    golden = read_golden()[dataset]
    expected = golden[NAMES[planner]]["configurations"]
    plan = make_plan(*_golden_dataset(golden["input"]), PlanRequest(planner=planner))
    plan = Plan.from_json(plan.to_json())
    assert set(plan.configurations) == set(expected)
    for name, configuration in plan.configurations.items():
        parent = expected[name].get("inherits_from")
        wanted = {**expected[parent or name]}
        wanted.pop("data_identifier")
        assert configuration.previous_stage == expected[name].get("previous_stage")
        assert configuration.prepared_as == parent
        assert configuration.network.in_channels == (GOLDEN_LABELS if parent else 1)
        assert _finished_as_nnunet(configuration) == wanted
        assert configuration.orient.transpose == tuple(golden[NAMES[planner]]["transpose_forward"])


def _finished_as_nnunet(configuration: Configuration) -> dict[str, Any]:
    return _configuration_as_nnunet(
        ConfigurationDraft(
            name="",
            spacing_mm=configuration.spacing_mm,
            median_shape=configuration.median_shape,
            patch_size=configuration.patch_size,
            batch_size=configuration.batch_size,
            network=configuration.network,
            batch_dice=configuration.batch_dice,
        )
    )


def _golden_dataset(entry: dict[str, Any]) -> tuple[Dataset, Fingerprint]:
    body = {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, "a": 1, "b": 2, "c": 3},
        "numTraining": entry["n"],
        "file_ending": ".nii.gz",
    }
    statistics = (measure(np.arange(3, dtype=np.int16)),)
    cases = [
        CaseFingerprint(
            case=f"{number:03d}",
            input_sha256=("0",),
            spacing_mm=tuple(map(float, spacing)),
            shape=tuple(shape),
            crop_box=tuple((0, size) for size in shape),
            label_voxels={},
            statistics_all=statistics,
            statistics_foreground=(),
        )
        for number, (spacing, shape) in enumerate(zip(entry["spacings"], entry["shapes"], strict=True))
    ]
    named = {case.case: Case(case.case, (Path("a"),), Path("b")) for case in cases}
    dataset = Dataset(Path("Dataset001_X"), DatasetDescription.from_json(json.dumps(body)), named)
    fingerprint = Fingerprint(dataset_name=dataset.name, crop_threshold_hu=None, crop_margin_mm=0.0, cases=tuple(cases))
    return dataset, fingerprint


def test_the_golden_file_holds_nothing_else() -> None:
    golden = read_golden()
    assert set(golden) == set(DATASETS)
    assert all(set(entry) == {"input", *NAMES.values()} for entry in golden.values())


@dataclass(frozen=True)
class Row:
    """A fingerprint, a planner and what nnU-Net 2.8.1 printed for it.

    `cases` are (how many, spacing, shape); `numbered` is dataset.json's numTraining. `expected` holds a
    configuration's patch, batch, spacing, median shape, batch Dice, strides and kernels.
    """

    name: str
    planner: str
    target_vram_gb: float | None
    spacing_mm: list[float] | None
    cases: list[tuple[int, Spacing, tuple[int, int, int]]]
    numbered: int
    labels: int
    channels: int
    transpose: list[int]
    expected: dict[str, list[Any]]

    def shape(self) -> DatasetShape:
        spacings = tuple(tuple(spacing) for times, spacing, _ in self.cases for _ in range(times))
        shapes = tuple(tuple(shape) for times, _, shape in self.cases for _ in range(times))
        return DatasetShape(spacings, shapes, self.numbered, self.labels, self.channels)


def read_rows() -> list[Row]:
    entries: list[dict[str, Any]] = json.loads(ROWS.read_text())
    return [Row(**entry) for entry in entries]


def _digits(sizes: tuple[tuple[int, ...], ...]) -> str:
    return " ".join("".join(map(str, size)) for size in sizes)


def _summary(draft: ConfigurationDraft) -> list[Any]:
    spatial = slice(3 - draft.dimension, None)
    strides, kernels = _digits(draft.network.strides), _digits(draft.network.kernel_sizes)
    spacing, median = list(draft.spacing_mm[spatial]), list(draft.median_shape[spatial])
    return [list(draft.patch_size), draft.batch_size, spacing, median, draft.batch_dice, strides, kernels]


@pytest.mark.parametrize("row", read_rows(), ids=lambda row: row.name)
def test_equals_what_nnunet_printed(row: Row) -> None:
    spacing = None if row.spacing_mm is None else rules.transposed(row.spacing_mm, (0, 1, 2))
    plan = plan_nnunet(row.shape(), row.planner, target_vram_gb=row.target_vram_gb, spacing_mm=spacing)
    own = {name: _summary(draft) for name, draft in plan.configurations.items() if not draft.inherits_from}
    assert list(plan.transpose_forward) == row.transpose
    assert own == row.expected


def test_rows_cover_every_planner_and_dimension() -> None:
    rows = read_rows()
    assert {row.planner for row in rows} == set(PLANNERS)
    assert {len(row.expected) for row in rows} == {1, 2, 3}


def test_a_two_dimensional_configuration_keeps_the_slices() -> None:
    plan = plan_nnunet(
        DatasetShape(((5.0, 0.7, 0.7),) * 3, ((40, 512, 512), (60, 512, 512), (50, 512, 512)), 3, 3, 1), "nnunet"
    )
    assert plan.configurations["2d"].spacing_mm == (None, 0.7, 0.7)
    assert plan.configurations["2d"].median_shape == (50.0, 512.0, 512.0)


def test_the_cascade_shares_all_but_its_stage() -> None:
    plan = plan_nnunet(DatasetShape(((1.0, 0.7, 0.7),), ((320, 512, 512),), 60, 4, 1), "nnunet").configurations
    assert plan["3d_lowres"].next_stage == plan["3d_cascade_fullres"].name
    assert plan["3d_cascade_fullres"].previous_stage == "3d_lowres"
    assert plan["3d_cascade_fullres"].network == plan["3d_fullres"].network


def test_a_plan_takes_milliseconds() -> None:
    start = time.perf_counter()
    plan_nnunet(DatasetShape(((1.0, 0.7, 0.7),) * 60, ((320, 512, 512),) * 60, 60, 4, 1), "nnunet_resenc")
    assert time.perf_counter() - start < 1.0


def test_an_unknown_planner_is_named_with_the_known_ones() -> None:
    with pytest.raises(UnavailableError, match=r"nnunet_resenc_s.*nnunet_resenc_m"):
        plan_nnunet(DatasetShape(((1.0, 1.0, 1.0),), ((64, 64, 64),), 1, 2, 1), "nnunet_resenc_s")


def test_too_little_memory_is_an_error_that_says_so() -> None:
    with pytest.raises(UsageError, match=r"no patch of configuration 2d fits.*Ask for more memory"):
        plan_nnunet(DatasetShape(((1.0, 1.0, 1.0),), ((64, 64, 64),), 1, 2, 1), "nnunet", target_vram_gb=1e-7)
