"""summary.json: nnU-Net's keys and means, the rules for undefined values, folds, CSV and table."""

from __future__ import annotations

import csv
import io
import json
import math
from typing import Any

import numpy as np
import pytest

from siccs_net.errors import DataError, UsageError
from siccs_net.evaluation.summary import measure_case, summarise, summary_csv, summary_table
from siccs_net.records.metrics import CaseMetrics, Summary

LABELS = {"background": 0, "normal lung": 1, "EF": 2, "GGO": 3}
GROUPS = {"lung": (1, 2, 3), "EF+GGO": (2, 3)}
SPACING = (2.0, 1.0, 1.0)
NNUNET = ("Dice", "IoU", "TP", "FP", "FN", "TN", "n_pred", "n_ref")


def label_maps(seed: int, *, drop_pred: int | None = None, drop_ref: int | None = None) -> list[np.ndarray]:
    """A prediction and a reference [z, y, x] of labels 0..3, one of them without some label."""
    generator = np.random.default_rng(seed)
    reference = np.repeat(np.repeat(generator.integers(0, 4, (4, 4, 4)), 2, 1), 3, 2).astype(np.uint8)
    prediction = np.where(generator.random(reference.shape) < 0.1, 1, reference).astype(np.uint8)
    prediction[prediction == drop_pred] = 0
    reference[reference == drop_ref] = 0
    return [prediction, reference]


def measure(name: str, maps: list[np.ndarray], **options: Any) -> CaseMetrics:
    given = {"case": name, "prediction_file": f"{name}.nii.gz", "reference_file": f"{name}.nii.gz", **options}
    return measure_case(*maps, SPACING, given.pop("labels", LABELS), given.pop("groups", GROUPS), **given)


@pytest.fixture(scope="module")
def summary() -> Summary:
    """Five cases: GGO is missing in the prediction of one, in both masks of another, in the reference of a third."""
    maps = [
        label_maps(0),
        label_maps(1, drop_pred=3),
        label_maps(2, drop_pred=3, drop_ref=3),
        label_maps(3, drop_ref=3),
        label_maps(4),
    ]
    folds = {f"case{number}": number % 2 for number in range(5)}
    return summarise([measure(f"case{number}", pair) for number, pair in enumerate(maps)], folds)


def test_nnunets_keys_and_means(summary: Summary) -> None:
    """Each mean is the mean over the defined cases, the foreground mean the mean of the labels' means."""
    body = json.loads(summary.to_json())
    assert set(body) >= {"metric_per_case", "mean", "foreground_mean"}
    assert {"metrics", "prediction_file", "reference_file"} <= set(body["metric_per_case"][0])
    means: dict[str, list[float]] = {metric: [] for metric in NNUNET}
    for key in ("1", "2", "3"):
        for metric in NNUNET:
            per_case = [case["metrics"][key][metric] for case in body["metric_per_case"]]
            means[metric].append(float(np.nanmean(np.array(per_case, float))))
            assert body["mean"][key][metric] == pytest.approx(means[metric][-1], rel=1e-12)
    for metric in NNUNET:
        assert body["foreground_mean"][metric] == pytest.approx(np.mean(means[metric]), rel=1e-12)


def test_names_and_groups(summary: Summary) -> None:
    assert summary.names == {"1": "normal lung", "2": "EF", "3": "GGO", "lung": "lung", "EF+GGO": "EF+GGO"}
    assert summary.groups == ("lung", "EF+GGO")
    assert list(summary.mean) == list(summary.names)
    first = summary.metric_per_case[0].metrics
    assert first["EF+GGO"].n_ref == first["2"].n_ref + first["3"].n_ref
    assert first["lung"].volume_ref_ml == pytest.approx(sum(first[key].n_ref for key in "123") * 2 / 1000)


def test_undefined_is_null_and_counted(summary: Summary) -> None:
    found = [case.metrics["3"] for case in summary.metric_per_case]
    assert [item.Dice for item in found[1:4]] == [0, None, 0]
    assert [item.IoU for item in found[1:4]] == [0, None, 0]
    assert [item.NSD_2mm for item in found[1:4]] == [0, None, 0]
    assert [item.HD95 for item in found[1:4]] == [None, None, None]
    defined = summary.defined_cases["3"]
    assert (defined["Dice"], defined["NSD_5mm"], defined["HD95"], defined["volume_pred_ml"]) == (4, 4, 2, 5)
    assert summary.one_empty_cases == {"1": 0, "2": 0, "3": 2, "lung": 0, "EF+GGO": 0}


def test_standard_error(summary: Summary) -> None:
    dice = [case.metrics["3"].Dice for case in summary.metric_per_case if case.metrics["3"].Dice is not None]
    mean = sum(dice) / 4
    deviation = math.sqrt(sum((value - mean) ** 2 for value in dice) / 3)
    assert summary.mean["3"].Dice == pytest.approx(mean)
    assert summary.standard_error["3"].Dice == pytest.approx(deviation / 2)
    alone = summarise([measure("only", label_maps(0))], None)
    assert alone.mean["1"].Dice is not None
    assert alone.standard_error["1"].Dice is None


def test_fold_means(summary: Summary) -> None:
    assert summary.folds == {"case0": 0, "case1": 1, "case2": 0, "case3": 1, "case4": 0}
    assert list(summary.fold_mean) == ["0", "1"]
    lung = [case.metrics["lung"].Dice for case in summary.metric_per_case]
    assert summary.fold_mean["0"]["lung"].Dice == pytest.approx(np.mean([lung[0], lung[2], lung[4]]))
    assert summary.fold_mean["1"]["lung"].Dice == pytest.approx(np.mean([lung[1], lung[3]]))
    assert summary.fold_mean["1"]["3"].HD95 is None
    for folds in (None, {}):
        without = summarise(summary.metric_per_case, folds)
        assert without.folds is None
        assert without.fold_mean == {}


def test_the_record_survives_its_file(summary: Summary) -> None:
    assert Summary.from_json(summary.to_json()) == summary


def test_regions_ignore_label_and_no_surface() -> None:
    prediction, reference = label_maps(0)
    reference[0] = 4
    labels = {"background": 0, "lung": (1, 2, 3), "EF": (2,)}
    found = measure("case", [prediction, reference], labels=labels, groups={}, surface=False, ignore_label=4)
    assert found.names == {"(1, 2, 3)": "lung", "(2,)": "EF"}  # nnU-Net's str() of a region
    whole = found.metrics["(1, 2, 3)"]
    assert whole.n_pred == np.count_nonzero(prediction[1:])
    assert sum((whole.TP, whole.FP, whole.FN, whole.TN)) == reference[1:].size
    assert (whole.NSD_2mm, whole.NSD_5mm, whole.HD95) == (None, None, None)


def test_one_slice_has_a_surface() -> None:
    """A 10 x 10 square in one slice against one 2 mm to the right: 36 edge pixels each, all within 2 mm."""
    prediction, reference = np.zeros((2, 1, 20, 20), np.uint8)
    prediction[0, 5:15, 5:15], reference[0, 5:15, 7:17] = 1, 1
    found = measure("slice", [prediction, reference]).metrics["1"]
    assert found.Dice == pytest.approx(0.8)
    assert (found.NSD_2mm, found.HD95) == (1, 2)


def test_csv(summary: Summary) -> None:
    rows = list(csv.DictReader(io.StringIO(summary_csv(summary))))
    assert len(rows) == 5 * 5
    by_place = {(row["case"], row["key"]): row for row in rows}
    empty = by_place["case2", "3"]
    assert (empty["Dice"], empty["HD95"], empty["n_ref"], empty["class"], empty["fold"]) == ("", "", "0", "GGO", "0")
    for case in summary.metric_per_case:
        for key, found in case.metrics.items():
            row = by_place[case.case, key]
            for metric, value in found.model_dump().items():
                assert row[metric] == "" if value is None else float(row[metric]) == value


def test_table(summary: Summary) -> None:
    lines = summary_table(summary).splitlines()
    assert " ".join(lines[0].split()) == "class n Dice NSD 2 mm NSD 5 mm HD95 mm predicted mL reference mL"
    row = next(line for line in lines if line.startswith("GGO"))
    mean, error = summary.mean["3"].Dice, summary.standard_error["3"].Dice
    assert row.split()[1:5] == ["4", f"{mean:.3f}", "±", f"{error:.3f}"]
    assert any(line.startswith("mean of 3 labels") for line in lines)
    assert lines[-1] == "GGO: in one of the two masks only in 2 of 5 cases, which have no HD95"
    assert max(map(len, lines)) <= 120


def test_table_of_nothing_defined() -> None:
    empty = np.zeros((3, 4, 5), np.uint8)
    table = summary_table(summarise([measure("empty", [empty, empty])], None))
    row = next(line for line in table.splitlines() if line.startswith("EF "))
    assert row.split() == ["EF", "0", "-", "-", "-", "-", "0.0", "0.0"]


def test_refusals(summary: Summary) -> None:
    cases = summary.metric_per_case
    with pytest.raises(UsageError, match="no case"):
        summarise([], None)
    with pytest.raises(DataError, match="measured twice; found case0"):
        summarise([cases[0], cases[0]], None)
    with pytest.raises(DataError, match="in no fold; found case1, case4"):
        summarise(cases, {"case0": 0, "case2": 0, "case3": 1})
    with pytest.raises(DataError, match="odd was measured with other classes than case0"):
        summarise([cases[0], measure("odd", label_maps(0), groups={})], None)
    with pytest.raises(UsageError, match="group '2', label 'EF'"):
        measure("clash", label_maps(0), groups={"2": (1, 2)})
