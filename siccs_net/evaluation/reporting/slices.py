"""Rows of slices of several cases, predicted and reference labels over the scan: the paper's Fig. 1."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from siccs_net.evaluation.figures import legend_patches, overlay
from siccs_net.evaluation.reporting.palettes import Colour, Palette, label_colours
from siccs_net.records.dataset import LabelScheme

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Figure 1 is laid out in inches, because a caption may be wider than its slice.
_PANEL_WIDTH = 2.75
_GAP = 0.06
_HEADING, _CAPTION, _LEGEND = 0.34, 0.36, 0.40
_LARGEST_ASPECT = 1.3
_MARGIN_MM = 15.0
_CAPTION_LENGTH = 92
_SCALE_BAR_MM = 50.0


@dataclass(frozen=True)
class FigureSlices:
    """A row of Fig. 1: an axial slice of one case, arrays [y, x] in canonical LPS, spacing y, x in millimetres."""

    case: str
    title: str
    image_hu: NDArray[np.int16]
    prediction: NDArray[np.uint8]
    reference: NDArray[np.uint8]
    spacing_mm: tuple[float, float]


def draw_slices(slices: Sequence[FigureSlices], labels: LabelScheme, palette: Palette = "paper") -> Figure:
    """Draw Fig. 1: for each row the prediction over the scan, the reference over it, and the scan alone.

    Slices are shown as radiologists see them, the patient's right on the left, cropped to the labelled lung.
    """
    from matplotlib.figure import Figure

    colours = label_colours(labels, palette)
    shown = [_cropped(row) for row in slices]
    heights = [_PANEL_WIDTH * min(_aspect(row), _LARGEST_ASPECT) for row in shown]
    width = 3 * _PANEL_WIDTH + 4 * _GAP
    figure = Figure(figsize=(width, _HEADING + sum(heights) + _CAPTION * len(shown) + _LEGEND), facecolor="white")
    top = figure.get_figheight()
    for column, name in enumerate(("prediction", "reference", "scan")):
        _write(figure, _left(column) + _PANEL_WIDTH / 2, top - _HEADING / 2, name, ha="center", size="large")
    top -= _HEADING
    for row, height in zip(shown, heights, strict=True):
        _draw_row(figure, row, top, height, colours)
        top -= height + _CAPTION
    handles = legend_patches(labels, colours)
    figure.legend(handles=handles, loc="lower center", ncols=min(len(handles), 6), frameon=False)
    return figure


def _cropped(row: FigureSlices) -> FigureSlices:
    labelled = np.logical_or(row.prediction > 0, row.reference > 0)
    if not labelled.any():
        return row
    places = (np.flatnonzero(labelled.any(1 - axis)) for axis in (0, 1))
    box = tuple(_span(where, round(_MARGIN_MM / size)) for where, size in zip(places, row.spacing_mm, strict=True))
    return FigureSlices(row.case, row.title, row.image_hu[box], row.prediction[box], row.reference[box], row.spacing_mm)


def _span(where: NDArray[np.intp], margin: int) -> slice:
    return slice(max(int(where[0]) - margin, 0), int(where[-1]) + 1 + margin)


def _aspect(row: FigureSlices) -> float:
    (rows, columns), (sy, sx) = row.image_hu.shape, row.spacing_mm
    return float(rows * sy) / float(columns * sx)


def _left(column: int) -> float:
    return _GAP + column * (_PANEL_WIDTH + _GAP)


def _write(figure: Figure, x: float, y: float, text: str, **style: Any) -> None:
    width, height = figure.get_size_inches()
    figure.text(x / width, y / height, text, va="center", **style)


def _draw_row(figure: Figure, row: FigureSlices, top: float, height: float, colours: Mapping[int, Colour]) -> None:
    width, whole = figure.get_size_inches()
    sy, sx = row.spacing_mm
    for column, mask in enumerate((row.prediction, row.reference, None)):
        box = (_left(column) / width, (top - height) / whole, _PANEL_WIDTH / width, height / whole)
        axes = figure.add_axes(box, facecolor="black")
        axes.imshow(overlay(row.image_hu, mask, colours), aspect=sy / sx, interpolation="nearest")
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
        if column == 0:
            axes.text(0.015, 0.5, "R", va="center", transform=axes.transAxes, **_on_the_scan())
    _draw_scale_bar(axes, row)
    _write(figure, _GAP, top - height - 0.14, _shortened(row.title, _CAPTION_LENGTH), size="medium")


def _draw_scale_bar(axes: Axes, row: FigureSlices) -> None:
    rows, columns = row.image_hu.shape
    length = _SCALE_BAR_MM / row.spacing_mm[1]
    if length > 0.8 * columns:
        return
    right, y = 0.96 * columns, 0.95 * rows
    axes.plot([right - length, right], [y, y], color="black", linewidth=4)
    axes.plot([right - length, right], [y, y], color="white", linewidth=2)
    axes.text(right - length / 2, y - 0.02 * rows, "5 cm", ha="center", va="bottom", size="small", **_on_the_scan())


def _on_the_scan() -> dict[str, Any]:
    """Return the style of white letters that are readable on bright and on dark tissue."""
    from matplotlib.patheffects import withStroke

    return {"color": "white", "path_effects": [withStroke(linewidth=2.5, foreground="black")]}


def _shortened(text: str, length: int) -> str:
    """Return a text of at most `length` characters; of a longer one the middle is left out."""
    text = " ".join(text.split())
    if len(text) <= length:
        return text
    kept = length - 1
    return text[: kept - kept // 2] + "…" + text[len(text) - kept // 2 :]
