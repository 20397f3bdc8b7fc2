"""Records as CSV for programs: every number in full precision, a column each, undefined ones empty."""

from __future__ import annotations

import csv
import io
import typing
from collections.abc import Callable, Iterable
from typing import Any

from siccs_net.records.base import Record

Columns = dict[str, Callable[[Any], object]]
"""What a column is called, and its value of a row."""


def csv_text(columns: Columns, rows: Iterable[Any]) -> str:
    """Return a table as CSV text; without rows it has its header."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([value(row) for value in columns.values()] for row in rows)
    return stream.getvalue()


def record_columns(kind: type[Record], *path: str) -> Columns:
    """Return a column for every number and text of a kind of record; records inside it are unfolded.

    Columns are the record's keys, joined by "_". Tuples and dictionaries, of any length, are left to the caller.
    """
    found: Columns = {}
    for name, field in kind.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, Record):
            found |= record_columns(inner, *path, name)
        elif typing.get_origin(inner) not in (tuple, dict):
            found["_".join((*path, name))] = getter(*path, name)
    return found


def getter(*path: str) -> Callable[[Any], object]:
    """Return a function that takes an attribute of an attribute of a row."""

    def get(row: Any) -> object:
        for name in path:
            row = getattr(row, name)
        return row

    return get
