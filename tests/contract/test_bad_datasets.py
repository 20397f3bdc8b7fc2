"""Named bad datasets: each is listed by siccs_validate by name, all in one run, and refused before any work."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from siccs_net.cli.process import run_command
from siccs_net.errors import DatasetError, RecordError, SiccsError
from siccs_net.io.dataset import open_dataset
from siccs_net.pipeline.plan import plan
from siccs_net.pipeline.validate import validate
from siccs_net.workspace import Workspace

CASE = "tiny_003"


def _image(root: Path) -> Path:
    return root / "imagesTr" / f"{CASE}_0000.nii.gz"


def _label(root: Path) -> Path:
    return root / "labelsTr" / f"{CASE}.nii.gz"


def _rewrite(path: Path, change: Callable, dtype=None) -> None:
    old = nib.load(path)
    array, affine = change(np.asarray(old.dataobj).copy(), old.affine.copy())
    new = nib.Nifti1Image(array.astype(dtype or old.get_data_dtype()), affine)
    new.set_sform(affine, 1)
    new.set_qform(affine, 1)
    nib.save(new, path)


def _put(value):
    def change(array, affine):
        array = array.astype(np.float32)
        array[2, 3, 4] = value
        return array, affine

    return change


def _describe(root: Path, **changes) -> None:
    body = json.loads((root / "dataset.json").read_text())
    (root / "dataset.json").write_text(json.dumps({**body, **changes}))


def _splits(root: Path, folds) -> None:
    (root / "splits_final.json").write_text(json.dumps(folds))


NAMES = [f"tiny_{number:03d}" for number in range(8)]


def _no_codes(root: Path) -> None:
    image = nib.load(_image(root))
    image.header["sform_code"] = image.header["qform_code"] = 0
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), None, image.header), _image(root))


def _zero_spacing(root: Path) -> None:
    image = nib.load(_image(root))
    affine = image.affine.copy()
    affine[:3, 1] = 0
    header = image.header.copy()
    header.set_sform(affine, 1)
    header.set_qform(None, 0)
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), None, header), _image(root))


def _truncate(root: Path) -> None:
    data = _image(root).read_bytes()
    _image(root).write_bytes(data[: len(data) // 2])


def _flip_bit(root: Path) -> None:
    data = bytearray(_image(root).read_bytes())
    data[len(data) // 2] ^= 4
    _image(root).write_bytes(data)


def _patients_on_both_sides(root: Path) -> None:
    rows = ["case,patient,date", *(f"{name},P{number // 2}," for number, name in enumerate(NAMES))]
    (root / "patients.csv").write_text("\n".join(rows))
    _splits(root, [{"train": NAMES[1:], "val": NAMES[:1]}])


def _moved(array, affine):
    affine[0, 3] += 3
    return array, affine


def _flipped(array, affine):
    affine[:3, 1] *= -1
    return array, affine


def _spaced(array, affine):
    affine[:3, 2] *= 1.5
    return array, affine


def _in_metres(array, affine):
    return array, np.diag([1e-3, 1e-3, 1e-3, 1]) @ affine


def _copy_case(root: Path, name: str) -> None:
    shutil.copy(_image(root), root / "imagesTr" / f"{name}_0000.nii.gz")
    shutil.copy(_label(root), root / "labelsTr" / f"{name}.nii.gz")


BAD = {
    "missing channel": (
        lambda root: _describe(root, channel_names={"0": "CT", "1": "PET"}),
        "channel 1 is missing",
    ),
    "image without label": (lambda root: _label(root).unlink(), f"{CASE}: has no label"),
    "label without image": (lambda root: _image(root).unlink(), f"{CASE}: has a label but no image"),
    "label value not in dataset.json": (lambda root: _rewrite(_label(root), _put(7)), "value 7"),
    "non-integer labels": (lambda root: _rewrite(_label(root), _put(1.5), np.float32), "whole numbers"),
    "NaN labels": (lambda root: _rewrite(_label(root), _put(np.nan), np.float32), "not finite"),
    "NaN image": (lambda root: _rewrite(_image(root), _put(np.nan), np.float32), "not finite"),
    "negative label": (lambda root: _rewrite(_label(root), _put(-1), np.int16), "value -1"),
    "affine mismatch": (lambda root: _rewrite(_label(root), _moved), "lies elsewhere in space than its image"),
    "flipped orientation": (lambda root: _rewrite(_label(root), _flipped), "lies elsewhere in space than its image"),
    "spacing mismatch": (lambda root: _rewrite(_label(root), _spaced), "lies elsewhere in space than its image"),
    "shape mismatch": (lambda root: _rewrite(_label(root), lambda a, f: (a[:-1], f)), "another shape than its image"),
    "zero spacing": (_zero_spacing, "zero"),
    "sform = qform = 0": (_no_codes, "no orientation"),
    "four axes": (lambda root: _rewrite(_image(root), lambda a, f: (np.stack([a, a], -1), f)), "three axes"),
    "truncated gzip": (_truncate, "gzip"),
    "flipped bit": (_flip_bit, "gzip"),
    "not NIfTI": (lambda root: _image(root).write_bytes(b"hello" * 100), "NIfTI"),
    "empty file": (lambda root: _image(root).write_bytes(b""), "too short"),
    "duplicate case": (
        lambda root: (root / "imagesTr" / f"{CASE}.nii.gz").write_bytes(b""),
        f"{CASE}: two files for channel 0",
    ),
    "label outside the body": (lambda root: _rewrite(_image(root), lambda a, f: (_half(a), f)), "outside the body"),
    "patient in two folds": (_patients_on_both_sides, "P0"),
    "unknown case in splits": (lambda root: _splits(root, [{"train": NAMES[1:], "val": ["absent"]}]), "absent"),
    "case in train and val": (lambda root: _splits(root, [{"train": NAMES, "val": NAMES[:1]}]), "tiny_000"),
    "splits that are no list": (lambda root: (root / "splits_final.json").write_text("7"), "splits_final.json"),
    "name that is not UTF-8": (
        lambda root: (root / "imagesTr" / os.fsdecode(b"caf\xe9_0000.nii.gz")).write_bytes(b""),
        "not UTF-8",
    ),
    "label name that is not UTF-8": (
        lambda root: (root / "labelsTr" / os.fsdecode(b"caf\xe9.nii.gz")).write_bytes(b""),
        "not UTF-8",
    ),
    "two names that collide in the store": (lambda root: _copy_case(root, f"{CASE}_seg"), f"'{CASE}_seg' cannot be"),
    "implausible spacing": (lambda root: _rewrite(_image(root), _in_metres), "implausible"),
    "patients.csv in Latin-1": (
        lambda root: (root / "patients.csv").write_bytes("case,patient\ntiny_000,Jos\xe9\n".encode("latin-1")),
        "patients.csv: is not text in UTF-8; found the byte 0xe9 in line 2",
    ),
    "patients.csv with a field without end": (
        lambda root: (root / "patients.csv").write_text('case,patient\ntiny_000,"' + "x" * 200_000),
        "patients.csv: line 2: is not CSV",
    ),
    "patients.csv without patients": (
        lambda root: (root / "patients.csv").write_text("case,pateint\ntiny_000,A\n"),
        "Rename pateint to patient",
    ),
    "patients.csv with a line cut off": (
        lambda root: (root / "patients.csv").write_text("case,patient\ntiny_000\n"),
        "patients.csv: line 2: has another number of cells",
    ),
    "patients.csv with a repeated case": (
        lambda root: (root / "patients.csv").write_text("case,patient\ntiny_000,A\ntiny_000,B\n"),
        "listed twice",
    ),
}


def _half(array):
    """Air everywhere but in a corner, so that the body box is small."""
    array[:] = -1000
    array[:6, :6, :6] = 40
    return array


@pytest.mark.parametrize("name", BAD)
def test_each_is_listed_by_name_and_refused(tiny, tmp_path, name):
    break_it, words = BAD[name]
    break_it(tiny)
    result = validate(open_dataset(tiny), workers=0)
    messages = [problem.message for problem in result.errors]
    "".join(f"{problem.message} {problem.case} {problem.path}" for problem in result.errors).encode()
    assert any(words in message for message in messages), messages
    with pytest.raises(SiccsError):
        plan(open_dataset(tiny), preset="demo", workspace=Workspace.resolve(tmp_path / "work"), workers=0)
    assert not (tmp_path / "work").exists()


def test_all_are_listed_at_once(tiny):
    """Several problems in several cases: one run names every one of them."""
    (tiny / "labelsTr" / "tiny_000.nii.gz").unlink()
    (tiny / "imagesTr" / "tiny_001_0000.nii.gz").write_bytes(b"x" * 500)
    _rewrite(_label(tiny), _put(9))
    _splits(tiny, [{"train": NAMES, "val": ["absent"]}])
    messages = " | ".join(problem.message for problem in validate(open_dataset(tiny), workers=2).errors)
    for words in ("tiny_000: has no label", "tiny_001", "value 9", "absent"):
        assert words in messages


def test_an_empty_case_is_a_warning(tiny):
    _rewrite(_label(tiny), lambda a, f: (a * 0, f))
    result = validate(open_dataset(tiny), workers=0)
    assert not result.errors
    assert [(problem.kind, problem.case) for problem in result.problems] == [("empty label", CASE)]


def test_a_whole_dataset_has_no_problem(tiny):
    assert validate(open_dataset(tiny), workers=2).problems == ()


@pytest.mark.parametrize(
    "changes",
    [
        {"labels": {"background": 1}},
        {"file_ending": 3},
        {"channel_names": {}},
        {"labels": {"background": 0, "lung": [1, 2, 3], "EF": 2}},
        {"labels": {"background": 0, "lung": [1, 2, 3], "EF": 2}, "regions_class_order": [1]},
        {"labels": {"background": 0, "lung": [1, 2, 3], "EF": 2}, "regions_class_order": [1, 4]},
    ],
)
def test_a_wrong_dataset_json_is_one_error(tiny, changes):
    _describe(tiny, **changes)
    with pytest.raises(RecordError, match=r"dataset\.json"):
        open_dataset(tiny)


@pytest.mark.parametrize("verb", [["validate"], ["plan_and_preprocess", "-d"]])
def test_a_wrong_order_of_regions_is_one_line_of_each_command(tiny, tmp_path, capsys, verb):
    _describe(tiny, labels={"background": 0, "lung": [1, 2, 3], "EF": 2}, regions_class_order=[1, 4])
    assert run_command(verb[0], [*verb[1:], str(tiny), "--workspace", str(tmp_path / "work")]) == 4
    (line,) = capsys.readouterr().err.splitlines()
    assert "dataset.json" in line
    assert "such as [1, 2]; found [1, 4]: 4 is no value of EF" in line


def _mostly_ignored(array, affine):
    """Every fifth slice as it was, the others ignored, air outside of the body included."""
    sparse = np.full_like(array, 9)
    sparse[..., 2::5] = array[..., 2::5]
    return sparse, affine


def test_ignored_voxels_may_lie_outside_the_body_and_are_no_foreground(tiny):
    _describe(tiny, labels={"background": 0, "normal_lung": 1, "EF": 2, "GGO": 3, "ignore": 9})
    _rewrite(_label(tiny), _mostly_ignored)
    result = validate(open_dataset(tiny), workers=0)
    assert result.problems == ()
    found = {item.case: item.fingerprint for item in result.examinations}[CASE]
    label, image = nib.load(_label(tiny)).get_fdata(), nib.load(_image(tiny)).get_fdata()
    assert found.statistics_foreground[0].count == np.count_nonzero((label > 0) & (label < 9))
    assert found.statistics_foreground[0].mean == pytest.approx(image[(label > 0) & (label < 9)].mean())
    _rewrite(_label(tiny), lambda a, f: (np.full_like(a, 9), f))
    (problem,) = validate(open_dataset(tiny), workers=0).problems
    assert "every voxel has the ignore label" in problem.message


def test_an_empty_dataset_is_refused(tiny):
    for folder in ("imagesTr", "labelsTr"):
        for path in (tiny / folder).iterdir():
            path.unlink()
    with pytest.raises(DatasetError, match="no case"):
        plan(open_dataset(tiny), preset="demo", workspace=Workspace.resolve(tiny / "work"))
