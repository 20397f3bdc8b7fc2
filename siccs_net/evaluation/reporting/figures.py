"""Every figure of a report, drawn and saved: the paper's Figs 1-3, agreement and Dice. No pyplot, no display."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from siccs_net.evaluation.reporting.palettes import Palette
from siccs_net.evaluation.reporting.points import figure_points_csv, lung_function_rows
from siccs_net.evaluation.reporting.scatter import draw_agreement, draw_dice, draw_lung_function, draw_volumes
from siccs_net.evaluation.reporting.slices import FigureSlices, draw_slices
from siccs_net.io import files
from siccs_net.records.dataset import LabelScheme
from siccs_net.records.report import Report

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["FIGURES", "FigureSlices", "draw_figures", "figure_points_csv", "page_pictures", "save_figures"]

FIGURES = ("figure1", "figure2", "figure3", "figure3_more", "bland_altman", "dice")
"""Every figure that a report may have, in their order."""
DPI = 200
_PAGE_DPI = 150
_STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 10.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": "large",
    "axes.labelsize": "medium",
    "legend.fontsize": "medium",
    "figure.constrained_layout.h_pad": 0.1,
    "figure.constrained_layout.w_pad": 0.1,
    # Names of cases and of lung function tests are text, whatever dollar signs they hold.
    "text.parse_math": False,
    # Letters as outlines: the same picture on a machine without the font. A fixed salt: the same file every time.
    "svg.fonttype": "path",
    "svg.hashsalt": "siccs_net",
    "savefig.bbox": "standard",
    "savefig.facecolor": "auto",
}
_RASTER = ("figure1",)
"""Figures that are mostly pixels: as SVG on a page they would take several times the room."""


def draw_figures(
    report: Report, slices: Sequence[FigureSlices], labels: LabelScheme, *, palette: Palette = "paper"
) -> dict[str, Figure]:
    """Return the report's figures by name, in their order.

    "figure1" (left out without slices), "figure2", "figure3" (the paper's lung function tests) and "figure3_more" (any
    other test), each left out without such a test, "bland_altman" and "dice".
    """
    rows = lung_function_rows(report)
    in_paper = [row for row in rows if row.paper_rho is not None]
    others = [row for row in rows if row.paper_rho is None]
    found: dict[str, Figure] = {}
    with _style():
        if slices:
            found["figure1"] = draw_slices(slices, labels, palette)
        found["figure2"] = draw_volumes(report, palette)
        if in_paper:
            found["figure3"] = draw_lung_function(report, in_paper, palette)
        if others:
            found["figure3_more"] = draw_lung_function(report, others, palette)
        if report.agreement:
            found["bland_altman"] = draw_agreement(report, palette)
        if report.table1:
            found["dice"] = draw_dice(report, palette)
    return found


def save_figures(figures: Mapping[str, Figure], folder: Path, *, dpi: int = DPI) -> dict[str, Path]:
    """Write each figure as PNG and SVG, whole files only; return their paths by file name.

    The same figures give the same bytes: no date is written. Raises EnvironmentProblem when the disk refuses.
    """
    paths: dict[str, Path] = {}
    for name, figure in figures.items():
        for ending, data in ((".png", _png(figure, dpi)), (".svg", _svg(figure))):
            paths[name + ending] = folder / (name + ending)
            files.write_bytes(paths[name + ending], data)
    return paths


def page_pictures(figures: Mapping[str, Figure]) -> dict[str, bytes]:
    """Return each figure as the file that `render_html` embeds: plots as SVG, slices as PNG."""
    return {name: _png(figure, _PAGE_DPI) if name in _RASTER else _svg(figure) for name, figure in figures.items()}


def _png(figure: Figure, dpi: int) -> bytes:
    stream = io.BytesIO()
    with _style():
        figure.savefig(stream, format="png", dpi=dpi, metadata={"Software": None})
    return stream.getvalue()


def _svg(figure: Figure) -> bytes:
    stream = io.BytesIO()
    with _style():
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return stream.getvalue()


@contextlib.contextmanager
def _style() -> Iterator[None]:
    """Draw with our settings, whatever the user's matplotlib has; a sign that the font lacks becomes a box."""
    import matplotlib

    with matplotlib.rc_context(), warnings.catch_warnings():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield
