"""Synthetic HRCT of patients with systemic sclerosis and interstitial lung disease, with known truth.

Everything is a pure function of (seed, index): the same numbers give the same arrays, in whatever order patients are
made. `draw_cohort` draws who the patients are, `make_patient` builds one patient's body and scans it, `write_dataset`
writes patients as a raw nnU-Net dataset. The files phantom_*.py hold one part each, from the cohort to the scanner.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
from numpy.typing import NDArray

from siccs_net.errors import UsageError
from siccs_net.testing.phantom_body import build_body, draw_physique
from siccs_net.testing.phantom_cohort import (
    POPULATION_RHO_FEV1_FVC,
    POPULATION_RHO_FEV1_PP,
    PatientRecord,
    draw_cohort,
    draw_patient,
    random_stream,
)
from siccs_net.testing.phantom_lesions import build_disease
from siccs_net.testing.phantom_lungs import grow_lung_trees
from siccs_net.testing.phantom_paint import Phantom, table_top
from siccs_net.testing.phantom_scanner import scan

__all__ = [
    "POPULATION_RHO_FEV1_FVC",
    "POPULATION_RHO_FEV1_PP",
    "PatientRecord",
    "PhantomPatient",
    "draw_cohort",
    "make_patient",
    "write_dataset",
]

LABELS = {"background": 0, "normal_lung": 1, "EF": 2, "GGO": 3}
GROUPS = {"lung": [1, 2, 3], "EF": [2], "GGO": [3], "EF+GGO": [2, 3]}
PFT_COLUMNS = ("fev1_fvc", "fev1_pp", "fvc_pp", "dlco_pp")
_SMALLEST_SIZE = 32
_Row = dict[str, str | float | None]


@dataclass(frozen=True)
class PhantomPatient:
    """One synthetic scan and what is known of it.

    `image` holds HU and `label` 0 background, 1 normal lung, 2 established fibrosis, 3 ground-glass opacity, both
    [z, y, x] in canonical LPS orientation: slice 0 is the lowest, row 0 the front, column 0 the patient's right.
    `pft` has the keys of `PFT_COLUMNS`, in percent; None is a test that was not done.
    """

    case: str
    patient: str
    date: str
    kernel: str
    image: NDArray[np.int16]
    label: NDArray[np.uint8]
    spacing_mm: tuple[float, float, float]
    pft: dict[str, float | None]


def make_patient(
    index: int,
    *,
    seed: int = 0,
    in_plane_size: int = 128,
    slice_thickness_mm: float | None = None,
    field_of_view_mm: float = 360.0,
) -> PhantomPatient:
    """Make patient `index` of the cohort of `seed`: build the body and scan it.

    The body does not depend on the three settings of the scan: the same patient can be scanned coarsely and finely.
    `slice_thickness_mm` None takes the thickness drawn for the patient (0.7 to 5 mm). Raises UsageError for a negative
    index or seed and for settings that no scanner has.
    """
    record = draw_patient(index, seed=seed)
    thickness = record.slice_thickness_mm if slice_thickness_mm is None else float(slice_thickness_mm)
    _check_settings(in_plane_size, thickness, field_of_view_mm)
    image, label = scan(
        _build(record, seed),
        size=in_plane_size,
        field_of_view_mm=field_of_view_mm,
        thickness_mm=thickness,
        kernel=record.kernel,
        rng=random_stream(seed, index, "noise"),
    )
    pixel = field_of_view_mm / in_plane_size
    return PhantomPatient(
        case=record.case,
        patient=record.patient,
        date=record.date,
        kernel=record.kernel,
        image=image,
        label=label,
        spacing_mm=(thickness, pixel, pixel),
        pft=record.pft,
    )


def _check_settings(size: int, thickness_mm: float, field_of_view_mm: float) -> None:
    hint = "Choose settings that a CT scanner has"
    if size < _SMALLEST_SIZE:
        raise UsageError("in_plane_size is too small", found=size, expected=f">= {_SMALLEST_SIZE}", hint=hint)
    if not 0.25 <= thickness_mm <= 10.0:
        raise UsageError("slice_thickness_mm is out of range", found=thickness_mm, expected="0.25 to 10", hint=hint)
    if not 200.0 <= field_of_view_mm <= 600.0:
        raise UsageError("field_of_view_mm is out of range", found=field_of_view_mm, expected="200 to 600", hint=hint)


def _build(record: PatientRecord, seed: int) -> Phantom:
    rng = random_stream(seed, record.index, "body")
    physique = draw_physique(rng, female=record.female, burden_percent=record.burden_percent)
    body = build_body(physique, rng)
    trees = grow_lung_trees(body, random_stream(seed, record.index, "tree"))
    disease = build_disease(record, body, trees, random_stream(seed, record.index, "lesion"))
    return Phantom(body, trees, disease, table_top(body))


def write_dataset(folder: Path, patients: Iterable[PhantomPatient], *, test: int = 0, name: str) -> None:
    """Write patients as a raw nnU-Net dataset; the last `test` of them go to imagesTs and labelsTs.

    Beside `dataset.json` (with `siccs_groups`) stand `patients.csv` (case, patient, date) and `pft.csv` (an empty cell
    is a missing test). Patients may come from a generator: one at a time is held, besides the last `test`.
    Raises UsageError when `test` is negative, a case comes twice, or no patient is left for training.
    """
    if test < 0:
        raise UsageError("the number of test patients must not be negative", found=test, expected=">= 0")
    waiting: list[PhantomPatient] = []
    rows: list[_Row] = []
    training = 0
    for patient in patients:
        if any(row["case"] == patient.case for row in rows):
            raise UsageError("the same case was given twice", found=patient.case, expected="cases of one cohort")
        rows.append(_row(patient))
        waiting.append(patient)
        if len(waiting) > test:
            _write_case(folder, waiting.pop(0), "Tr")
            training += 1
    if not training:
        raise UsageError("no patient is left for training", found=f"{len(rows)} patients, test={test}", path=folder)
    for patient in waiting:
        _write_case(folder, patient, "Ts")
    _write_tables(folder, rows)
    _write_dataset_json(folder, name, training)


def _row(patient: PhantomPatient) -> _Row:
    return {"case": patient.case, "patient": patient.patient, "date": patient.date, **patient.pft}


def _write_case(folder: Path, patient: PhantomPatient, part: str) -> None:
    affine = affine_of(patient)
    for array, sub_folder, file_name in (
        (patient.image, f"images{part}", f"{patient.case}_0000.nii.gz"),
        (patient.label, f"labels{part}", f"{patient.case}.nii.gz"),
    ):
        path = folder / sub_folder / file_name
        path.parent.mkdir(parents=True, exist_ok=True)
        nifti = nibabel.Nifti1Image(array.transpose(2, 1, 0), affine)
        nifti.set_sform(affine, code="scanner")
        nifti.set_qform(affine, code="scanner")
        nifti.header.set_xyzt_units("mm")
        nibabel.save(nifti, path)


def affine_of(patient: PhantomPatient) -> NDArray[np.float64]:
    """Return the NIfTI affine (RAS+ millimetres) of the array transposed to (x, y, z), centred in the plane."""
    z, y, x = patient.spacing_mm
    _, rows, columns = patient.image.shape
    affine = np.diag([-x, -y, z, 1.0])
    affine[:3, 3] = (columns - 1) / 2 * x, (rows - 1) / 2 * y, -172.0
    return affine


def _write_tables(folder: Path, rows: list[_Row]) -> None:
    for file_name, columns in (
        ("patients.csv", ("case", "patient", "date")),
        ("pft.csv", ("case", *PFT_COLUMNS)),
    ):
        with (folder / file_name).open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns, extrasaction="ignore", restval="", lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


def _write_dataset_json(folder: Path, name: str, training: int) -> None:
    content = {
        "name": name,
        "description": "Synthetic HRCT of SSc-ILD with known truth, made by siccs_net.testing.phantom",
        "channel_names": {"0": "CT"},
        "labels": LABELS,
        "numTraining": training,
        "file_ending": ".nii.gz",
        "siccs_groups": GROUPS,
    }
    (folder / "dataset.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
