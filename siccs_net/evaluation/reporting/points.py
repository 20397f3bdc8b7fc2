"""The points behind the report's figures, out of its cases: what is drawn, and what cannot be."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from siccs_net.evaluation.reporting.columns import Columns, csv_text
from siccs_net.evaluation.reporting.palettes import EF, GGO, LESION
from siccs_net.records.report import LungFunctionRow, Report

FIGURE_2_PANELS = ((EF, GGO), (LESION,))


@dataclass(frozen=True)
class Points:
    """Pairs of which both values are known, as x and y [n], and how many cases lack one."""

    x: NDArray[np.float64]
    y: NDArray[np.float64]
    missing: int


def _pairs(pairs: Iterable[tuple[float | None, float | None]]) -> Points:
    found = list(pairs)
    known = [(x, y) for x, y in found if x is not None and y is not None]
    values = np.array(known, np.float64).reshape(-1, 2)
    return Points(values[:, 0], values[:, 1], len(found) - len(known))


def volume_points(report: Report, name: str) -> Points:
    """Return the reference (x) and predicted (y) volumes of a class in percent of lung."""
    return _pairs((case.reference_percent.get(name), case.predicted_percent.get(name)) for case in report.cases)


def lung_function_points(report: Report, metric: str) -> Points:
    """Return the predicted volume of EF+GGO in percent of lung (x) and a lung function test (y)."""
    return _pairs((case.predicted_percent.get(LESION), case.pft.get(metric)) for case in report.cases)


def difference_points(report: Report, name: str, unit: str) -> Points:
    """Return the mean of predicted and reference volume (x) and predicted minus reference (y), in "mL" or percent."""
    if unit == "mL":
        found = _pairs((case.reference_ml.get(name), case.predicted_ml.get(name)) for case in report.cases)
    else:
        found = volume_points(report, name)
    return Points((found.x + found.y) / 2, found.y - found.x, found.missing)


def lung_function_rows(report: Report) -> list[LungFunctionRow]:
    """Return the rows of Table 2 for EF+GGO, those that the paper has (its Fig. 3) first."""
    rows = [row for row in report.table2 if row.name == LESION]
    return sorted(rows, key=lambda row: row.paper_rho is None)


def figure_points_csv(report: Report) -> dict[str, str]:
    """Return the points of Figs 2 and 3 as CSV text by figure; a case that is not drawn has an empty cell.

    `figure3` has every lung function test of the report, and is left out without any.
    """
    names = [name for panel in FIGURE_2_PANELS for name in panel]
    columns: Columns = {
        "case": lambda item: item[0].case,
        "class": lambda item: item[1],
        "reference_percent": lambda item: item[0].reference_percent.get(item[1]),
        "predicted_percent": lambda item: item[0].predicted_percent.get(item[1]),
    }
    found = {"figure2": csv_text(columns, [(case, name) for case in report.cases for name in names])}
    if rows := lung_function_rows(report):
        found["figure3"] = _figure_3_csv(report, rows)
    return found


def _figure_3_csv(report: Report, rows: Sequence[LungFunctionRow]) -> str:
    columns: Columns = {
        "case": lambda item: item[0].case,
        "metric": lambda item: item[1].metric,
        "title": lambda item: item[1].title,
        "predicted_percent": lambda item: item[0].predicted_percent.get(LESION),
        "value": lambda item: item[0].pft.get(item[1].metric),
    }
    return csv_text(columns, [(case, row) for case in report.cases for row in rows])
