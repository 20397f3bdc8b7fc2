"""From the out-of-fold measurements of a cross-validation to the paper's Tables 1 and 2, as a record.

Source of the tables: Vahdani et al. 2026. Beyond the paper: intervals, agreement of volumes, effect sizes. Assumed,
because the paper does not say: a lesion's percent of lung is its share of labels 1 + 2 + 3 of the same mask, means and
standard errors run over cases, the subgroups' test is Mann-Whitney's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from siccs_net.errors import DataError, UnavailableError
from siccs_net.evaluation.reporting.paper_values import CORRECTIONS, TABLE_1, TABLE_2
from siccs_net.evaluation.statistics import agreement, holm, mann_whitney, mean_estimate, paired_comparison, spearman
from siccs_net.evaluation.volumes import LUNG
from siccs_net.records.dataset import LabelScheme
from siccs_net.records.metrics import CaseMetrics, Summary
from siccs_net.records.report import (
    AgreementRow,
    ComparisonRow,
    LungFunctionRow,
    Report,
    ReportCase,
    SegmentationRow,
    SubgroupRow,
)

NORMAL_LUNG = "normal lung"
BURDEN = "EF+GGO"
LESIONS = ("EF", "GGO", BURDEN)
CLASSES = (NORMAL_LUNG, *LESIONS, LUNG)
_GROUPS = (*LESIONS, LUNG)
_PARTS = (NORMAL_LUNG, *LESIONS)
THIN_SLICES_MM = 1.0
TITLES = {
    "fev1_fvc": "FEV1/FVC (%)",
    "fev1_pp": "FEV1 (% predicted)",
    "fvc_pp": "FVC (% predicted)",
    "dlco_pp": "DLCO (% predicted)",
}
_Values = list[float | None]


@dataclass(frozen=True)
class ReportSource:
    """What a report is made of.

    `labels` are the dataset's (`require_paper_classes`), `folds` the number of folds that the cases come from,
    `slice_thickness_mm` each scan's own. `lung_function` goes by column of pft.csv, then by case; None is a missing
    test. `other` is another model's summary of the same cases, to compare with.
    """

    dataset: str
    model: str
    folds: int
    labels: LabelScheme
    summary: Summary
    slice_thickness_mm: Mapping[str, float]
    patients: Mapping[str, str] = field(default_factory=dict)
    lung_function: Mapping[str, Mapping[str, float | None]] = field(default_factory=dict)
    thin_below_mm: float = THIN_SLICES_MM
    other_name: str | None = None
    other: Summary | None = None
    methods: tuple[str, ...] = ()
    assumed: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    seed: int = 0


def require_paper_classes(labels: LabelScheme) -> None:
    """Raise UnavailableError unless dataset.json says which labels are lung, EF, GGO, EF+GGO and normal lung.

    Normal lung is the one label of `lung` that is no lesion.
    """
    missing = [name for name in _GROUPS if name not in labels.reported]
    if missing:
        raise UnavailableError(
            "the paper's tables need to know which labels are lung, EF, GGO and EF+GGO",
            found=f"no {', '.join(missing)} in {', '.join(labels.reported) or 'no label'}",
            hint='Add "siccs_groups": {"lung": [1, 2, 3], "EF": [2], "GGO": [3], "EF+GGO": [2, 3]} to dataset.json',
        )
    normal = _normal_lung(labels)
    if len(normal) != 1 or (normal[0],) not in labels.reported.values():
        raise UnavailableError(
            "the paper's tables need one label for normal lung: a label of lung that is not in EF+GGO",
            found=f"lung {list(labels.reported[LUNG])}, EF+GGO {list(labels.reported[BURDEN])}",
        )


def _normal_lung(labels: LabelScheme) -> list[int]:
    return sorted(set(labels.reported[LUNG]) - set(labels.reported[BURDEN]))


def build_report(source: ReportSource) -> Report:
    """Return all tables of a cross-validation.

    Raises UnavailableError for labels that are not the paper's, DataError for a case that belongs to no fold.
    """
    require_paper_classes(source.labels)
    cases = tuple(_report_case(item, source) for item in source.summary.metric_per_case)
    return Report(
        dataset=source.dataset,
        model=source.model,
        folds=source.folds,
        cases=cases,
        table1=tuple(_segmentation_row(name, cases, source) for name in CLASSES),
        table2=tuple(_lung_function_row(metric, cases, source.seed) for metric in source.lung_function),
        agreement=tuple(row for name in LESIONS for row in _agreement_rows(name, cases)),
        slice_thickness_threshold_mm=source.thin_below_mm,
        subgroups=tuple(_subgroup_row(name, cases, source) for name in CLASSES),
        compared_with=source.other_name,
        comparison=() if source.other is None else _comparison_rows(cases, source.other, source),
        methods=source.methods,
        assumed=dict(source.assumed),
        notes=(*source.notes, *_notes(cases), *CORRECTIONS),
    )


def _report_case(item: CaseMetrics, source: ReportSource) -> ReportCase:
    if item.case not in (source.summary.folds or {}):
        raise DataError("a case of the summary is in no fold", found=item.case, expected="out-of-fold predictions")
    keys = _keys(item, source.labels)
    found = {name: item.metrics[keys[name]] for name in CLASSES}
    lung = found[LUNG]
    return ReportCase(
        case=item.case,
        patient=source.patients.get(item.case),
        fold=(source.summary.folds or {})[item.case],
        slice_thickness_mm=source.slice_thickness_mm[item.case],
        dice_percent={name: _percent(one.Dice, 1) for name, one in found.items()},
        predicted_ml={name: one.volume_pred_ml for name, one in found.items()},
        reference_ml={name: one.volume_ref_ml for name, one in found.items()},
        predicted_percent={name: _percent(found[name].n_pred, lung.n_pred) for name in _PARTS},
        reference_percent={name: _percent(found[name].n_ref, lung.n_ref) for name in _PARTS},
        pft={metric: values.get(item.case) for metric, values in source.lung_function.items()},
    )


def _keys(item: CaseMetrics, labels: LabelScheme) -> dict[str, str]:
    """Return the summary's key of each class; a group that is one label goes by the label's name."""
    named = {name: key for key, name in item.names.items()}
    keys = {name: named[name] for name in _GROUPS if name in named} | {NORMAL_LUNG: str(_normal_lung(labels)[0])}
    if missing := [name for name in CLASSES if keys.get(name) not in item.metrics]:
        raise UnavailableError(
            "the summary does not measure a class of the paper's tables",
            found=f"no {', '.join(missing)} in {', '.join(named)}",
            hint="Validate the folds again: dataset.json's labels or siccs_groups have changed since",
        )
    return keys


def _percent(part: float | None, whole: float) -> float | None:
    return None if part is None or not whole else 100 * part / whole


def _dice(name: str, cases: Sequence[ReportCase]) -> _Values:
    return [case.dice_percent[name] for case in cases]


def _predicted(name: str, cases: Sequence[ReportCase]) -> _Values:
    return [case.predicted_percent.get(name) for case in cases]


def _reference(name: str, cases: Sequence[ReportCase]) -> _Values:
    return [case.reference_percent.get(name) for case in cases]


def _segmentation_row(name: str, cases: Sequence[ReportCase], source: ReportSource) -> SegmentationRow:
    printed = TABLE_1.get(name)
    dice = _dice(name, cases)
    return SegmentationRow(
        name=name,
        dice_percent=mean_estimate(dice),
        undefined_dice=dice.count(None),
        fold_means_percent=_fold_means(name, cases),
        volume=spearman(_predicted(name, cases), _reference(name, cases), seed=source.seed),
        paper_dice_percent=printed.dice_percent if printed else None,
        paper_standard_error=printed.standard_error if printed else None,
        paper_rho=printed.rho if printed else None,
    )


def _fold_means(name: str, cases: Sequence[ReportCase]) -> tuple[float | None, ...]:
    folds = sorted({case.fold for case in cases})
    return tuple(mean_estimate(_dice(name, [case for case in cases if case.fold == fold])).mean for fold in folds)


def _lung_function_row(metric: str, cases: Sequence[ReportCase], seed: int) -> LungFunctionRow:
    measured = [case.pft[metric] for case in cases]
    return LungFunctionRow(
        metric=metric,
        title=TITLES.get(metric, metric),
        name=BURDEN,
        predicted=spearman(_predicted(BURDEN, cases), measured, seed=seed),
        reference=spearman(_reference(BURDEN, cases), measured, seed=seed),
        paper_rho=TABLE_2.get(metric),
    )


def _agreement_rows(name: str, cases: Sequence[ReportCase]) -> tuple[AgreementRow, AgreementRow]:
    predicted, reference = (
        [getattr(case, which)[name] for case in cases] for which in ("predicted_ml", "reference_ml")
    )
    return (
        AgreementRow(name=name, unit="mL", agreement=agreement(predicted, reference)),
        AgreementRow(
            name=name, unit="% of lung", agreement=agreement(_predicted(name, cases), _reference(name, cases))
        ),
    )


def _subgroup_row(name: str, cases: Sequence[ReportCase], source: ReportSource) -> SubgroupRow:
    thin = [case for case in cases if case.slice_thickness_mm < source.thin_below_mm]
    thick = [case for case in cases if case.slice_thickness_mm >= source.thin_below_mm]
    return SubgroupRow(name=name, dice_percent=mann_whitney(_dice(name, thin), _dice(name, thick), seed=source.seed))


def _comparison_rows(cases: Sequence[ReportCase], other: Summary, source: ReportSource) -> tuple[ComparisonRow, ...]:
    theirs = {item.case: item for item in other.metric_per_case}
    if lost := sorted(case.case for case in cases if case.case not in theirs):
        raise DataError("the other model did not measure every case", found=f"no {', '.join(lost[:10])}")
    measured = [theirs[case.case] for case in cases]
    compared = [
        paired_comparison(
            _dice(name, cases),
            [_percent(item.metrics[_keys(item, source.labels)[name]].Dice, 1) for item in measured],
            seed=source.seed,
        )
        for name in CLASSES
    ]
    wilcoxon, permutation = (holm([getattr(one, test) for one in compared]) for test in ("wilcoxon_p", "permutation_p"))
    adjusted = zip(CLASSES, compared, wilcoxon, permutation, strict=True)
    return tuple(
        ComparisonRow(name=name, dice_percent=one.model_copy(update={"wilcoxon_p_holm": w, "permutation_p_holm": p}))
        for name, one, w, p in adjusted
    )


def _notes(cases: Sequence[ReportCase]) -> tuple[str, ...]:
    """Say what was left out of which figure."""
    total = len(cases)
    absent = {name: _dice(name, cases).count(None) for name in CLASSES}
    invented = {name: sum(case.reference_ml[name] == 0 < case.predicted_ml[name] for case in cases) for name in CLASSES}
    unknown = {metric: [case.pft[metric] for case in cases].count(None) for metric in cases[0].pft} if cases else {}
    lost = sorted(case.case for case in cases if None in case.predicted_percent.values())
    nowhere = f"No lung was predicted in {', '.join(lost[:10])}: percent of lung is undefined there."
    return (
        *(
            f"{name}: in neither mask of {n} of {total} cases, whose Dice is undefined."
            for name, n in absent.items()
            if n
        ),
        *(
            f"{name}: predicted in {n} of {total} cases whose reference has none; their Dice is 0."
            for name, n in invented.items()
            if n
        ),
        *([nowhere] if lost else []),
        *(f"{TITLES.get(metric, metric)}: not known for {n} of {total} cases." for metric, n in unknown.items() if n),
    )
