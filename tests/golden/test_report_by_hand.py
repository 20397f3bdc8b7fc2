"""Tables 1 and 2 of six tiny cases, worked out by hand, against the report's.

Each case is a list of (reference, prediction, voxels); a voxel is 1 mL. In the comments TP, P and R are true positives,
predicted and reference voxels.
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest

from siccs_net.evaluation.reporting.build import ReportSource, build_report
from siccs_net.evaluation.summary import measure_case, summarise
from siccs_net.records.dataset import LabelScheme
from siccs_net.records.report import Report

CASES = {
    "c1": [(1, 1, 10), (2, 2, 2), (3, 3, 3), (1, 2, 1), (0, 0, 4)],
    "c2": [(1, 1, 8), (2, 2, 1), (2, 3, 1), (3, 3, 4), (1, 3, 2), (0, 0, 4)],
    "c3": [(1, 1, 12), (3, 3, 1), (3, 1, 1), (0, 0, 6)],
    "c4": [(1, 1, 5), (2, 2, 4), (2, 1, 1), (3, 3, 5), (3, 2, 1), (0, 0, 4)],
    "c5": [(1, 1, 9), (2, 2, 3), (3, 3, 2), (0, 1, 1), (0, 0, 5)],
    "c6": [(1, 1, 10), (2, 1, 1), (3, 3, 1), (1, 3, 1), (0, 0, 7)],
}
FOLDS = {"c1": 0, "c2": 0, "c3": 1, "c4": 1, "c5": 2, "c6": 2}
THICKNESS_MM = {"c1": 0.7, "c2": 0.9, "c3": 1.0, "c4": 2.0, "c5": 0.8, "c6": 5.0}
PFT = {
    "fev1_fvc": {"c1": 80.0, "c2": 78.0, "c3": 95.0, "c4": 70.0, "c5": None, "c6": 97.0},
    "fev1_pp": {"c1": 70.0, "c2": 60.0, "c3": 88.0, "c4": 45.0, "c5": 75.0, "c6": 80.0},
}
LABELS = LabelScheme(
    plain={"background": 0, "normal_lung": 1, "EF": 2, "GGO": 3},
    groups={"lung": (1, 2, 3), "EF": (2,), "GGO": (3,), "EF+GGO": (2, 3)},
)
# Student's t for 95 % with 4 and 5 degrees of freedom, from a printed table (to more digits).
T = {5: 2.7764451051977987, 6: 2.5705818356363146}

DICE = {
    # 2 TP / (P + R) of label 1: 20/21, 16/18, 24/25, 10/11, 18/19, 20/22
    "normal lung": [
        Fraction(20, 21),
        Fraction(8, 9),
        Fraction(24, 25),
        Fraction(10, 11),
        Fraction(18, 19),
        Fraction(10, 11),
    ],
    # label 2: TP 2 of P 3, R 2; TP 1 of P 1, R 2; in neither mask; TP 4 of 5 and 5; 3 of 3 and 3; P 0, R 1
    "EF": [Fraction(4, 5), Fraction(2, 3), None, Fraction(4, 5), Fraction(1), Fraction(0)],
    # label 3: 3 of 3, 3; 4 of 7, 4; 1 of 1, 2; 5 of 5, 6; 2 of 2, 2; 1 of 2, 1
    "GGO": [Fraction(1), Fraction(8, 11), Fraction(2, 3), Fraction(10, 11), Fraction(1), Fraction(2, 3)],
    # either: 5 of 6, 5; 6 of 8, 6; 1 of 1, 2; 10 of 10, 11; 5 of 5, 5; 1 of 2, 2
    "EF+GGO": [Fraction(10, 11), Fraction(6, 7), Fraction(2, 3), Fraction(20, 21), Fraction(1), Fraction(1, 2)],
    # all three: only case 5 has a voxel too many, 14 of 15, 14
    "lung": [Fraction(1), Fraction(1), Fraction(1), Fraction(1), Fraction(28, 29), Fraction(1)],
}
RHO = {
    # Volumes in percent of lung, predicted: 3/16 1/16 0 5/16 3/15 0, reference: 2/16 2/16 0 5/16 3/14 1/13;
    # ranks 4 3 1.5 6 5 1.5 and 3.5 3.5 1 6 5 2: products of the deviations 16.5, both sums of squares 17
    "EF": 16.5 / 17,
    # 3/16 7/16 1/14 5/16 2/15 2/13 and 3/16 4/16 2/14 6/16 2/14 1/13: ranks 4 6 1 5 2 3 and 4 5 2.5 6 2.5 1
    "GGO": 13 / math.sqrt(17.5 * 17),
    # 6/16 8/16 1/14 10/16 5/15 2/13 and 5/16 6/16 2/14 11/16 5/14 2/13: ranks 4 5 1 6 3 2 and 3 5 1 6 4 2;
    # the squared differences of the ranks add up to 2: 1 - 6 * 2 / (6 * 35)
    "EF+GGO": 1 - 12 / 210,
}


def label_maps(voxels: list[tuple[int, int, int]]) -> tuple[np.ndarray, np.ndarray]:
    pairs = [(reference, prediction) for reference, prediction, count in voxels for _ in range(count)]
    reference, prediction = (np.array(column, np.uint8).reshape(2, 2, 5) for column in zip(*pairs, strict=True))
    return prediction, reference


@pytest.fixture(scope="module")
def report() -> Report:
    return report_of(CASES)


def report_of(cases: dict[str, list[tuple[int, int, int]]]) -> Report:
    measured = [
        measure_case(
            *label_maps(voxels),
            (10.0, 10.0, 10.0),
            LABELS.plain,
            LABELS.unions,
            case=case,
            prediction_file=f"{case}.nii.gz",
            reference_file=f"{case}.nii.gz",
            surface=False,
        )
        for case, voxels in cases.items()
    ]
    return build_report(
        ReportSource(
            dataset="Dataset001_Hand",
            model="by_hand",
            folds=3,
            labels=LABELS,
            summary=summarise(measured, {case: FOLDS.get(case, 0) for case in cases}),
            slice_thickness_mm={case: THICKNESS_MM.get(case, 1.0) for case in cases},
            lung_function=PFT,
        )
    )


def mean_and_error(values: list[Fraction | None]) -> tuple[int, float, float]:
    """Return n, the mean and the standard error in percent, in exact arithmetic up to the root."""
    known = [value for value in values if value is not None]
    mean = sum(known) / len(known)
    variance = sum((value - mean) ** 2 for value in known) / (len(known) - 1)
    return len(known), 100 * float(mean), 100 * math.sqrt(variance / len(known))


@pytest.mark.parametrize("name", DICE)
def test_table_1_dice(report: Report, name: str) -> None:
    (row,) = [row for row in report.table1 if row.name == name]
    n, mean, error = mean_and_error(DICE[name])
    found = row.dice_percent
    assert (found.n, row.undefined_dice) == (n, 6 - n)
    assert found.mean == pytest.approx(mean, abs=1e-9)
    assert found.standard_error == pytest.approx(error, abs=1e-9)
    assert found.low == pytest.approx(mean - T[n] * error, abs=1e-9)
    assert found.high == pytest.approx(mean + T[n] * error, abs=1e-9)


def test_the_mean_of_ef_in_plain_numbers(report: Report) -> None:
    """(80 + 66.67 + 80 + 100 + 0) / 5, case 3 left out."""
    (row,) = [row for row in report.table1 if row.name == "EF"]
    assert row.dice_percent.mean == pytest.approx(65 + 1 / 3, abs=1e-9)
    assert row.fold_means_percent == pytest.approx((73 + 1 / 3, 80.0, 50.0), abs=1e-9)
    assert (row.paper_dice_percent, row.paper_standard_error, row.paper_rho) == (70.1, 4.4, 0.867)


@pytest.mark.parametrize("name", RHO)
def test_table_1_rho(report: Report, name: str) -> None:
    (row,) = [row for row in report.table1 if row.name == name]
    assert row.volume.n == 6
    assert row.volume.rho == pytest.approx(RHO[name], abs=1e-9)


def test_table_1_p(report: Report) -> None:
    """Of 720 orders 6 differ from the sorted one by a squared sum of 2 or less (itself and 5 swaps), and 6 mirrored."""
    (row,) = [row for row in report.table1 if row.name == "EF+GGO"]
    assert row.volume.p_method == "exact"
    assert row.volume.p == pytest.approx(12 / 720, abs=1e-9)


def test_table_2(report: Report) -> None:
    ratio, fev1 = report.table2
    # Without case 5: ranks of the volume 3 4 1 5 2, of FEV1/FVC 3 2 4 1 5; squared differences 0 4 9 16 9.
    assert (ratio.metric, ratio.predicted.n, ratio.predicted.missing) == ("fev1_fvc", 5, 1)
    assert ratio.predicted.rho == pytest.approx(1 - 6 * 38 / (5 * 24), abs=1e-9)
    # 1 order reaches -1 and 4 reach -0.9, as many on the other side, of 120.
    assert ratio.predicted.p == pytest.approx(10 / 120, abs=1e-9)
    # FEV1 falls in exactly the order in which the predicted volume rises.
    assert (fev1.metric, fev1.predicted.n, fev1.predicted.missing) == ("fev1_pp", 6, 0)
    assert fev1.predicted.rho == pytest.approx(-1, abs=1e-9)
    assert fev1.predicted.p == pytest.approx(2 / 720, abs=1e-9)
    # The reference volume's ranks 3 5 1 6 4 2 against 3 2 6 1 4 5: squared differences 0 9 25 25 0 9.
    assert fev1.reference.rho == pytest.approx(1 - 6 * 68 / (6 * 35), abs=1e-9)
    assert (ratio.paper_rho, fev1.paper_rho) == (-0.649, -0.736)


def test_agreement_of_volumes(report: Report) -> None:
    """Predicted 6 8 1 10 5 2 mL, reference 5 6 2 11 5 2 mL: differences 1 2 -1 -1 0 0."""
    (row,) = [row for row in report.agreement if (row.name, row.unit) == ("EF+GGO", "mL")]
    deviation = math.sqrt((7 - 1 / 6) / 5)
    assert row.agreement.bias == pytest.approx(1 / 6, abs=1e-9)
    assert row.agreement.lower_limit == pytest.approx(1 / 6 - 1.96 * deviation, abs=1e-3)
    assert row.agreement.upper_limit == pytest.approx(1 / 6 + 1.96 * deviation, abs=1e-3)


def test_subgroups_of_slice_thickness(report: Report) -> None:
    """Thin slices 10/11, 6/7, 1 against 2/3, 20/21, 1/2: of 9 pairs the thin one is better in 2 + 2 + 3."""
    (row,) = [row for row in report.subgroups if row.name == "EF+GGO"]
    assert (row.dice_percent.n_first, row.dice_percent.n_second) == (3, 3)
    assert row.dice_percent.u == pytest.approx(7)
    assert row.dice_percent.effect == pytest.approx(5 / 9, abs=1e-9)


def test_what_was_left_out_is_said(report: Report) -> None:
    said = " ".join(report.notes)
    assert "EF: in neither mask of 1 of 6 cases" in said
    assert "FEV1/FVC (%): not known for 1 of 6 cases" in said
    assert "predicted in" not in said


def test_a_lesion_predicted_where_there_is_none_is_said() -> None:
    made = report_of({**CASES, "c7": [(1, 1, 5), (1, 2, 1), (3, 1, 1), (0, 0, 13)]})
    assert "EF: predicted in 1 of 7 cases whose reference has none; their Dice is 0." in made.notes
    assert made.cases[-1].dice_percent["EF"] == 0
    assert not [note for note in made.notes if note.startswith("GGO: predicted")]
