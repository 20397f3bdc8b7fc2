"""CSV tables that people write by hand or in a spreadsheet, read with their line numbers."""

from __future__ import annotations

import csv
import difflib
import io
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from siccs_net.errors import DataError, MissingPathError
from siccs_net.io import files

_DELIMITERS = (",", ";", "\t")
_NOT_TEXT = {
    b"PK\x03\x04": "a spreadsheet or another zip file (.xlsx, .ods)",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook (.xls)",
    b"\xff\xfe": "text in UTF-16",
    b"\xfe\xff": "text in UTF-16",
}
_SAVE = "Save the sheet as CSV in UTF-8"


@dataclass(frozen=True)
class Row:
    """One line of a table: its number in the file and its cells by column, without surrounding blanks."""

    line: int
    cells: dict[str, str]


@dataclass(frozen=True)
class Table:
    """A table with its columns in order (lower case, without surrounding blanks)."""

    path: Path
    columns: tuple[str, ...]
    rows: tuple[Row, ...]


def read_table(path: Path, required: Collection[str]) -> Table:
    """Read a table with a header that names at least the columns in `required`.

    The cells are separated by commas, semicolons or tabs, whichever the header has most of; the text is UTF-8 with or
    without a byte order mark. Blank lines, and empty cells beyond the header, are skipped. Raises MissingPathError, or
    DataError for a file that is no such text, has no row, lacks a column or has a line of another length.
    """
    if path.is_dir():
        raise MissingPathError("is a folder, not a table", path=path, hint="Name the CSV file")
    numbered = _split(path, _decode(path))
    if not numbered:
        raise DataError("is empty", path=path, expected=f"a header such as {','.join(required)} and a line a case")
    columns = _columns(path, numbered[0][1], required)
    rows = tuple(_row(path, line, cells, columns) for line, cells in numbered[1:])
    if not rows:
        raise DataError("has a header but no row", path=path, expected="a line a case")
    return Table(path, tuple(column for column in columns if column), rows)


def nearest(name: str, names: Collection[str]) -> str | None:
    """Return the name most like `name`, or None when none is near; a spreadsheet drops the zeros that begin one."""
    for near in names:
        if near.casefold().lstrip("0") == name.casefold().lstrip("0"):
            return near
    lowered = {near.casefold(): near for near in names}
    found = difflib.get_close_matches(name.casefold(), lowered, n=1, cutoff=0.6)
    return lowered[found[0]] if found else None


def shorten(names: Collection[str], count: int = 10) -> str:
    """Return the first `count` names joined by commas, and how many more there are."""
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(list(names)[:count]) + more


def _decode(path: Path) -> str:
    data = files.read_bytes(path)
    for start, kind in _NOT_TEXT.items():
        if data.startswith(start):
            raise DataError("is not a CSV file", path=path, found=kind, hint=_SAVE)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        found = f"the byte 0x{data[error.start]:02x} in line {line}"
        raise DataError("is not text in UTF-8", path=path, found=found, hint=_SAVE) from error
    if "\0" in text:
        raise DataError("is not a CSV file", path=path, found="zero bytes", hint=_SAVE)
    return text


def _split(path: Path, text: str) -> list[tuple[int, list[str]]]:
    """Return the cells of every line that is not blank, with its line number."""
    header = next((line for line in text.splitlines() if line.strip()), "")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=max(_DELIMITERS, key=header.count), strict=True)
    try:
        numbered = [(reader.line_num, [cell.strip() for cell in cells]) for cells in reader]
    except csv.Error as error:
        raise DataError(
            f"line {reader.line_num}: is not CSV", path=path, found=str(error), hint="Look for an unpaired quote"
        ) from error
    return [(line, cells) for line, cells in numbered if any(cells)]


def _columns(path: Path, header: list[str], required: Collection[str]) -> list[str]:
    columns = [name.lower() for name in header]
    while not columns[-1]:
        columns.pop()
    if doubled := sorted({name for name in columns if name and columns.count(name) > 1}):
        raise DataError("two columns have one name", path=path, found=", ".join(doubled), hint="Rename one")
    for name in required:
        if name not in columns:
            near = nearest(name, [column for column in columns if column])
            hint = f"Rename {near} to {name}" if near else f"Name the column {name} in the header line"
            found = f"the columns {shorten(columns)}"
            raise DataError(f"has no column {name!r}", path=path, found=found, expected=", ".join(required), hint=hint)
    return columns


def _row(path: Path, line: int, cells: list[str], columns: list[str]) -> Row:
    while len(cells) > len(columns) and not cells[-1]:
        cells.pop()
    if len(cells) != len(columns):
        raise DataError(
            f"line {line}: has another number of cells than the header",
            path=path,
            found=f"{len(cells)} cells, the first {cells[0]!r}",
            expected=len(columns),
            hint="A decimal comma in a file separated by commas gives one too many; a cut-off line has too few",
        )
    for number, (name, cell) in enumerate(zip(columns, cells, strict=True), start=1):
        if cell and not name:
            raise DataError(f"line {line}: a cell stands in column {number}, which has no name", path=path, found=cell)
    return Row(line, {name: cell for name, cell in zip(columns, cells, strict=True) if name})
