"""What was measured, on disk: the rows, and beside them what else a reader needs (machine, spread, verdict)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.compare.harness import Measured

FOLDER = Path(__file__).resolve().parents[1] / "results"
ROWS, DETAILS = "compare.json", "compare_details.json"


@dataclass(frozen=True)
class Results:
    """Rows by stage, what else is known of each (`turns`, `lowest`, `highest`, `agrees`), and the machine."""

    rows: dict[str, dict[str, Any]]
    details: dict[str, dict[str, Any]]
    machine: dict[str, str]


def read(folder: Path = FOLDER) -> Results:
    """Return the results; empty where nothing was measured yet."""
    if not (folder / ROWS).is_file():
        return Results({}, {}, {})
    rows = {row["stage"]: row for row in json.loads((folder / ROWS).read_text())}
    details = json.loads((folder / DETAILS).read_text())
    return Results(rows, details["stages"], details["machine"])


def cannot_merge(stages: Sequence[str], machine: dict[str, str], folder: Path = FOLDER) -> str | None:
    """Say why rows of these stages cannot stand beside those that are there: they come from another machine."""
    there = read(folder)
    if there.machine in ({}, machine) or not set(there.rows) - set(stages):
        return None
    differing = ", ".join(name for name in {**there.machine, **machine} if there.machine.get(name) != machine.get(name))
    return f"the rows in {ROWS} were measured elsewhere ({differing}): measure every stage, or write to --json FILE"


def merge(found: Sequence[Measured], machine: dict[str, str], order: Sequence[str], folder: Path = FOLDER) -> None:
    """Put rows in the place of earlier ones of the same stage; those of other stages stay. `order` is of stages."""
    there = read(folder)
    same = there.machine == machine
    rows = {**(there.rows if same else {}), **{one.row.stage: one.row.as_dict() for one in found}}
    details = {**(there.details if same else {}), **{one.row.stage: _details(one) for one in found}}
    listed = [name for name in order if name in rows]
    write_rows(folder / ROWS, [rows[name] for name in listed])
    body = {"machine": machine, "stages": {name: details[name] for name in listed}}
    (folder / DETAILS).write_text(json.dumps(body, indent=1, ensure_ascii=False) + "\n")


def write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write rows as a list."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(list(rows), indent=1, ensure_ascii=False) + "\n")


def _details(found: Measured) -> dict[str, Any]:
    return {"turns": found.turns, "lowest": found.lowest, "highest": found.highest, "agrees": found.agrees}
