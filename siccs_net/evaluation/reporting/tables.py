"""The report's tables: cells for the HTML page and, the same ones, text for a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from siccs_net.evaluation.reporting import numbers as text
from siccs_net.evaluation.reporting.columns import Columns, csv_text, getter, record_columns
from siccs_net.evaluation.reporting.numbers import number, p_value
from siccs_net.records.report import (
    AgreementRow,
    ComparisonRow,
    LungFunctionRow,
    Report,
    ReportCase,
    SegmentationRow,
    SubgroupRow,
)

TABLES = ("table1", "table2", "agreement", "subgroups", "comparison", "cases")
"""The tables of a report that are written as CSV."""
_WIDTH = 100
_Row = Any


@dataclass(frozen=True)
class Table:
    """A table as it is shown: `cells` are rows of text, as many in each as there are columns."""

    key: str
    title: str
    caption: str
    columns: tuple[str, ...]
    cells: tuple[tuple[str, ...], ...]
    empty: str


def _table(
    key: str, title: str, caption: str, columns: dict[str, Callable[[_Row], str]], rows: Iterable[_Row], empty: str
) -> Table:
    cells = tuple(tuple(cell(row) for cell in columns.values()) for row in rows)
    return Table(key, title, text.unbroken(caption), tuple(columns), cells, empty)


def report_tables(report: Report) -> list[Table]:
    """Return the tables in their order; those of a comparison only when the report has one."""
    found = [_table_1(report), _folds(report), _table_2(report), _agreement(report), _subgroups(report)]
    return [*found, _comparison(report)] if report.compared_with is not None else found


def _table_1(report: Report) -> Table:
    measured = _classes_with_percent(report)
    columns: dict[str, Callable[[SegmentationRow], str]] = {
        "class": lambda row: row.name,
        "n": lambda row: text.count_text(row.dice_percent.n, row.undefined_dice, "undefined"),
        "Dice %": lambda row: text.mean_text(row.dice_percent),
        "paper": lambda row: text.paper_dice(row.paper_dice_percent, row.paper_standard_error),
        "ρ of volumes": lambda row: text.rho_text(row.volume) if row.name in measured else text.NOT_MEASURED,
        "n of ρ": lambda row: (
            text.count_text(row.volume.n, row.volume.missing) if row.name in measured else text.UNDEFINED
        ),
        "p": lambda row: p_value(row.volume.p, row.volume.p_method),
        "paper ρ": lambda row: text.paper_rho(row.paper_rho),
    }
    caption = (
        "Dice over cases, out-of-fold: mean ± standard error [95 % interval]. ρ: Spearman’s, of predicted and "
        f"reference volume in percent of lung [95 % interval]; normal lung and EF+GGO make up the lung, "
        f"so their ρ is the same. The paper’s p are all <0.001. {text.P_METHODS} Undefined Dice: the class is in "
        "neither mask."
    )
    return _table("table1", "Table 1. Segmentation", caption, columns, report.table1, "No classes.")


def _folds(report: Report) -> Table:
    columns: dict[str, Callable[[SegmentationRow], str]] = {"class": lambda row: row.name}
    columns |= {f"fold {fold}": _fold_mean(place) for place, fold in enumerate(fold_numbers(report))}
    caption = "Mean Dice in percent over the cases of each validation fold."
    return _table("folds", "Dice by fold", caption, columns, report.table1, "No classes.")


def fold_numbers(report: Report) -> list[int]:
    """Return the numbers of the folds that the cases come from, in the order of `fold_means_percent`."""
    return sorted({case.fold for case in report.cases})


def _fold_mean(place: int) -> Callable[[SegmentationRow], str]:
    return lambda row: number(row.fold_means_percent[place], 1)


def _table_2(report: Report) -> Table:
    columns: dict[str, Callable[[LungFunctionRow], str]] = {
        "lung function": lambda row: row.title,
        "class": lambda row: row.name,
        "n": lambda row: text.count_text(row.predicted.n, row.predicted.missing),
        "ρ, predicted volume": lambda row: text.rho_text(row.predicted),
        "p": lambda row: p_value(row.predicted.p, row.predicted.p_method),
        "paper ρ": lambda row: text.paper_rho(row.paper_rho),
        "ρ, reference volume": lambda row: text.rho_text(row.reference),
        "reference p": lambda row: p_value(row.reference.p, row.reference.p_method),
    }
    caption = (
        "Spearman’s ρ of volume in percent of lung with lung function tests [95 % interval]. The paper’s p are all "
        f"<0.001. {text.P_METHODS}"
    )
    empty = "No lung function tests were given (--pft), so there is no Table 2 and no Figure 3."
    return _table("table2", "Table 2. Lung function", caption, columns, report.table2, empty)


def _agreement(report: Report) -> Table:
    columns: dict[str, Callable[[AgreementRow], str]] = {
        "class": lambda row: row.name,
        "unit": lambda row: row.unit,
        "n": lambda row: str(row.agreement.n),
        "bias": lambda row: text.bias_text(row.agreement, _digits(row)),
        "limits of agreement": lambda row: text.limits_text(row.agreement, _digits(row)),
        "ICC(2,1)": lambda row: text.icc_text(row.agreement),
    }
    caption = "Predicted minus reference volume: mean [95 % interval] and Bland–Altman limits; ICC [95 % interval]."
    return _table("agreement", "Agreement of volumes", caption, columns, report.agreement, "No classes.")


def _digits(row: AgreementRow) -> int:
    return 1 if row.unit == "mL" else 2


def _subgroups(report: Report) -> Table:
    thin = f"< {report.slice_thickness_threshold_mm:g} mm"
    thick = f"≥ {report.slice_thickness_threshold_mm:g} mm"
    columns: dict[str, Callable[[SubgroupRow], str]] = {
        "class": lambda row: row.name,
        f"n {thin}": lambda row: str(row.dice_percent.n_first),
        f"median {thin}": lambda row: number(row.dice_percent.median_first, 1),
        f"n {thick}": lambda row: str(row.dice_percent.n_second),
        f"median {thick}": lambda row: number(row.dice_percent.median_second, 1),
        "U": lambda row: number(row.dice_percent.u, 1),
        "p": lambda row: p_value(row.dice_percent.p, row.dice_percent.p_method),
        "effect": lambda row: text.effect_text(row.dice_percent),
    }
    caption = (
        "Dice in percent over cases, out-of-fold, by slice thickness. Mann–Whitney U, two-sided; effect: rank-biserial "
        "correlation [95 % interval], above 0 where thin slices do better. The paper found no difference "
        f"(p above 0.05). {text.P_METHODS}"
    )
    return _table("subgroups", "Slice thickness", caption, columns, report.subgroups, "No classes.")


def _comparison(report: Report) -> Table:
    columns: dict[str, Callable[[ComparisonRow], str]] = {
        "class": lambda row: row.name,
        "n": lambda row: str(row.dice_percent.n),
        "mean difference": lambda row: text.difference_text(row.dice_percent),
        "median difference": lambda row: number(row.dice_percent.median_difference, 1),
        "Wilcoxon p": lambda row: p_value(row.dice_percent.wilcoxon_p),
        "Holm": lambda row: p_value(row.dice_percent.wilcoxon_p_holm),
        "sign-flip p": lambda row: p_value(row.dice_percent.permutation_p),
        "Holm, sign-flip": lambda row: p_value(row.dice_percent.permutation_p_holm),
    }
    caption = "Dice in percent over the same cases, out-of-fold, this model minus the other [95 % interval]."
    return _table(
        "comparison", f"Against {report.compared_with}", caption, columns, report.comparison, "No case in common."
    )


def class_names(cases: Sequence[ReportCase]) -> list[str]:
    """Return the classes that any case has, in their first order."""
    return list(dict.fromkeys(name for case in cases for name in case.dice_percent))


def pft_columns(cases: Sequence[ReportCase]) -> list[str]:
    """Return the lung function tests that any case has, in their first order."""
    return list(dict.fromkeys(column for case in cases for column in case.pft))


def case_table(report: Report) -> Table:
    """Return a row per case: its volumes, in percent of lung too where they are, and its lung function."""
    columns: dict[str, Callable[[ReportCase], str]] = {
        "case": lambda case: case.case,
        "patient": lambda case: text.UNDEFINED if case.patient is None else case.patient,
        "fold": lambda case: str(case.fold),
        "slice mm": lambda case: number(case.slice_thickness_mm, 2),
    }
    measured = _classes_with_percent(report)
    for name in class_names(report.cases):
        columns |= _class_columns(name) | (_percent_columns(name) if name in measured else {})
    columns |= {f"PFT {column}": _pft(column) for column in pft_columns(report.cases)}
    caption = "Every case as the fold model that did not train on it predicted it."
    return _table("cases", "Cases", caption, columns, report.cases, "No cases.")


def _pft(column: str) -> Callable[[ReportCase], str]:
    return lambda case: number(case.pft.get(column), 1)


def _classes_with_percent(report: Report) -> set[str]:
    return {name for case in report.cases for name in case.predicted_percent}


def _class_columns(name: str) -> dict[str, Callable[[ReportCase], str]]:
    return {
        f"{name} Dice %": lambda case: number(case.dice_percent.get(name), 1),
        f"{name} predicted mL": lambda case: number(case.predicted_ml.get(name), 1),
        f"{name} reference mL": lambda case: number(case.reference_ml.get(name), 1),
    }


def _percent_columns(name: str) -> dict[str, Callable[[ReportCase], str]]:
    return {
        f"{name} predicted % of lung": lambda case: number(case.predicted_percent.get(name), 2),
        f"{name} reference % of lung": lambda case: number(case.reference_percent.get(name), 2),
    }


def tables_csv(report: Report) -> dict[str, str]:
    """Return the tables as CSV text by their names (`TABLES`).

    A table without rows has its header. Columns are the record's keys, joined by "_".
    """
    return {
        "table1": csv_text(record_columns(SegmentationRow) | _fold_columns(report), report.table1),
        "table2": csv_text(record_columns(LungFunctionRow), report.table2),
        "agreement": csv_text(record_columns(AgreementRow), report.agreement),
        "subgroups": csv_text(record_columns(SubgroupRow), report.subgroups),
        "comparison": csv_text(record_columns(ComparisonRow), report.comparison),
        "cases": csv_text(_case_columns(report), report.cases),
    }


def _fold_columns(report: Report) -> Columns:
    def column(place: int) -> Callable[[SegmentationRow], object]:
        return lambda row: row.fold_means_percent[place]

    return {f"dice_percent_fold_{fold}": column(place) for place, fold in enumerate(fold_numbers(report))}


def _case_columns(report: Report) -> Columns:
    columns: Columns = {name: getter(name) for name in ("case", "patient", "fold", "slice_thickness_mm")}
    volumes = ("dice_percent", "predicted_ml", "reference_ml", "predicted_percent", "reference_percent")
    for name in class_names(report.cases):
        columns |= {f"{field}_{name}": _entry(field, name) for field in volumes}
    return columns | {f"pft_{name}": _entry("pft", name) for name in pft_columns(report.cases)}


def _entry(field: str, name: str) -> Callable[[ReportCase], object]:
    return lambda case: getattr(case, field).get(name)


def report_text(report: Report) -> str:
    """Return the tables for a terminal, with the paper's values beside, and the notes; without the cases."""
    head = (
        f"{text.plain(report.dataset)}, {text.plain(report.model)}: {text.cases_and_folds(report)}. Research use only."
    )
    parts = [head, *(_as_text(table) for table in report_tables(report))]
    if report.notes:
        notes = (_wrapped(f"- {text.plain(note)}", indent="  ") for note in report.notes)
        parts.append("\n".join(["Notes", *notes]))
    return "\n\n".join(parts)


def _as_text(table: Table) -> str:
    title = [text.plain(table.title), _wrapped(table.caption)]
    if not table.cells:
        return "\n".join([title[0], table.empty])
    rows = [table.columns, *([text.plain(cell) for cell in row] for row in table.cells)]
    widths = [max(text.printed_width(row[column]) for row in rows) for column in range(len(table.columns))]
    lines = [_aligned(row, widths) for row in rows]
    rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
    return "\n".join([*title, rule, lines[0], rule, *lines[1:]])


def _aligned(row: Sequence[str], widths: Sequence[int]) -> str:
    padded = (cell + " " * (width - text.printed_width(cell)) for cell, width in zip(row, widths, strict=True))
    return "  ".join(padded).rstrip()


def _wrapped(line: str, indent: str = "") -> str:
    return textwrap.fill(line, _WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
