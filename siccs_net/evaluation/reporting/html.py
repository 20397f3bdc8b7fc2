"""The report as one page that needs nothing else: no network, no other file, no script to be read."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import quote

from siccs_net.errors import UsageError
from siccs_net.evaluation.reporting.numbers import cases_and_folds, unbroken
from siccs_net.evaluation.reporting.tables import case_table, report_tables
from siccs_net.records.report import Report

_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"

_CAPTIONS = {
    "figure1": (
        "Figure 1",
        "Axial slices of cases with various extents of lesion: prediction, reference, and the scan in the lung window. "
        "EF: established fibrosis; GGO: ground-glass opacity. The patient’s right is on the left.",
    ),
    "figure2": (
        "Figure 2",
        "Predicted against reference volume in percent of lung, both on logarithmic axes; a volume of 0 stands in the "
        "shaded strip beyond the axis’ break. Dashed: predicted = reference. ρ is Spearman’s, with its 95 % interval.",
    ),
    "figure3": (
        "Figure 3",
        "Predicted volume of EF+GGO in percent of lung against lung function. Dashed: a least-squares line, for "
        "illustration only; ρ is Spearman’s, with its 95 % interval.",
    ),
    "figure3_more": (
        "Figure 3, further tests",
        "As Figure 3, for the lung function tests that the paper does not have.",
    ),
    "bland_altman": (
        "Agreement",
        "Predicted minus reference volume against the mean of both (Bland–Altman). Line: bias, shaded: its 95 % "
        "interval, dashed: limits of agreement.",
    ),
    "dice": ("Dice", "Dice of every case, out-of-fold, with the mean and its 95 % interval, and the paper’s mean."),
}


@dataclass(frozen=True)
class Picture:
    """A figure as the page has it: a data URI, its title and its caption."""

    key: str
    title: str
    caption: str
    uri: str


def render_html(report: Report, figures: Mapping[str, bytes | str], *, files: Mapping[str, str]) -> str:
    """Return the report as one HTML page that works offline and without scripts.

    `figures` are whole PNG or SVG files by the figure's name (`figures.page_pictures`), in the order of the
    page; `files` are addresses relative to the page by the name to show. Raises UsageError for a figure of another
    kind.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("siccs_net.evaluation.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.j2").render(
        report=report,
        counts=cases_and_folds(report),
        tables=report_tables(report),
        cases=case_table(report),
        pictures=[_picture(name, data) for name, data in figures.items()],
        files={name: quote(address) for name, address in files.items()},
    )


def _picture(name: str, data: bytes | str) -> Picture:
    raw = data.encode() if isinstance(data, str) else data
    title, caption = _CAPTIONS.get(name, (name, ""))
    uri = f"data:{_media_type(name, raw)};base64,{base64.b64encode(raw).decode()}"
    return Picture(name, title, unbroken(caption), uri)


def _media_type(name: str, raw: bytes) -> str:
    if raw.startswith(_PNG_MAGIC):
        return "image/png"
    if raw.lstrip().startswith(b"<") and b"<svg" in raw[:2000]:
        return "image/svg+xml"
    raise UsageError("a figure of the report is neither PNG nor SVG", found=f"{name}, beginning with {raw[:12]!r}")
