"""patients.csv: which patient each case is of, and how thick its slices are."""

from __future__ import annotations

import csv
from collections.abc import Collection
from pathlib import Path

from siccs_net.io.problem import Problem

THICKEST_MM = 20.0


def read_patients(path: Path, cases: Collection[str]) -> tuple[dict[str, str], dict[str, float], list[Problem]]:
    """Return the patient and the slice thickness of each case that the file names, and what is wrong with it.

    Nothing is wrong with a file that is not there; one that is there names every one of `cases`.
    """
    if not path.is_file():
        return {}, {}, []
    try:
        with open(path, newline="", encoding="utf-8-sig") as stream:
            rows = list(csv.DictReader(stream))
    except (UnicodeDecodeError, csv.Error) as error:
        message = f"patients.csv is not a table in UTF-8 ({error}); save it as CSV in UTF-8"
        return {}, {}, [Problem("patients.csv", message, path=path)]
    patients: dict[str, str] = {}
    thickness_mm: dict[str, float] = {}
    problems = []
    for number, row in enumerate(rows, start=2):
        case, patient = (row.get("case") or "").strip(), (row.get("patient") or "").strip()
        if not case or not patient:
            problems.append(Problem("patients.csv", f"patients.csv line {number}: no case or no patient", case, path))
        elif case in patients:
            problems.append(Problem("patients.csv", f"patients.csv line {number}: {case} is listed twice", case, path))
        else:
            patients[case] = patient
            if text := (row.get("thickness_mm") or "").strip():
                if (thickness := parse_thickness(text)) is not None:
                    thickness_mm[case] = thickness
                else:
                    message = f"patients.csv line {number}: thickness_mm is not a number of millimetres: {text!r}"
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
