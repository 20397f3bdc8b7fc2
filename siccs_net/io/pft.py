"""The table of lung function tests (PFT): a percentage a case and column; slips that would pass unseen are refused.

A column is a lung function when it is `fev1_fvc` or when its name ends in its unit: `_pp` (percent of the predicted
value), `_percent` or `_pct`. Every other column is left out: text without a word, numbers with a warning, and a name
that looks like a misspelt lung function is refused.
"""

from __future__ import annotations

import difflib
import logging
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from siccs_net.errors import DataError
from siccs_net.io.table import Row, Table, nearest, read_table, shorten

logger = logging.getLogger(__name__)
PFT_COLUMNS = ("fev1_fvc", "fev1_pp", "fvc_pp", "dlco_pp")
UNITS = ("_pp", "_percent", "_pct")
LARGEST_PERCENT = 250.0
_MISSING = frozenset({"", "na", "n/a", "n.a.", "n.a", "nan", "none", "null", "-"})
_OTHER_COLUMNS = frozenset({"case", "patient", "date", "sex", "age", "comment"})
_NUMBER = re.compile(r"[+-]?(\d+([.,]\d*)?|[.,]\d+)", re.ASCII)
_FRACTION = 1.5
"""A fraction of 1 that was meant as percent is at most this."""
_LITRES = 10.0
"""A volume in litres is below this, and so is no percentage of FEV1 or FVC that a living patient has (contract 12)."""
_SPIROMETRY = ("fev1", "fvc")
_Values = dict[str, float | None]


@dataclass(frozen=True)
class LungFunction:
    """Lung function by column and case: `values[column][case]` in percent, None where the test was not done."""

    columns: tuple[str, ...]
    values: dict[str, dict[str, float | None]]


@dataclass(frozen=True)
class Finding:
    """What is wrong with a table, and in which case's row (None: with a column or the whole table)."""

    case: str | None
    error: DataError


def read_pft(path: Path, cases: Collection[str], *, patients: Mapping[str, str] | None = None) -> LungFunction:
    """Read pft.csv for these cases of a dataset: CSV with a column `case` and one column or more of lung function.

    Commas, semicolons or tabs; decimal point or comma; an empty cell, NA, n.a., nan or - is a test that was not done.
    A row of another case is left out with a warning. `patients` (patient of each case, `Dataset.patients`) lets the
    error say that the table names patients. Raises MissingPathError, or one DataError that names the line, the case
    and the column: a case without a row or with two, text, a number outside 0 to 250, another unit than percent.
    """
    table = read_table(path, ["case"])
    function, findings = check_pft(table, cases, patients=patients)
    if not findings:
        return function
    first = findings[0].error
    if len(findings) == 1:
        raise first
    more = f"{first.message} (the first of {len(findings)} problems)"
    raise DataError(more, path=path, found=first.found, expected=first.expected, hint=first.hint)


def check_pft(
    table: Table, cases: Collection[str], *, patients: Mapping[str, str] | None = None
) -> tuple[LungFunction, list[Finding]]:
    """Return the lung function of a table and everything that is wrong with it; a wrong cell counts as missing.

    Raises DataError when no column is a lung function or a name looks like a misspelt one.
    """
    columns = _lung_columns(table)
    rows, findings = _rows_of(table, cases, patients or {})
    values: dict[str, _Values] = {}
    for column in columns:
        values[column], wrong = _numbers(table.path, column, rows)
        findings += wrong
        findings += _unit_findings(table.path, column, values[column], rows)
        _warn_of_content(table.path, column, values[column])
    return LungFunction(columns, values), findings


def lung_columns(columns: Collection[str]) -> tuple[str, ...]:
    """Return the columns that are lung functions by their names."""
    return tuple(name for name in columns if name == "fev1_fvc" or name.endswith(UNITS))


def _lung_columns(table: Table) -> tuple[str, ...]:
    chosen = lung_columns(table.columns)
    for name in table.columns:
        if name in chosen or name in _OTHER_COLUMNS:
            continue
        if meant := _misspelt(name):
            raise DataError(f"the column {name!r} is not known", path=table.path, hint=f"Rename it to {meant}")
        if _holds_numbers(table, name):
            logger.warning(
                "%s: the column %s holds numbers and is left out: a lung function is called fev1_fvc or ends in %s",
                table.path,
                name,
                ", ".join(UNITS),
            )
    if not chosen:
        raise DataError(
            "no column is a lung function",
            path=table.path,
            found=f"the columns {shorten(table.columns)}",
            expected=f"{', '.join(PFT_COLUMNS)}, or another name that ends in {', '.join(UNITS)}",
        )
    return chosen


def _misspelt(name: str) -> str | None:
    """Return the known column that a name is a slip of: FEV1/FVC, fev1pp, fev1_pred."""
    letters = re.sub(r"(%|percent|predicted|pred)+$", "pp", re.sub(r"[^a-z0-9%]", "", name))
    for known in PFT_COLUMNS:
        if letters == known.replace("_", ""):
            return known
    near = difflib.get_close_matches(name, PFT_COLUMNS, n=1, cutoff=0.85)
    return near[0] if near else None


def _holds_numbers(table: Table, column: str) -> bool:
    filled = [row.cells[column] for row in table.rows if row.cells[column].lower() not in _MISSING]
    return bool(filled) and all(_NUMBER.fullmatch(text) for text in filled)


def _rows_of(table: Table, cases: Collection[str], patients: Mapping[str, str]) -> tuple[dict[str, Row], list[Finding]]:
    """Return each case's row and what is wrong with the column `case`; name the rows of other cases in a warning."""
    rows: dict[str, Row] = {}
    findings = []
    for row in table.rows:
        case = row.cells["case"]
        if not case:
            findings.append(_finding(None, f"line {row.line}: names no case", table.path, hint="Fill the cell"))
        elif case in rows:
            message = f"line {row.line}: the case {case!r} has a row already, line {rows[case].line}"
            findings.append(_finding(case, message, table.path, hint="Keep one of the two"))
        else:
            rows[case] = row
    unknown = [row for case, row in rows.items() if case not in cases]
    missing = [case for case in cases if case not in rows]
    if missing:
        findings.append(_missing(table.path, missing, unknown, patients))
    elif unknown:
        listed = shorten([_like(row, cases) for row in unknown])
        logger.warning(
            "%s: %d rows are of no case of the dataset and are left out: %s", table.path, len(unknown), listed
        )
    return {case: row for case, row in rows.items() if case in cases}, findings


def _finding(case: str | None, message: str, path: Path, *, hint: str, found: str | None = None) -> Finding:
    return Finding(case, DataError(message, path=path, found=found, hint=hint))


def _like(row: Row, cases: Collection[str]) -> str:
    near = nearest(row.cells["case"], cases)
    return f"{row.cells['case']!r} in line {row.line}" + (f" (near {near})" if near else "")


def _missing(path: Path, missing: list[str], unknown: list[Row], patients: Mapping[str, str]) -> Finding:
    message = f"{len(missing)} case{'s have' if len(missing) > 1 else ' has'} no row: {shorten(missing)}"
    found = "the rows " + shorten([_like(row, missing) for row in unknown], 5) if unknown else None
    hint = "Add a row for each; leave its cells empty when no test was done"
    if {row.cells["case"] for row in unknown} & {patients.get(case) for case in missing}:
        hint = "The table names patients of patients.csv; write the case of each scan in the column case instead"
    elif any(nearest(row.cells["case"], missing) for row in unknown):
        hint = "Write the case exactly as the dataset's files are called"
    return _finding(missing[0] if len(missing) == 1 else None, message, path, found=found, hint=hint)


def _numbers(path: Path, column: str, rows: Mapping[str, Row]) -> tuple[_Values, list[Finding]]:
    values: _Values = {}
    findings = []
    for case, row in rows.items():
        text = row.cells[column]
        values[case] = None
        if text.lower() in _MISSING:
            continue
        number = _number(text)
        where = f"line {row.line}, case {case}, column {column}"
        if number is None:
            hint = "Correct the cell, or leave it empty when the test was not done"
            findings.append(_wrong_cell(case, f"{where}: is not a number", path, text, hint))
        elif not 0 <= number <= LARGEST_PERCENT:
            hint = "A code such as -1 or 999 for a test that was not done must be an empty cell"
            findings.append(_wrong_cell(case, f"{where}: is out of range", path, text, hint))
        else:
            values[case] = number
    return values, findings


def _number(text: str) -> float | None:
    digits = text.removesuffix("%").strip()
    if digits.lower().lstrip("+-") in ("inf", "infinity"):
        return float("-inf") if digits.startswith("-") else float("inf")
    return float(digits.replace(",", ".")) if _NUMBER.fullmatch(digits) else None


def _wrong_cell(case: str, message: str, path: Path, text: str, hint: str) -> Finding:
    expected = f"a percentage from 0 to {LARGEST_PERCENT:g} such as 72.5, or an empty cell"
    return Finding(case, DataError(message, path=path, found=repr(text), expected=expected, hint=hint))


def _unit_findings(path: Path, column: str, values: _Values, rows: Mapping[str, Row]) -> Iterator[Finding]:
    """Find a column, or a few cells of one, in litres or as fractions of 1."""
    given = {case: value for case, value in values.items() if value is not None}
    limit = _LITRES if column.startswith(_SPIROMETRY) else _FRACTION
    low = {case: value for case, value in given.items() if value < limit or value <= _FRACTION}
    all_low = given and all(value < _LITRES for value in given.values())
    if all_low and (column != "fev1_fvc" or max(given.values()) <= _FRACTION):
        yield Finding(None, _wrong_unit(path, column, list(given.values())))
    else:
        for case, value in low.items():
            yield _implausible(path, f"line {rows[case].line}, case {case}, column {column}", case, value)


def _implausible(path: Path, where: str, case: str, value: float) -> Finding:
    error = DataError(
        f"{where}: is not plausible as percent",
        path=path,
        found=f"{value:g}",
        expected="percent, such as 72.5",
        hint="It may be in litres or a fraction of 1; write percent, or leave the cell empty",
    )
    return Finding(case, error)


def _wrong_unit(path: Path, column: str, values: list[float]) -> DataError:
    is_fraction = max(values) <= _FRACTION
    if column == "fev1_fvc":
        looks, hint = "a fraction of 1", "Multiply the column by 100"
    elif is_fraction:
        looks, hint = "a fraction of 1, or litres", "Write percent of the predicted value"
    else:
        looks, hint = "litres", "Write percent of the predicted value, or name the column after its unit (fev1_l)"
    return DataError(
        f"column {column}: looks like {looks}, not percent",
        path=path,
        found=f"{len(values)} values from {min(values):g} to {max(values):g}",
        expected="percent, such as 72.5",
        hint=hint,
    )


def _warn_of_content(path: Path, column: str, values: _Values) -> None:
    given = [value for value in values.values() if value is not None]
    if not given:
        logger.warning("%s: the column %s has no value for any case", path, column)
    elif column == "fev1_fvc" and max(given) > 100:
        logger.warning(
            "%s: fev1_fvc is up to %g: the ratio in percent cannot exceed 100; is it percent of the predicted value?",
            path,
            max(given),
        )
