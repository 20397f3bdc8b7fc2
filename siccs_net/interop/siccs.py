"""The SICCS dataset (DOI 10.7910/DVN/3HNP33), by a manifest: its own list of files could not be seen.

The manifest is a CSV table with a line a case: `case`, `image` and `label` (paths below the dataset's folder) and,
where they are known, `patient`, `date`, `thickness_mm` and lung function as `siccs_net.io.pft` names it.
"""

from __future__ import annotations

import dataclasses
import datetime
import logging
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from siccs_net.errors import DataError, MissingPathError, UnavailableError
from siccs_net.interop.draft import Draft, DraftCase, DraftTable
from siccs_net.interop.names import Matching, match_tree
from siccs_net.interop.writer import table_text
from siccs_net.io.dataset import Problem
from siccs_net.io.nifti import ENDINGS
from siccs_net.io.patients import THICKEST_MM, parse_thickness
from siccs_net.io.pft import PFT_COLUMNS, check_pft, lung_columns
from siccs_net.io.table import Row, Table, nearest, read_table

logger = logging.getLogger(__name__)
LABELS = {"background": 0, "normal_lung": 1, "EF": 2, "GGO": 3}
GROUPS = {"lung": [1, 2, 3], "EF": [2], "GGO": [3], "EF+GGO": [2, 3]}
_REQUIRED = ("case", "image", "label")
_ABOUT = ("patient", "date", "thickness_mm")
_Found = list[Problem]


def draft_siccs(folder: Path, manifest: Path) -> Draft:
    """Return the draft of a dataset from a manifest; a line that cannot be used is a problem of the draft.

    Raises MissingPathError, DataError when the manifest is no table or has an unknown column that looks like a
    misspelt one, UnavailableError when every image it names is in another format than NIfTI.
    """
    if not folder.is_dir():
        raise MissingPathError("the folder does not exist", path=folder)
    table = read_table(manifest, _REQUIRED)
    _check_columns(table)
    _require_nifti(table)
    rows, problems = _rows(table)
    cases = []
    for name, row in rows.items():
        case, found = _case(folder, name, row)
        cases += [] if case is None else [case]
        problems += found
    problems += _shared_files(table)
    patients, patient_problems = _patients(table, rows)
    functions, function_problems = _lung_function(table, rows)
    tables = {name: made for name, made in (("patients.csv", patients), ("pft.csv", functions)) if made is not None}
    problems += [*patient_problems, *function_problems]
    return Draft(tuple(cases), ("CT",), LABELS, GROUPS, tables, problems=tuple(problems))


def draft_manifest(folder: Path) -> tuple[bytes, Matching]:
    """Return the text of a manifest with the images and labels found below a folder, and how they were matched.

    The columns that file names do not tell are there and empty. Raises MissingPathError, DataError without a pair.
    """
    matching = match_tree(folder)
    if not matching.pairs:
        found = f"{len(matching.images)} images and {len(matching.labels)} labels"
        raise DataError(
            "no image and label have matching names", path=folder, found=found, hint="Write the manifest by hand"
        )
    further = ("",) * len(_ABOUT + PFT_COLUMNS)
    rows = [
        (case, *(path.relative_to(folder).as_posix() for path in pair), *further)
        for case, pair in matching.pairs.items()
    ]
    return table_text((*_REQUIRED, *_ABOUT, *PFT_COLUMNS), rows), matching


def _check_columns(table: Table) -> None:
    known = {*_REQUIRED, *_ABOUT, *lung_columns(table.columns)}
    absent = {*_ABOUT, *PFT_COLUMNS} - set(table.columns)
    for name in table.columns:
        if name in known:
            continue
        if near := nearest(name, absent):
            raise DataError(f"the column {name!r} is not known", path=table.path, hint=f"Rename it to {near}")
        logger.warning("%s: the column %s is left out", table.path, name)


def _require_nifti(table: Table) -> None:
    named = [row.cells["image"] for row in table.rows if row.cells["image"]]
    if named and not any(text.endswith(ENDINGS) for text in named):
        raise UnavailableError(
            "names no NIfTI image; other formats are not read by this version",
            path=table.path,
            found=f"{len(named)} images such as {named[0]}",
            expected=" or ".join(ENDINGS),
        )


def _rows(table: Table) -> tuple[dict[str, Row], _Found]:
    """Return each case's row; of a case with two rows only the first, with a problem."""
    rows: dict[str, Row] = {}
    problems = []
    for row in table.rows:
        case = row.cells["case"]
        if not case:
            problems.append(_problem(table, row, "names no case", None))
        elif case in rows:
            problems.append(_problem(table, row, f"the case has line {rows[case].line} already", case))
        else:
            rows[case] = row
    return rows, problems


def _problem(table: Table, row: Row, text: str, case: str | None, kind: str = "manifest") -> Problem:
    where = f"{table.path} line {row.line}" + (f", {case}" if case else "")
    return Problem(kind, f"{where}: {text}", case, table.path)


def _case(folder: Path, name: str, row: Row) -> tuple[DraftCase | None, _Found]:
    image, image_problems = _source(folder, name, row, "image")
    label, label_problems = _source(folder, name, row, "label")
    problems = [*image_problems, *label_problems]
    if image is None or label is None:
        return None, problems
    return DraftCase(name, (image,), label), problems


def _source(folder: Path, case: str, row: Row, column: str) -> tuple[Path | None, _Found]:
    """Return the file that a cell names, if it lies below the folder and can be one."""
    text = row.cells[column].replace("\\", "/")
    relative = PurePosixPath(text)
    path = folder / relative
    where = f"{case}: {column} in line {row.line}: "
    if not text:
        return None, [Problem("missing file", f"{where}no file is named", case)]
    if relative.is_absolute() or ".." in relative.parts:
        return None, [Problem("manifest", f"{where}{text} does not lie below {folder}; write a path from there", case)]
    if path.is_dir():
        message = f"{where}{path} is a folder; DICOM series are not read by this version, convert it to NIfTI"
        return None, [Problem("file format", message, case, path)]
    if not path.is_file():
        near = nearest(path.name, [other.name for other in path.parent.glob("*")]) if path.parent.is_dir() else None
        message = f"{where}{path} does not exist" + (f"; did you mean {near}?" if near else "")
        return None, [Problem("missing file", message, case, path)]
    return path, []


def _shared_files(table: Table) -> Iterator[Problem]:
    """Find a file that two cases name: a slip of copying, and one scan in two folds."""
    seen: dict[str, Row] = {}
    for row in table.rows:
        for column in ("image", "label"):
            text = row.cells[column]
            first = seen.setdefault(text, row) if text else row
            if first is not row:
                yield _problem(table, row, f"{text} is named in line {first.line} too", row.cells["case"] or None)
                yield _problem(table, first, f"{text} is named in line {row.line} too", first.cells["case"] or None)


def _patients(table: Table, rows: dict[str, Row]) -> tuple[DraftTable | None, _Found]:
    """Return patients.csv. Without patients in the manifest each case is its own, as everywhere."""
    used = [name for name in _ABOUT if any(row.cells.get(name) for row in rows.values())]
    if not used:
        logger.warning("%s: names no patients: each case counts as a patient of its own", table.path)
        return None, []
    problems: _Found = []
    cells = {}
    for case, row in rows.items():
        patient = row.cells.get("patient") or ("" if "patient" in used else case)
        problems += [_problem(table, row, text, case) for text in _wrong_cells(row, patient)]
        cells[case] = (patient, row.cells.get("date", ""), row.cells.get("thickness_mm", "").replace(",", "."))
    return DraftTable(("patient", "date", "thickness_mm"), cells), problems


def _wrong_cells(row: Row, patient: str) -> Iterator[str]:
    if not patient:
        yield "no patient is named, though other lines name one"
    date, thickness = row.cells.get("date", ""), row.cells.get("thickness_mm", "")
    if date and not _is_date(date):
        yield f"date is not a day such as 2019-03-07: {date!r}"
    if thickness and parse_thickness(thickness) is None:
        yield f"thickness_mm is not a number of millimetres up to {THICKEST_MM:g}: {thickness!r}"


def _is_date(text: str) -> bool:
    try:
        return datetime.date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False


def _lung_function(table: Table, rows: dict[str, Row]) -> tuple[DraftTable | None, _Found]:
    """Return pft.csv from the columns that have a value, checked as the reader of pft.csv checks them."""
    columns = [name for name in lung_columns(table.columns) if any(row.cells[name] for row in rows.values())]
    if not columns:
        return None, []
    part = dataclasses.replace(table, columns=("case", *columns), rows=tuple(rows.values()))
    function, findings = check_pft(part, rows)
    cells = {case: tuple(_cell(function.values[name][case]) for name in columns) for case in rows}
    problems = [Problem("lung function", str(item.error), item.case, table.path) for item in findings]
    return DraftTable(tuple(columns), cells), problems


def _cell(value: float | None) -> str:
    return "" if value is None else repr(value)
