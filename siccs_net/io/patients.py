"""patients.csv: which patient each case is of, and how thick its slices are."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from siccs_net.errors import DataError
from siccs_net.io.problem import Problem
from siccs_net.io.table import read_table

THICKEST_MM = 20.0


def read_patients(path: Path, cases: Collection[str]) -> tuple[dict[str, str], dict[str, float], list[Problem]]:
    """Return the patient and the slice thickness of each case that the file names, and what is wrong with it.

    Nothing is wrong with a file that is not there; one that is there names every one of `cases`. It is a table as
    `read_table` reads it: commas, semicolons or tabs.
    """
    if not path.is_file():
        return {}, {}, []
    try:
        table = read_table(path, ["case", "patient"])
    except DataError as error:
        message = f"patients.csv: {str(error).removeprefix(f'{path}: ')}"
        return {}, {}, [Problem("patients.csv", message, path=path)]
    patients: dict[str, str] = {}
    thickness_mm: dict[str, float] = {}
    problems = []
    for row in table.rows:
        case, patient, where = row.cells["case"], row.cells["patient"], f"patients.csv line {row.line}"
        if not case or not patient:
            problems.append(Problem("patients.csv", f"{where}: no case or no patient", case, path))
        elif case in patients:
            problems.append(Problem("patients.csv", f"{where}: {case} is listed twice", case, path))
        else:
            patients[case] = patient
            if text := row.cells.get("thickness_mm"):
                if (thickness := parse_thickness(text)) is not None:
                    thickness_mm[case] = thickness
                else:
                    message = f"{where}: thickness_mm is not a number of millimetres: {text!r}"
                    problems.append(Problem("patients.csv", message, case, path))
    lost = sorted(set(cases) - set(patients))
    problems += [Problem("patients.csv", f"{case}: not in patients.csv", case, path) for case in lost]
    return patients, thickness_mm, problems


def parse_thickness(text: str) -> float | None:
    """Return a slice thickness in millimetres, above 0 and up to 20, decimal comma or point; None when it is none."""
    try:
        thickness = float(text.replace(",", "."))
    except ValueError:
        return None
    return thickness if 0 < thickness <= THICKEST_MM else None
