"""The report's plots of numbers: volumes (Fig. 2), lung function (Fig. 3), agreement, and Dice."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from siccs_net.evaluation.reporting import zero_axis
from siccs_net.evaluation.reporting.numbers import (
    bias_text,
    count_text,
    limits_text,
    number,
    p_value,
    plain,
    rho_text,
)
from siccs_net.evaluation.reporting.palettes import LESION, Palette, class_colour, marker
from siccs_net.evaluation.reporting.points import (
    FIGURE_2_PANELS,
    Points,
    difference_points,
    lung_function_points,
    volume_points,
)
from siccs_net.records.report import AgreementRow, Correlation, LungFunctionRow, Report, SegmentationRow

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_GREY = "0.35"
_HEADROOM, _FOOTROOM = 0.30, 0.04
_BOX = {"boxstyle": "round,pad=0.3", "facecolor": "white", "edgecolor": "0.8", "alpha": 0.9}


def draw_volumes(report: Report, palette: Palette) -> Figure:
    """Draw Fig. 2: predicted against reference volume, both in percent of lung on logarithmic axes with a place for 0.

    Left EF and GGO, right EF+GGO; the dashed line is predicted = reference.
    """
    points = {name: volume_points(report, name) for panel in FIGURE_2_PANELS for name in panel}
    scale = zero_axis.scale_of(np.concatenate([np.concatenate((found.x, found.y)) for found in points.values()]))
    figure = _figure(11.0, 5.9)
    rows = {row.name: row for row in report.table1}
    for axes, panel in zip(figure.subplots(1, 2), FIGURE_2_PANELS, strict=True):
        axes.set_aspect("equal", adjustable="box")
        zero_axis.set_up(axes, scale)
        axes.plot(*scale.identity, linestyle="--", color=_GREY, linewidth=1.2, zorder=1, gid="identity")
        for name in panel:
            _scatter(axes, scale.placed(points[name]), name, palette, label=_volume_label(name, rows.get(name)))
        zero_axis.count_zeros(axes, scale, {name: points[name] for name in panel})
        axes.set(xlabel="reference volume (% of lung)", ylabel="predicted volume (% of lung)")
        # Above the axes, because a lesion found or missed may lie in any corner.
        axes.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), frameon=False)
        _say_if_empty(axes, sum(len(points[name].x) for name in panel))
    return figure


def _volume_label(name: str, row: SegmentationRow | None) -> str:
    if row is None:
        return name
    paper = "" if row.paper_rho is None else f"; paper: ρ {number(row.paper_rho, 3)}"
    return f"{name}: ρ {rho_text(row.volume)}, n {_counts(row.volume)}{paper}"


def _counts(found: Correlation) -> str:
    return count_text(found.n, found.missing)


def draw_lung_function(report: Report, rows: Sequence[LungFunctionRow], palette: Palette) -> Figure:
    """Draw Fig. 3: predicted EF+GGO volume (percent of lung) against each lung function test, with a fitted line.

    The dashed least-squares line is there for illustration only: rho is of ranks.
    """
    columns = min(len(rows), 2)
    lines = math.ceil(len(rows) / columns)
    figure = _figure(5.5 * columns, 4.8 * lines)
    panels = figure.subplots(lines, columns, squeeze=False).ravel()
    for axes, row in zip(panels, rows, strict=False):
        _draw_lung_function(axes, lung_function_points(report, row.metric), row, palette)
    for axes in panels[len(rows) :]:
        axes.remove()
    return figure


def _draw_lung_function(axes: Axes, points: Points, row: LungFunctionRow, palette: Palette) -> None:
    _scatter(axes, points, LESION, palette, label=LESION)
    if line := _least_squares(points):
        axes.plot(*line, linestyle="--", color=_GREY, linewidth=1.2, zorder=1, gid="fit")
    axes.set(xlabel=f"predicted {LESION} volume (% of lung)", ylabel=_shortened(plain(row.title), 44))
    lines = [
        f"ρ {rho_text(row.predicted)}",
        f"p {p_value(row.predicted.p, row.predicted.p_method)}, n {_counts(row.predicted)}",
    ]
    if row.paper_rho is not None:
        lines.append(f"paper: ρ {number(row.paper_rho, 3)}")
    _say(axes, lines)
    _say_if_empty(axes, len(points.x))


def _least_squares(points: Points) -> tuple[list[float], list[float]] | None:
    """Return the ends x and y of the line of least squared distances in y, or None where x does not vary."""
    if len(points.x) < 2 or np.ptp(points.x) == 0:
        return None
    x = points.x - points.x.mean()
    slope = float((x * points.y).sum() / (x**2).sum())
    ends = [float(points.x.min()), float(points.x.max())]
    return ends, [float(points.y.mean()) + slope * (end - float(points.x.mean())) for end in ends]


def draw_agreement(report: Report, palette: Palette) -> Figure:
    """Draw Bland-Altman panels: a row for each unit, a column for each class."""
    units = list(dict.fromkeys(row.unit for row in report.agreement))
    names = list(dict.fromkeys(row.name for row in report.agreement))
    figure = _figure(max(3.6 * len(names), 4.5), 3.7 * len(units))
    panels = figure.subplots(len(units), len(names), squeeze=False)
    rows = {(row.unit, row.name): row for row in report.agreement}
    for index, axes in np.ndenumerate(panels):
        row = rows.get((units[index[0]], names[index[1]]))
        if row is None:
            axes.remove()
        else:
            _draw_agreement(axes, difference_points(report, row.name, row.unit), row, palette)
    return figure


def _draw_agreement(axes: Axes, points: Points, row: AgreementRow, palette: Palette) -> None:
    found = row.agreement
    _scatter(axes, points, row.name, palette, label=row.name)
    axes.axhline(0, color="0.75", linewidth=0.8, zorder=0)
    if found.bias_low is not None and found.bias_high is not None:
        axes.axhspan(found.bias_low, found.bias_high, color="0.88", zorder=0)
    for value, style in ((found.bias, "-"), (found.lower_limit, "--"), (found.upper_limit, "--")):
        if value is not None:
            axes.axhline(value, color=_GREY, linestyle=style, linewidth=1.2, zorder=1)
    axes.set(xlabel=f"mean of both ({row.unit})", ylabel=f"predicted − reference ({row.unit})")
    axes.set_title(_shortened(plain(row.name), 30))
    digits = 1 if row.unit == "mL" else 2
    _say(axes, [f"bias {bias_text(found, digits)}", f"limits {limits_text(found, digits)}", f"n {found.n}"])
    _say_if_empty(axes, len(points.x))


def draw_dice(report: Report, palette: Palette) -> Figure:
    """Draw the Dice of every case by class, beside it the mean with its interval and the paper's mean."""
    figure = _figure(max(1.9 * len(report.table1) + 1.5, 5.0), 4.8)
    axes = figure.subplots()
    for place, row in enumerate(report.table1):
        values = [case.dice_percent.get(row.name) for case in report.cases]
        known = np.array([value for value in values if value is not None], np.float64)
        spread = _spread(len(known))
        _scatter(axes, Points(place - 0.12 + spread, known, 0), row.name, palette, label=None)
        _draw_mean(axes, place, row, labelled=place == 0)
    names = [f"{_shortened(plain(row.name), 18)}\nn {row.dice_percent.n}" for row in report.table1]
    axes.set_xticks(range(len(names)), names)
    axes.set(ylabel="Dice (%), out-of-fold", ylim=(-3, 103), xlim=(-0.6, len(names) - 0.4))
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, frameon=False)
    return figure


def _spread(count: int) -> Any:
    """Return sideways places of `count` points: repeatable, and neighbours apart (multiples of the golden ratio)."""
    return 0.3 * ((np.arange(count) * 0.618034) % 1.0 - 0.5)


def _draw_mean(axes: Axes, place: int, row: SegmentationRow, *, labelled: bool) -> None:
    found = row.dice_percent
    if found.mean is not None:
        low, high = (found.mean if end is None else end for end in (found.low, found.high))
        label = "mean, 95 % interval" if labelled else None
        error = [[max(found.mean - low, 0.0)], [max(high - found.mean, 0.0)]]
        axes.errorbar(place + 0.2, found.mean, error, fmt="o", color="black", capsize=4, markersize=5, label=label)
    if row.paper_dice_percent is not None:
        label = "paper’s mean" if labelled else None
        axes.plot(
            place + 0.36, row.paper_dice_percent, marker="_", markersize=14, color=_GREY, mew=2, label=label, ls=""
        )


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained", facecolor="white")


def _scatter(axes: Axes, points: Points, name: str, palette: Palette, *, label: str | None) -> None:
    style: dict[str, Any] = {"s": 36, "alpha": 0.8, "edgecolors": "0.15", "linewidths": 0.6, "zorder": 3}
    colour = class_colour(name, palette)
    axes.scatter(points.x, points.y, color=colour, marker=marker(name), label=label, gid=f"points-{name}", **style)


def _say(axes: Axes, lines: Sequence[str]) -> None:
    """Write lines at the top of a panel, in room made above its points."""
    low, high = axes.get_ylim()
    axes.set_ylim(low - _FOOTROOM * (high - low), high + _HEADROOM * (high - low))
    axes.text(0.03, 0.97, "\n".join(lines), transform=axes.transAxes, va="top", bbox=_BOX, zorder=4)


def _say_if_empty(axes: Axes, count: int) -> None:
    if count == 0:
        axes.text(0.5, 0.4, "no case has both values", transform=axes.transAxes, ha="center", color=_GREY)


def _shortened(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
