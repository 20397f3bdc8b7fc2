"""From two masks to a case's metrics, and from cases to a summary: as a record, as CSV, as text."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from siccs_net.errors import DataError, UsageError
from siccs_net.evaluation.overlap import Overlap, confusion
from siccs_net.evaluation.surface import TOLERANCES_MM, SurfaceMetrics, surface_metrics
from siccs_net.evaluation.volumes import MM3_PER_ML
from siccs_net.records.metrics import METRICS, CaseMetrics, ClassMetrics, MeanMetrics, Summary

_COLUMNS = {
    "Dice": ("Dice", 3),
    "NSD_2mm": ("NSD 2 mm", 3),
    "NSD_5mm": ("NSD 5 mm", 3),
    "HD95": ("HD95 mm", 2),
    "volume_pred_ml": ("predicted mL", 1),
    "volume_ref_ml": ("reference mL", 1),
}
_Statistic = Callable[[Sequence[float]], float | None]
_NONE = SurfaceMetrics({format(tolerance, "g"): None for tolerance in TOLERANCES_MM}, None)


def measure_case(
    prediction: NDArray[Any],
    reference: NDArray[Any],
    spacing_mm: Sequence[float],
    labels: Mapping[str, int | Sequence[int]],
    groups: Mapping[str, Sequence[int]],
    *,
    case: str,
    prediction_file: str,
    reference_file: str,
    surface: bool = True,
    ignore_label: int | None = None,
) -> CaseMetrics:
    """Measure a prediction against its reference, label maps [z, y, x] on one grid.

    `labels` are names and values (several values: a region), the background is left out; `groups` are named unions of
    label values. Voxels whose reference is `ignore_label` do not count. A volume of one slice has its surfaces
    measured in 2D. Raises GeometryError for two shapes or a spacing that does not fit, DataError for maps that do
    not hold whole numbers, UsageError for a group named like a label's key.
    """
    keys = {_key(value): name for name, value in labels.items() if not _is_background(value)}
    classes = {key: _values(labels[name]) for key, name in keys.items()} | _checked_groups(groups, keys)
    overlaps = confusion(prediction, reference, classes, ignore_label=ignore_label)
    surfaces: Mapping[str, SurfaceMetrics] = {}
    if surface:
        surfaces = surface_metrics(prediction, reference, spacing_mm, classes, ignore_label=ignore_label)
    voxel_ml = math.prod(spacing_mm) / MM3_PER_ML
    return CaseMetrics(
        case=case,
        prediction_file=prediction_file,
        reference_file=reference_file,
        names={**keys, **{name: name for name in groups}},
        groups=tuple(groups),
        metrics={key: _class_metrics(overlaps[key], surfaces.get(key, _NONE), voxel_ml) for key in classes},
    )


def _is_background(value: int | Sequence[int]) -> bool:
    return set(_values(value)) == {0}


def _values(value: int | Sequence[int]) -> tuple[int, ...]:
    return (value,) if isinstance(value, int) else tuple(value)


def _key(value: int | Sequence[int]) -> str:
    """Return nnU-Net's key of a label ("1") or region ("(1, 2)")."""
    return str(value) if isinstance(value, int) else str(tuple(value))


def _checked_groups(groups: Mapping[str, Sequence[int]], keys: Mapping[str, str]) -> dict[str, tuple[int, ...]]:
    clash = sorted(set(groups) & set(keys))
    if clash:
        raise UsageError(
            "a group of siccs_groups is named like a label's key in summary.json",
            found=f"group {clash[0]!r}, label {keys[clash[0]]!r}",
            hint="Rename the group in dataset.json",
        )
    return {name: tuple(values) for name, values in groups.items()}


def _class_metrics(overlap: Overlap, surface: SurfaceMetrics, voxel_ml: float) -> ClassMetrics:
    return ClassMetrics(
        Dice=overlap.dice,
        IoU=overlap.iou,
        TP=overlap.tp,
        FP=overlap.fp,
        FN=overlap.fn,
        TN=overlap.tn,
        n_pred=overlap.n_pred,
        n_ref=overlap.n_ref,
        NSD_2mm=surface.nsd["2"],
        NSD_5mm=surface.nsd["5"],
        HD95=surface.hd95_mm,
        volume_pred_ml=overlap.n_pred * voxel_ml,
        volume_ref_ml=overlap.n_ref * voxel_ml,
    )


def summarise(cases: Sequence[CaseMetrics], folds: Mapping[str, int] | None) -> Summary:
    """Return the cases with their means, standard errors and counts, and the means of each fold.

    `folds` gives the fold of each case; None or empty when the cases do not come from folds. Raises UsageError
    without cases, DataError for two cases of one name, cases measured with other classes, or a case in no fold.
    """
    _check_cases(cases, folds)
    first = cases[0]
    mean = _over_cases(cases, _mean)
    return Summary(
        names=first.names,
        groups=first.groups,
        foreground_mean=_combine([found for key, found in mean.items() if key not in first.groups], _mean),
        mean=mean,
        standard_error=_over_cases(cases, _standard_error),
        defined_cases={key: _count_defined(_of_class(cases, key)) for key in first.metrics},
        one_empty_cases={key: sum(found.one_empty for found in _of_class(cases, key)) for key in first.metrics},
        folds={item.case: folds[item.case] for item in cases} if folds else None,
        fold_mean=_fold_means(cases, folds) if folds else {},
        metric_per_case=tuple(cases),
    )


def _check_cases(cases: Sequence[CaseMetrics], folds: Mapping[str, int] | None) -> None:
    if not cases:
        raise UsageError("there is no case to summarise")
    names = [item.case for item in cases]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise DataError("a case was measured twice", found=", ".join(twice), expected="each case once")
    for item in cases:
        if (item.names, item.groups) != (cases[0].names, cases[0].groups):
            raise DataError(
                f"{item.case} was measured with other classes than {cases[0].case}",
                found=item.names,
                expected=cases[0].names,
                hint="Measure all cases again with one dataset.json",
            )
    if folds and (lost := sorted(set(names) - set(folds))):
        raise DataError("a case is in no fold", found=", ".join(lost), expected="every case in one fold")


def _of_class(cases: Iterable[CaseMetrics], key: str) -> list[ClassMetrics]:
    return [item.metrics[key] for item in cases]


def _over_cases(cases: Sequence[CaseMetrics], statistic: _Statistic) -> dict[str, MeanMetrics]:
    return {key: _combine(_of_class(cases, key), statistic) for key in cases[0].metrics}


def _fold_means(cases: Sequence[CaseMetrics], folds: Mapping[str, int]) -> dict[str, dict[str, MeanMetrics]]:
    members: dict[int, list[CaseMetrics]] = {}
    for item in cases:
        members.setdefault(folds[item.case], []).append(item)
    return {str(fold): _over_cases(members[fold], _mean) for fold in sorted(members)}


def _combine(found: Sequence[ClassMetrics | MeanMetrics], statistic: _Statistic) -> MeanMetrics:
    return MeanMetrics(**{metric: statistic(_defined(found, metric)) for metric in METRICS})


def _count_defined(found: Sequence[ClassMetrics]) -> dict[str, int]:
    return {metric: len(_defined(found, metric)) for metric in METRICS}


def _defined(found: Iterable[ClassMetrics | MeanMetrics], metric: str) -> list[float]:
    return [float(value) for item in found if (value := getattr(item, metric)) is not None]


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None


def _standard_error(values: Sequence[float]) -> float | None:
    return float(np.std(values, ddof=1) / math.sqrt(len(values))) if len(values) > 1 else None


def summary_csv(summary: Summary) -> str:
    """Return one row per case and class, all metrics; undefined is empty, so is the fold of a case without one."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["case", "fold", "key", "class", *METRICS])
    for item in summary.metric_per_case:
        fold = summary.folds[item.case] if summary.folds else None
        for key, found in item.metrics.items():
            writer.writerow([item.case, fold, key, item.names[key], *(getattr(found, metric) for metric in METRICS)])
    return stream.getvalue()


def summary_table(summary: Summary) -> str:
    """Return a table for a terminal: a class a row, means ± standard errors over the cases where they are defined."""
    header = ["class", "n", *(title for title, _ in _COLUMNS.values())]
    rows = [_class_row(summary, key) for key in summary.mean]
    labels = sum(key not in summary.groups for key in summary.mean)
    rows.append([f"mean of {labels} labels", "", *_cells(summary.foreground_mean, None)])
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    lines = ["  ".join(_aligned(row, widths)).rstrip() for row in [header, *rows]]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:], *_footnotes(summary)])


def _class_row(summary: Summary, key: str) -> list[str]:
    defined = str(summary.defined_cases[key]["Dice"])
    return [summary.names[key], defined, *_cells(summary.mean[key], summary.standard_error[key])]


def _cells(mean: MeanMetrics, error: MeanMetrics | None) -> list[str]:
    return [
        _cell(getattr(mean, metric), None if error is None else getattr(error, metric), digits)
        for metric, (_, digits) in _COLUMNS.items()
    ]


def _cell(mean: float | None, error: float | None, digits: int) -> str:
    if mean is None:
        return "-"
    return f"{mean:.{digits}f}" if error is None else f"{mean:.{digits}f} ± {error:.{digits}f}"


def _aligned(row: Sequence[str], widths: Sequence[int]) -> list[str]:
    return [row[0].ljust(widths[0]), row[1].rjust(widths[1]), *map(str.ljust, row[2:], widths[2:])]


def _footnotes(summary: Summary) -> list[str]:
    total = len(summary.metric_per_case)
    return [
        f"n of {total} cases have the class in either mask; figures are means ± standard errors over cases",
        *(
            f"{summary.names[key]}: in one of the two masks only in {count} of {total} cases, which have no HD95"
            for key, count in summary.one_empty_cases.items()
            if count
        ),
    ]
