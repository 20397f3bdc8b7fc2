"""What Vahdani et al. 2026 print in their Tables 1 and 2 of the SICCS dataset (DOI 10.7910/DVN/3HNP33)."""

from __future__ import annotations

from typing import NamedTuple


class PrintedClass(NamedTuple):
    """A row of Table 1: Dice in percent, its standard error, and Spearman's rho with p < 0.001 (normal lung: none)."""

    dice_percent: float
    standard_error: float
    rho: float | None


TABLE_1 = {
    "normal lung": PrintedClass(87.4, 2.3, None),
    "EF": PrintedClass(70.1, 4.4, 0.867),
    "GGO": PrintedClass(73.1, 4.3, 0.979),
    "EF+GGO": PrintedClass(78.2, 3.2, 0.970),
}
TABLE_2 = {"fev1_fvc": -0.649, "fev1_pp": -0.736}
"""Spearman's rho of the predicted volume of EF+GGO with each lung function test; both p < 0.001."""

CORRECTIONS = (
    "The paper's Eq. 2 has true negatives in Dice's denominator; Dice here is 2TP / (2TP + FP + FN).",
    "The paper's results text swaps rho of GGO and EF+GGO, and its abstract the two lung function tests; "
    "the values printed in its tables are the ones quoted here.",
)
