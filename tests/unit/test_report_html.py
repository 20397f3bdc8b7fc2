"""The report's page, terminal text and CSV: every number is the record's, and the page needs nothing but itself."""

from __future__ import annotations

import base64
import csv
import io
import re
from html.parser import HTMLParser
from importlib.resources import files as packaged
from typing import Any

import pytest
from test_report_figures import CLASSES, METRICS, SCHEME, changed, make_cases, make_report, make_slices, report_of

from siccs_net.errors import UsageError
from siccs_net.evaluation.reporting.figures import draw_figures, page_pictures
from siccs_net.evaluation.reporting.html import render_html
from siccs_net.evaluation.reporting.numbers import interval, number, p_value
from siccs_net.evaluation.reporting.tables import report_text, tables_csv
from siccs_net.records.report import Correlation, MeanEstimate, Report

PIXEL = b"\x89PNG\r\n\x1a\n" + b"0" * 20
DASH = "–"
EVIL = "<script>alert(1)</script>"


class Page(HTMLParser):
    """A page's tables by id, its words, elements and addresses."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tables: dict[str, list[list[str]]] = {}
        self.elements: list[str] = []
        self.addresses: list[str] = []
        self.words = ""
        self.rows: list[list[str]] = []
        self.inside: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.elements.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "action", "data", "srcset")]
        assert not any(name.startswith("on") for name in given)
        if tag not in ("meta", "img", "link", "br"):
            self.inside.append(tag)
        if tag == "table":
            self.rows = self.tables[str(given["id"])] = []
        elif tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.inside.pop() == tag, "elements are closed in their order"

    def handle_data(self, data: str) -> None:
        if not {"script", "style"} & set(self.inside):
            self.words += data
        if {"td", "th"} & set(self.inside):
            self.rows[-1][-1] += data


def page_of(report: Report, **given: Any) -> Page:
    return Page(render_html(report, given.get("figures", {}), files=given.get("files", {})))


def cells(page: Page, table: str) -> list[dict[str, str]]:
    header, *rows = page.tables[table]
    assert len(set(header)) == len(header)
    return [dict(zip(header, row, strict=True)) for row in rows]


def decimals(value: float | None, digits: int) -> str:
    """A number as the report has to print it, by other means than the report's."""
    if value is None:
        return DASH
    rounded = round(value, digits) + 0.0
    return f"{rounded:.{digits}f}".replace("-", "\u2212")


def p_text(value: float, method: str) -> str:
    return f"<0.001 ({method})" if value < 0.001 else f"{value:.3f} ({method})"


def rho_cell(found: Correlation) -> str:
    return f"{decimals(found.rho, 3)} [{decimals(found.low, 3)}, {decimals(found.high, 3)}]"


def mean_cell(found: MeanEstimate) -> str:
    mean, error, low, high = (decimals(getattr(found, key), 1) for key in ("mean", "standard_error", "low", "high"))
    return f"{mean} ± {error} [{low}, {high}]"


@pytest.fixture(scope="module")
def report() -> Report:
    return make_report()


@pytest.fixture(scope="module")
def page(report: Report) -> Page:
    return page_of(report)


def test_table_1_is_the_record(report, page):
    rows = cells(page, "table1")
    assert [row["class"] for row in rows] == list(CLASSES)
    for row, found in zip(rows, report.table1, strict=True):
        undefined = f" ({found.undefined_dice} undefined)" if found.undefined_dice else ""
        assert row["n"] == f"{found.dice_percent.n}{undefined}"
        assert row["Dice %"] == mean_cell(found.dice_percent)
        printed = found.paper_dice_percent
        assert row["paper"] == ("not given" if printed is None else f"{printed} ± {found.paper_standard_error}")
        if found.name in ("normal lung", "lung"):
            assert (row["ρ of volumes"], row["n of ρ"], row["p"]) == ("not measured", DASH, DASH)
        else:
            assert row["ρ of volumes"] == rho_cell(found.volume)
            assert row["n of ρ"] == str(found.volume.n)
            assert row["p"] == p_text(found.volume.p, "t")
            assert row["paper ρ"] == f"{found.paper_rho:.3f}"
    assert "Dice over cases, out-of-fold" in page.words


def test_folds_are_the_record(report, page):
    rows = cells(page, "folds")
    for row, found in zip(rows, report.table1, strict=True):
        assert list(row) == ["class", *(f"fold {fold}" for fold in range(8))]
        assert list(row.values())[1:] == [decimals(value, 1) for value in found.fold_means_percent]


def test_folds_keep_their_numbers_in_a_partial_report():
    partial = report_of([case for case in make_cases(24) if case.fold in (2, 5)])
    assert page_of(partial).tables["folds"][0] == ["class", "fold 2", "fold 5"]
    (header, *_) = csv.reader(io.StringIO(tables_csv(partial)["table1"]))
    assert [name for name in header if "_fold_" in name] == ["dice_percent_fold_2", "dice_percent_fold_5"]


def test_table_2_is_the_record(report, page):
    rows = cells(page, "table2")
    assert [row["lung function"] for row in rows] == [title for title, _ in METRICS.values()]
    for row, found in zip(rows, report.table2, strict=True):
        missing = f" ({found.predicted.missing} missing)" if found.predicted.missing else ""
        assert row["n"] == f"{found.predicted.n}{missing}"
        assert row["ρ, predicted volume"] == rho_cell(found.predicted)
        assert row["ρ, reference volume"] == rho_cell(found.reference)
        assert row["p"] == p_text(found.predicted.p, "t")
        assert row["reference p"] == p_text(found.reference.p, "t")
        assert row["paper ρ"] == ("not given" if found.paper_rho is None else decimals(found.paper_rho, 3))
    assert "−0.649" in {row["paper ρ"] for row in rows}


def test_agreement_is_the_record(report, page):
    for row, item in zip(cells(page, "agreement"), report.agreement, strict=True):
        found, digits = item.agreement, 1 if item.unit == "mL" else 2
        low, high = decimals(found.lower_limit, digits), decimals(found.upper_limit, digits)
        bias = [decimals(value, digits) for value in (found.bias, found.bias_low, found.bias_high)]
        assert (row["class"], row["unit"], row["n"]) == (item.name, item.unit, str(found.n))
        assert row["bias"] == f"{bias[0]} [{bias[1]}, {bias[2]}]"
        assert row["limits of agreement"] == f"{low} to {high}"
        assert row["ICC(2,1)"] == f"{decimals(found.icc, 3)} [{DASH}, {DASH}]"


def test_subgroups_are_the_record(report, page):
    for row, item in zip(cells(page, "subgroups"), report.subgroups, strict=True):
        found = item.dice_percent
        assert (row["n < 1 mm"], row["n ≥ 1 mm"]) == (str(found.n_first), str(found.n_second))
        assert row["median < 1 mm"] == decimals(found.median_first, 1)
        assert row["median ≥ 1 mm"] == decimals(found.median_second, 1)
        assert row["U"] == decimals(found.u, 1)
        assert row["p"] == p_text(found.p, "normal")
        assert row["effect"] == f"{decimals(found.effect, 2)} [{DASH}, {DASH}]"


def test_the_comparison_is_the_record(report, page):
    assert f"Against {report.compared_with}" in page.words
    for row, item in zip(cells(page, "comparison"), report.comparison, strict=True):
        found = item.dice_percent
        mean, low, high = (decimals(value, 1) for value in (found.mean_difference, found.low, found.high))
        assert row["n"] == str(found.n)
        assert row["mean difference"] == f"{mean} [{low}, {high}]"
        assert row["median difference"] == decimals(found.median_difference, 1)
        for column, key in (
            ("Wilcoxon p", "wilcoxon_p"),
            ("sign-flip p", "permutation_p"),
            ("Holm", "wilcoxon_p_holm"),
        ):
            assert row[column] == p_text(getattr(found, key), "")[:6].rstrip(" (")
    assert "comparison" not in page_of(make_report(4, compared_with=None, comparison=())).tables


def test_the_cases_are_the_record(report, page):
    rows = cells(page, "cases")
    assert len(rows) == len(report.cases) == 40
    for row, case in zip(rows, report.cases, strict=True):
        expected = {
            "case": case.case,
            "patient": case.patient,
            "fold": str(case.fold),
            "slice mm": decimals(case.slice_thickness_mm, 2),
        }
        for name in CLASSES:
            expected[f"{name} Dice %"] = decimals(case.dice_percent[name], 1)
            expected[f"{name} predicted mL"] = decimals(case.predicted_ml[name], 1)
            expected[f"{name} reference mL"] = decimals(case.reference_ml[name], 1)
            if name in case.predicted_percent:
                expected[f"{name} predicted % of lung"] = decimals(case.predicted_percent[name], 2)
                expected[f"{name} reference % of lung"] = decimals(case.reference_percent[name], 2)
        expected |= {f"PFT {name}": decimals(value, 1) for name, value in case.pft.items()}
        assert row == expected


def test_the_terminal_shows_the_cells_of_the_page(report, page):
    shown = report_text(report)
    lines = [re.split(r" {2,}", line) for line in shown.splitlines()]
    for name, table in page.tables.items():
        if name != "cases":
            for row in table:
                assert row in lines, name
    assert "Dice over cases, out-of-fold" in shown
    assert "Research use only" in shown
    assert report.notes[0] in shown
    assert max(map(len, shown.splitlines())) <= 130


def test_the_terminal_is_aligned_and_free_of_control_characters():
    shown = report_text(make_report(4, dataset="a\x1b[31mred\nname", compared_with="例\x07"))
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", shown)
    assert shown.startswith("a [31mred name, ")
    block = shown.split("Table 1. Segmentation")[1].split("\n\n")[0].splitlines()
    header = next(line for line in block if line.startswith("class"))
    start = header.index("ρ of volumes")
    rows = block[block.index(header) + 2 :]
    assert len(rows) == len(CLASSES)
    assert all(row[start - 2 : start] == "  " and row[start] != " " for row in rows)


def follow(row: Any, column: str) -> object:
    """The value of "dice_percent_mean" in a row: an attribute whose name is a prefix, then the rest."""
    if column in type(row).model_fields:
        return getattr(row, column)
    prefix = max((name for name in type(row).model_fields if column.startswith(f"{name}_")), key=len)
    inner, rest = getattr(row, prefix), column.removeprefix(f"{prefix}_")
    if isinstance(inner, dict):
        return inner.get(rest)
    return follow(inner, rest)


@pytest.mark.parametrize("table", ["table1", "table2", "agreement", "subgroups", "comparison", "cases"])
def test_csv_has_every_number_in_full(report, table):
    rows = list(csv.DictReader(io.StringIO(tables_csv(report)[table])))
    records = getattr(report, table)
    assert len(rows) == len(records) > 0
    for row, record in zip(rows, records, strict=True):
        for column, cell in row.items():
            fold = re.fullmatch(r"dice_percent_fold_(\d)", column)
            value = record.fold_means_percent[int(fold[1])] if fold else follow(record, column)
            assert cell == ("" if value is None else str(value)), column
    leaves = len(re.findall(r"[\[:,] *-?\d[\d.e-]*(?=[,\]}\n])", records[0].model_dump_json()))
    filled = sum(re.fullmatch(r"-?\d[\d.e-]*", cell) is not None for cell in rows[0].values())
    assert filled == leaves, "no number of the record is left out"


def test_csv_without_rows_has_its_header():
    found = tables_csv(make_report(3, pft=False, compared_with=None, comparison=()))
    assert found["table2"].splitlines()[0].startswith("metric,title,name,predicted_n,predicted_missing,predicted_rho")
    assert len(found["table2"].splitlines()) == len(found["comparison"].splitlines()) == 1


def test_the_page_needs_nothing_else(report):
    figures = page_pictures(draw_figures(report, make_slices(1), SCHEME))
    html = render_html(report, figures, files={"Table 1": "table1.csv"})
    assert not re.search(r"https?://", html)
    assert not re.search(r"url\(|@import|<link|<iframe|<object|<base|<form", html)
    page = Page(html)
    assert page.inside == []
    assert page.elements.count("img") == len(figures)
    for address in page.addresses:
        assert address.startswith("data:image/") or address == "table1.csv"
    assert "default-src 'none'" in html
    for address, data in zip(
        [one for one in page.addresses if one.startswith("data:")], _ordered(figures), strict=True
    ):
        assert base64.b64decode(address.split(",", 1)[1]) == data
        if data.startswith(b"<"):
            linked = re.findall(rb"(?:href|src)=\"([^\"]*)\"", data)
            assert all(link.startswith((b"#", b"data:")) for link in linked)
            assert b"<script" not in data


def _ordered(figures: dict[str, bytes]) -> list[bytes]:
    order = ["dice", "figure1", "figure2", "figure3", "figure3_more", "bland_altman"]
    assert set(order) == set(figures)
    return [figures[name] for name in order]


def test_a_figure_of_another_name_is_shown_too():
    page = page_of(make_report(3), figures={"extra": "<svg xmlns='http://www.w3.org/2000/svg'/>", "figure2": PIXEL})
    kinds = [address.split(";")[0] for address in page.addresses]
    assert sorted(kinds) == ["data:image/png", "data:image/svg+xml"]


def test_a_figure_that_is_no_picture_is_refused():
    with pytest.raises(UsageError, match="neither PNG nor SVG; found figure2"):
        render_html(make_report(3), {"figure2": b"GIF89a"}, files={})


def test_names_are_escaped():
    cases = changed(make_cases(3), case=EVIL, patient='"><img src=x onerror=alert(1)>')
    report = report_of(
        cases,
        dataset=EVIL,
        model=EVIL,
        compared_with=EVIL,
        methods=(EVIL,),
        assumed={EVIL: EVIL},
        notes=(EVIL, "a & b"),
    )
    html = render_html(report, {}, files={EVIL: "a b#1.csv", "other": "javascript:alert(1)"})
    page = Page(html)
    assert page.elements.count("script") == 1
    assert "alert(1)" not in html.split("<script>")[1]
    assert page.elements.count("img") == 0
    assert cells(page, "cases")[0]["case"] == EVIL
    assert page.words.count(EVIL) >= 3 + 7
    assert "a & b" in page.words
    assert page.addresses == ["a%20b%231.csv", "javascript%3Aalert%281%29"]


def test_the_page_says_methods_assumptions_notes_and_its_limits(report, page):
    for text in (*report.methods, *report.assumed, *report.assumed.values(), *report.notes):
        assert text in page.words
    assert "Research use only." in page.words
    assert "40 cases in 8 folds" in page.words


def test_without_lung_function_the_page_says_so():
    page = page_of(make_report(4, pft=False))
    assert "table2" not in page.tables
    assert "No lung function tests were given (--pft), so there is no Table 2 and no Figure 3." in page.words
    assert not any("PFT" in column for column in page.tables["cases"][0])


@pytest.mark.parametrize("count", [0, 1, 2])
def test_few_cases_are_undefined_with_a_reason(count):
    page = page_of(make_report(count))
    shown = {row["class"]: row for row in cells(page, "table1")}
    if count == 0:
        assert shown["EF"]["Dice %"] == f"{DASH} (n 0)"
        assert "cases" not in page.tables
        assert "No cases." in page.words
    else:
        assert shown["EF"]["ρ of volumes"] == f"{DASH} (n {count})"
        assert shown["EF"]["p"] == DASH
        assert len(page.tables["cases"]) == count + 1
    if count == 1:
        assert shown["EF"]["Dice %"].endswith("(n 1, no interval)")
        assert cells(page, "agreement")[0]["limits of agreement"] == f"{DASH} (n 1)"
        assert "1 case in 1 fold" in page.words


def test_a_constant_is_named_as_the_reason():
    cases = changed(make_cases(5), predicted_percent={"EF": 0.0, "GGO": 1.0, "EF+GGO": 1.0})
    page = page_of(report_of(cases))
    assert {row["ρ of volumes"] for row in cells(page, "table1")} == {f"{DASH} (a constant)", "not measured"}


def test_two_hundred_cases_and_long_names():
    cases = changed(make_cases(200), case="case_" * 60)
    assert len(page_of(report_of(cases)).tables["cases"]) == 201


@pytest.mark.parametrize(
    ("value", "digits", "shown"),
    [
        (-0.04, 1, "0.0"),
        (-0.649, 3, "−0.649"),
        (12.25, 1, "12.2"),
        (0.0, 2, "0.00"),
        (None, 1, DASH),
        (99.96, 1, "100.0"),
    ],
)
def test_numbers(value, digits, shown):
    assert number(value, digits) == shown


@pytest.mark.parametrize(
    ("p", "method", "shown"),
    [
        (0.00099999, None, "<0.001"),
        (0.001, "exact", "0.001 (exact)"),
        (0.0496, "permutation", "0.050 (perm.)"),
        (1.0, "normal", "1.000 (normal)"),
        (0.0, "t", "<0.001 (t)"),
        (None, None, DASH),
    ],
)
def test_p_values(p, method, shown):
    assert p_value(p, method) == shown


def test_an_interval_without_an_end_has_a_dash():
    assert interval(-1.0, None, 1) == f"[−1.0, {DASH}]"


def test_the_template_is_packaged():
    assert packaged("siccs_net.evaluation.reporting").joinpath("templates", "report.html.j2").is_file()
