"""report.json: the paper's tables of a cross-validation, with intervals, the paper's values, and the cases behind them.

Dice is in percent, volumes are in mL and in percent of the lung of the same mask. Intervals are 95 %. `null` is
undefined and never 0; every count says how many cases were left out for it.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from siccs_net.records.base import Record


class MeanEstimate(Record):
    """Mean of n values, its standard error (sd with n - 1, over root n) and its 95 % interval by Student's t."""

    n: int
    mean: float | None
    standard_error: float | None
    low: float | None
    high: float | None


class Correlation(Record):
    """Spearman's rho of n pairs, its 95 % BCa bootstrap interval, and p of no association, two-sided.

    `p_method` says how p was found: every permutation (exact), random permutations, or Student's t. `missing` counts
    the pairs left out because one value was not known. Undefined (null) for fewer than 3 pairs or a constant.
    """

    n: int
    missing: int = 0
    rho: float | None
    low: float | None
    high: float | None
    p: float | None
    p_method: Literal["exact", "permutation", "t"] | None


class Agreement(Record):
    """Bland-Altman of prediction minus reference, and ICC(2,1): two-way random effects, absolute agreement, single."""

    n: int
    bias: float | None
    bias_low: float | None
    bias_high: float | None
    lower_limit: float | None
    upper_limit: float | None
    icc: float | None
    icc_low: float | None
    icc_high: float | None


class GroupComparison(Record):
    """Mann-Whitney U of two independent groups, two-sided.

    `effect` is the rank-biserial correlation in -1..1: above 0 the first group tends to have the larger values.
    """

    n_first: int
    n_second: int
    median_first: float | None
    median_second: float | None
    u: float | None
    p: float | None
    p_method: Literal["exact", "normal"] | None
    effect: float | None
    effect_low: float | None
    effect_high: float | None


class PairedComparison(Record):
    """First minus second of n pairs: mean difference with its BCa interval, Wilcoxon's and the sign-flip test's p."""

    n: int
    mean_difference: float | None
    low: float | None
    high: float | None
    median_difference: float | None
    wilcoxon_p: float | None
    permutation_p: float | None
    wilcoxon_p_holm: float | None = None
    permutation_p_holm: float | None = None


class SegmentationRow(Record):
    """A row of Table 1: Dice of a class, and its predicted against its reference volume (percent of lung)."""

    name: str
    dice_percent: MeanEstimate
    undefined_dice: int
    fold_means_percent: tuple[float | None, ...]
    volume: Correlation
    paper_dice_percent: float | None = None
    paper_standard_error: float | None = None
    paper_rho: float | None = None


class LungFunctionRow(Record):
    """A row of Table 2: volume of a class (percent of lung) against a lung function test, predicted and reference."""

    metric: str
    title: str
    name: str
    predicted: Correlation
    reference: Correlation
    paper_rho: float | None = None


class AgreementRow(Record):
    """Predicted against reference volume of a class."""

    name: str
    unit: Literal["mL", "% of lung"]
    agreement: Agreement


class SubgroupRow(Record):
    """Dice (percent) of a class in scans of thin slices (first) against thick ones (second)."""

    name: str
    dice_percent: GroupComparison


class ComparisonRow(Record):
    """Dice (percent) of a class, this model minus another one on the same cases; Holm over the rows."""

    name: str
    dice_percent: PairedComparison


class ReportCase(Record):
    """One out-of-fold case. The dictionaries go by class name (`lung`, `EF`, …), `pft` by column of pft.csv."""

    case: str
    patient: str | None
    fold: int
    slice_thickness_mm: float
    dice_percent: dict[str, float | None]
    predicted_ml: dict[str, float]
    reference_ml: dict[str, float]
    predicted_percent: dict[str, float | None]
    reference_percent: dict[str, float | None]
    pft: dict[str, float | None] = Field(default_factory=dict)


class Report(Record):
    """Everything that siccs_report shows, for programs."""

    SCHEMA: ClassVar[str] = "siccs_net.report"

    dataset: str
    model: str
    folds: int
    cases: tuple[ReportCase, ...]
    table1: tuple[SegmentationRow, ...]
    table2: tuple[LungFunctionRow, ...]
    agreement: tuple[AgreementRow, ...]
    slice_thickness_threshold_mm: float
    subgroups: tuple[SubgroupRow, ...]
    compared_with: str | None = None
    comparison: tuple[ComparisonRow, ...] = ()
    methods: tuple[str, ...]
    assumed: dict[str, str]
    notes: tuple[str, ...]
