"""Cascades in plans, overrides in JSON, plans moved between datasets, the spread of spacings, and planning's speed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from siccs_net.errors import RecordError, UsageError
from siccs_net.io.dataset import Case, Dataset
from siccs_net.planners.overrides import Overrides, read_overrides
from siccs_net.planners.planner import PLANNERS, PlanRequest, make_plan
from siccs_net.planners.spread import describe_spread, spacing_spread, target_of
from siccs_net.preprocessing.statistics import measure
from siccs_net.records.dataset import DatasetDescription
from siccs_net.records.fingerprint import CaseFingerprint, Fingerprint
from siccs_net.records.plan import Plan

LABELS = {"background": 0, "normal_lung": 1, "EF": 2, "GGO": 3}


def a_dataset(cases=12, *, channels=("CT",), labels=LABELS, spacing_mm=(1.25, 0.7, 0.7), name="Dataset001_X"):
    body = {
        "channel_names": {str(number): channel for number, channel in enumerate(channels)},
        "labels": labels,
        "numTraining": cases,
        "file_ending": ".nii.gz",
    }
    names = [f"c{number:04d}" for number in range(cases)]
    named = {case: Case(case, (Path("a"),) * len(channels), Path("b")) for case in names}
    statistics = (measure(np.arange(10, dtype=np.int16)),) * len(channels)
    found = tuple(
        CaseFingerprint(
            case=case,
            input_sha256=("0",),
            spacing_mm=spacing_mm,
            shape=(240, 512, 512),
            crop_box=((0, 240), (80, 440), (20, 490)),
            label_voxels={"0": 1},
            statistics_all=statistics,
            statistics_foreground=statistics,
        )
        for case in names
    )
    description = DatasetDescription.from_json(json.dumps(body))
    crop = -500.0 if channels[0] == "CT" else None
    fingerprint = Fingerprint(dataset_name=name, crop_threshold_hu=crop, crop_margin_mm=10.0, cases=found)
    return Dataset(Path(name), description, named), fingerprint


def a_plan(*, overrides=None, **request):
    request["overrides"] = Overrides(overrides or {}, Path("mine.json"))
    return make_plan(*a_dataset(), PlanRequest(**request))


@pytest.mark.parametrize("planner", ["convnext", "nnunet", "nnunet_resenc_m"])
def test_a_patch_below_a_quarter_of_the_image_brings_a_cascade(planner):
    plan = a_plan(planner=planner)
    low, full, cascade = (plan.configurations[name] for name in ("3d_lowres", "3d_fullres", "3d_cascade_fullres"))
    assert np.prod(full.patch_size) < 0.25 * np.prod(full.median_shape)
    assert np.prod(low.patch_size) >= 0.25 * np.prod(low.median_shape)
    assert all(coarse >= fine for coarse, fine in zip(low.spacing_mm, full.spacing_mm, strict=True))
    assert (cascade.previous_stage, cascade.prepared_as) == ("3d_lowres", "3d_fullres")
    assert plan.prepared_name("3d_cascade_fullres") == plan.prepared_name("3d_fullres") == "3d_fullres"
    assert cascade.network == full.network.model_copy(update={"in_channels": 4})
    assert (cascade.channels, cascade.stage_channels) == (1, 3)
    assert cascade.memory.training_bytes > full.memory.training_bytes
    assert low.batch_dice is False
    assert full.batch_dice is True


def test_a_second_stage_brings_the_stage_before_it():
    assert list(a_plan(configurations=("3d_cascade_fullres",)).configurations) == ["3d_lowres", "3d_cascade_fullres"]


def test_a_third_stage_brings_the_two_before_it():
    third = {"inherits_from": "3d_fullres", "previous_stage": "3d_cascade_fullres"}
    plan = a_plan(configurations=("third",), overrides={"configurations": {"third": third}})
    assert list(plan.configurations) == ["3d_lowres", "3d_cascade_fullres", "third"]


def test_overrides_change_parts_and_inherit():
    overrides = {
        "training": {"epochs": 3},
        "configurations": {
            "3d_fullres": {"batch_size": 5, "inference": {"overlap": 0.25}},
            "3d_2mm": {"inherits_from": "3d_fullres", "spacing_mm": [2.5, 1.4, 1.4], "patch_size": [64, 64, 64]},
            "3d_2mm_more": {"inherits_from": "3d_2mm", "batch_size": 7},
            "second": {"inherits_from": "3d_fullres", "previous_stage": "3d_2mm"},
        },
    }
    before = a_plan().configurations["3d_fullres"]
    plan = a_plan(overrides=overrides)
    full, coarse, more, second = (
        plan.configurations[name] for name in ("3d_fullres", "3d_2mm", "3d_2mm_more", "second")
    )
    assert plan.training == {"epochs": 3}
    assert (full.batch_size, full.inference.overlap, full.inference.mirror_axes) == (5, 0.25, ("L-R",))
    assert full.patch_size == before.patch_size
    assert coarse.spacing_mm == (2.5, 1.4, 1.4)
    assert next(step for step in coarse.steps if step.step == "resample").spacing_mm == (2.5, 1.4, 1.4)
    assert np.allclose(coarse.median_shape, np.divide(before.median_shape, 2))
    assert (coarse.batch_size, coarse.patch_size, coarse.prepared_as) == (5, (64, 64, 64), None)
    assert (more.batch_size, more.spacing_mm, more.prepared_as) == (7, coarse.spacing_mm, "3d_2mm")
    assert (second.previous_stage, second.network.in_channels, second.prepared_as) == ("3d_2mm", 4, "3d_fullres")
    assert plan.configurations["3d_cascade_fullres"].batch_size == 5, "it was planned as a copy of 3d_fullres"
    assert plan.provenance["configurations.3d_fullres.inference.overlap"] == "user"
    assert plan.provenance["configurations.3d_2mm_more"] == "inherits:3d_2mm"
    assert Plan.from_json(plan.to_json()) == plan


def test_set_has_the_last_word_over_overrides():
    overrides = {"configurations": {"3d_fullres": {"batch_size": 5}}}
    plan = a_plan(configurations=("3d_fullres",), overrides=overrides, settings={"batch_size": 6})
    assert plan.configurations["3d_fullres"].batch_size == 6


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("[]", "JSON object"),
        ("{", "not readable as JSON"),
        ('{"configuration": {}}', "Did you mean configurations"),
        ('{"configurations": []}', "must be an object"),
        ('{"configurations": {"3d_fullres": {"batchsize": 3}}}', "Did you mean batch_size"),
        ('{"configurations": {"3d_fullres": {"network": {"width": [3]}}}}', "Did you mean widths"),
    ],
)
def test_files_of_overrides_that_do_not_fit_are_named(tmp_path, body, words):
    path = tmp_path / "mine.json"
    path.write_text(body)
    with pytest.raises(UsageError, match=rf"mine\.json.*{words}"):
        read_overrides(path)
    with pytest.raises(UsageError, match="no such file"):
        read_overrides(tmp_path / "other.json")


@pytest.mark.parametrize(
    ("configurations", "words"),
    [
        ({"a": {"inherits_from": "3d_fulres"}}, "Did you mean 3d_fullres"),
        ({"a": {"inherits_from": "b"}, "b": {"inherits_from": "a"}}, "circle"),
        ({"a": {"batch_size": 3}}, "configurations.a.dimension: Field required"),
        ({"3d_fullres": {"batch_size": "many"}}, "configurations.3d_fullres.batch_size"),
        ({"3d_fullres": {"patch_size": [63, 64, 64]}}, "multiple of the network's total stride"),
        ({"3d_fullres": {"spacing_mm": [1, 1]}}, "three positive numbers"),
        ({"3d_lowres": {"previous_stage": "3d_cascade_fullres"}}, "leads to '3d_cascade_fullres'"),
        ({"3d_fullres": {"previous_stage": "3d_low"}}, "leads to '3d_low'"),
        ({"3d_cascade_fullres": {"storage": "float32", "prepared_as": "3d_fullres"}}, "cannot share the prepared"),
    ],
)
def test_overrides_that_make_no_plan_are_one_clear_error(configurations, words):
    with pytest.raises(UsageError, match=rf"^mine\.json: .*{words}"):
        a_plan(overrides={"configurations": configurations})


def test_a_plan_file_may_inherit():
    body = json.loads(a_plan(configurations=("3d_fullres",)).to_json())
    body["configurations"]["small"] = {"inherits_from": "3d_fullres", "network": {"stochastic_depth": 0.1}}
    plan = Plan.from_json(json.dumps(body))
    assert plan.configurations["small"].network.stochastic_depth == 0.1
    assert plan.configurations["small"].prepared_as == "3d_fullres"
    body["configurations"]["small"] = {"inherits_from": "3d_full"}
    with pytest.raises(RecordError, match=r"my\.json.*did you mean 3d_fullres"):
        Plan.from_json(json.dumps(body), path="my.json")
    body["configurations"]["small"] = {"inherits_from": "small"}
    with pytest.raises(RecordError, match="circle"):
        Plan.from_json(json.dumps(body))


def test_a_moved_plan_keeps_patch_network_and_spacing():
    source = a_plan(planner="nnunet", settings={"training.epochs": 7})
    dataset, fingerprint = a_dataset(5, spacing_mm=(2.5, 0.7, 0.7), name="Dataset002_Y")
    moved = make_plan(dataset, fingerprint, PlanRequest(source=source, folds=5))
    assert (moved.dataset_name, moved.name, moved.folds, moved.training) == (dataset.name, "nnunet", 5, {"epochs": 7})
    assert moved.provenance["plan"] == "moved:Dataset001_X/nnunet"
    for name, item in moved.configurations.items():
        before = source.configurations[name]
        assert item.model_copy(update={"median_shape": before.median_shape}) == before
    full = source.configurations["3d_fullres"].median_shape
    assert moved.configurations["3d_fullres"].median_shape[0] == pytest.approx(2 * full[0], abs=1)
    assert moved.configurations["2d"].median_shape[0] == source.configurations["2d"].median_shape[0] == 240


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"channels": ("CT", "PET")}, "takes other channels; found 2; expected 1"),
        ({"labels": {"background": 0, "a": 1}}, "has other labels; found 2; expected 4"),
        ({"channels": ("MR",)}, "is for CT in channel 0; found MR"),
    ],
)
def test_a_plan_is_not_moved_to_a_dataset_that_it_does_not_fit(other, words):
    with pytest.raises(UsageError, match=words):
        make_plan(*a_dataset(**other), PlanRequest(source=a_plan()))


def test_the_spacing_of_a_moved_plan_can_be_set_but_not_that_of_a_cascade():
    source = a_plan(configurations=("3d_fullres",))
    moved = make_plan(*a_dataset(), PlanRequest(source=source, settings={"spacing_mm": [2, 1, 1]}))
    assert moved.configurations["3d_fullres"].spacing_mm == (2.0, 1.0, 1.0)
    with pytest.raises(UsageError, match="alike"):
        make_plan(*a_dataset(), PlanRequest(source=a_plan(), settings={"spacing_mm": [2, 1, 1]}))


def test_spacings_that_stand_out_are_named():
    dataset, fingerprint = a_dataset(5)
    odd = {1: (5.0, 0.7, 0.7), 3: (1.25, 0.2, 0.7), 4: (3.0, 0.7, 0.7)}
    cases = tuple(
        case.model_copy(update={"spacing_mm": odd.get(number, case.spacing_mm)})
        for number, case in enumerate(fingerprint.cases)
    )
    fingerprint = fingerprint.model_copy(update={"cases": cases})
    plan = make_plan(dataset, fingerprint, PlanRequest())
    spread = spacing_spread(fingerprint, target_of(plan))
    assert (spread.smallest, spread.median, spread.largest) == ((1.25, 0.2, 0.7), (1.25, 0.7, 0.7), (5.0, 0.7, 0.7))
    assert [item.case for item in spread.outliers] == ["c0001", "c0003", "c0004"]
    text = "\n".join(describe_spread(spread))
    assert "c0001: 5, 0.7, 0.7 mm, 4 times the median along z, made 4 times finer along z" in text
    assert "c0003: 1.25, 0.2, 0.7 mm, 3.5 times finer than the median along y" in text
    assert "c0004: 3, 0.7, 0.7 mm, made 2.4 times finer along z" in text
    many = spacing_spread(fingerprint, (0.5, 0.3, 0.3))
    assert len(describe_spread(many)) == 6


SPEED = """
import sys, time
sys.path.insert(0, {folder!r})
from test_plan_overrides import a_dataset
from siccs_net.planners.planner import PLANNERS, PlanRequest, make_plan
dataset, fingerprint = a_dataset(1000)
for planner in PLANNERS:
    times = []
    for _ in range(3):
        start = time.process_time()
        make_plan(dataset, fingerprint, PlanRequest(planner=planner))
        times.append(time.process_time() - start)
    print(planner, min(times))
print("torch", "torch" in sys.modules)
"""


def test_planning_a_thousand_cases_takes_less_than_a_fifth_of_a_second_and_no_torch():
    code = SPEED.format(folder=str(Path(__file__).parent))
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    seconds = dict(line.split() for line in result.stdout.splitlines())
    assert seconds.pop("torch") == "False"
    assert set(seconds) == set(PLANNERS)
    assert max(map(float, seconds.values())) < 0.2
