"""SICCS by its manifest becomes a dataset: exact, whole or not at all, every problem named at once."""

from __future__ import annotations

import csv
import gzip

import numpy as np
import pytest
from convert_files import (
    LABEL,
    MOVED,
    SCAN,
    assert_same_image,
    assert_valid,
    convert_siccs,
    edit_manifest,
    make_download,
    put,
    resave,
    save,
    scan,
)

from siccs_net.errors import (
    DataError,
    MissingPathError,
    UnavailableError,
    UsageError,
)
from siccs_net.interop import siccs
from siccs_net.interop.decathlon import task_name
from siccs_net.interop.siccs import draft_siccs
from siccs_net.io.dataset import open_dataset
from siccs_net.io.pft import read_pft
from siccs_net.pipeline.convert import dataset_folder
from siccs_net.testing import phantom
from siccs_net.workspace import Workspace


@pytest.fixture
def download(tmp_path):
    return make_download(tmp_path / "download")


@pytest.fixture
def out(tmp_path):
    return tmp_path / "raw" / "Dataset501_SICCS"


def test_siccs_becomes_a_whole_dataset(download, out):
    result = convert_siccs(download, out)
    assert not result.problems
    assert result.cases == ("ssc_0", "ssc_1", "ssc_2")
    dataset = assert_valid(out)
    assert dataset.description.labels == phantom.LABELS
    assert {name: list(values) for name, values in dataset.labels.groups.items()} == phantom.GROUPS
    assert dataset.description.channel_names == {"0": "CT"}
    assert dataset.patients == {"ssc_0": "A", "ssc_1": "A", "ssc_2": "B"}
    function = read_pft(out / "pft.csv", dataset.cases)
    assert function.values["fev1_fvc"] == {"ssc_0": 81.5, "ssc_1": None, "ssc_2": 77.0}
    assert function.values["fev1_pp"] == {"ssc_0": 70.0, "ssc_1": None, "ssc_2": 64.25}
    rows = list(csv.DictReader((out / "patients.csv").open()))
    assert rows[0] == {"case": "ssc_0", "patient": "A", "date": "2019-03-07", "thickness_mm": "1.25"}
    assert siccs.LABELS == phantom.LABELS
    assert siccs.GROUPS == phantom.GROUPS


def test_compressed_files_are_copied_byte_for_byte_and_others_compressed(download, out):
    result = convert_siccs(download, out)
    for number in range(2):
        assert (out / f"imagesTr/ssc_{number}_0000.nii.gz").read_bytes() == (
            download / f"ct/P{number}_ct.nii.gz"
        ).read_bytes()
    inflated = gzip.decompress((out / "labelsTr" / "ssc_2.nii.gz").read_bytes())
    assert inflated == (download / "masks" / "P2_seg.nii").read_bytes()
    assert_same_image(download / "ct" / "P2_ct.nii", out / "imagesTr" / "ssc_2_0000.nii.gz")
    assert {file.status for file in result.written} == {"written"}
    assert len(result.input_sha256) == 6


def test_a_file_whose_ending_lies_about_compression_is_written_right(download, out):
    path = download / "ct" / "P2_ct.nii"
    raw = path.read_bytes()
    path.write_bytes(gzip.compress(raw))
    (download / "ct" / "P1_ct.nii.gz").write_bytes(raw)
    convert_siccs(download, out)
    for name in ("ssc_1", "ssc_2"):
        assert gzip.decompress((out / "imagesTr" / f"{name}_0000.nii.gz").read_bytes()) == raw


def test_a_manifest_of_european_excel_is_read(download, out):
    text = (download / "manifest.csv").read_text()
    european = text.replace(",", ";").replace("81.5", "81,5").replace("64.25", "64,25").replace(";1.25;", ";1,25;")
    (download / "manifest.csv").write_bytes(b"\xef\xbb\xbf" + european.replace("/", "\\").encode())
    assert not convert_siccs(download, out).problems
    assert read_pft(out / "pft.csv", ["ssc_2"]).values["fev1_pp"]["ssc_2"] == 64.25
    assert "ssc_0,A,2019-03-07,1.25" in (out / "patients.csv").read_text()


def test_without_the_optional_columns(download, out, caplog):
    lines = (download / "manifest.csv").read_text().splitlines()
    (download / "manifest.csv").write_text("\n".join(",".join(line.split(",")[:3]) for line in lines))
    assert not convert_siccs(download, out).problems
    assert assert_valid(out).patients is None
    assert not (out / "pft.csv").exists()
    assert "each case counts as a patient of its own" in caplog.text


def test_a_date_without_patients_keeps_each_case_its_own_patient(download, out):
    edit_manifest(download, "patient,", "sex,")
    convert_siccs(download, out)
    assert open_dataset(out).patients == {f"ssc_{number}": f"ssc_{number}" for number in range(3)}


BAD = {
    "unknown label value": (resave(LABEL, put(4)), "label value", ["values 4 (1 voxels)", "expected 0, 1, 2, 3"]),
    "label value not whole": (resave(LABEL, put(1.5, np.float32)), "unreadable file", ["whole numbers", "1.5"]),
    "label elsewhere": (resave(LABEL, lambda array: array, MOVED), "geometry", ["elsewhere in space", "3.000 mm"]),
    "label of another shape": (resave(LABEL, lambda array: array[:-1]), "geometry", ["another shape"]),
    "not finite": (resave(SCAN, put(np.nan, np.float32)), "unreadable file", ["not finite"]),
    "four axes": (resave(SCAN, lambda array: np.stack([array, array], -1)), "unreadable file", ["three axes"]),
    "not NIfTI": (lambda d: (d / SCAN).write_bytes(b"x" * 600), "unreadable file", ["not a NIfTI file"]),
    "truncated": (lambda d: (d / SCAN).write_bytes((d / SCAN).read_bytes()[:-90]), "unreadable file", ["gzip"]),
    "absent": (lambda d: (d / SCAN).rename(d / "ct/P1_cT.nii.gz"), "missing file", ["did you mean P1_cT.nii.gz"]),
    "no path": (lambda d: edit_manifest(d, SCAN, ""), "missing file", ["image in line 3", "no file is named"]),
    "a folder": (lambda d: edit_manifest(d, SCAN, "ct"), "file format", ["is a folder", "DICOM"]),
    "outside": (lambda d: edit_manifest(d, SCAN, "../x.nii.gz"), "manifest", ["does not lie below"]),
    "absolute": (lambda d: edit_manifest(d, SCAN, f"{d}/{SCAN}"), "manifest", ["does not lie below"]),
    "other format": (
        lambda d: ((d / "ct/P1.nrrd").write_bytes(b"NRRD0004"), edit_manifest(d, SCAN, "ct/P1.nrrd")),
        "file format",
        ["not read by this version"],
    ),
    "case twice": (lambda d: edit_manifest(d, "ssc_2", "ssc_1"), "manifest", ["line 4, ssc_1", "has line 3 already"]),
    "file twice": (
        lambda d: edit_manifest(d, SCAN, "ct/P0_ct.nii.gz"),
        "manifest",
        ["line 3, ssc_1", "named in line 2 too"],
    ),
    "bad name": (lambda d: edit_manifest(d, "ssc_1", "-1"), "case name", ["leading dash"]),
    "name of a prepared label": (lambda d: edit_manifest(d, "ssc_1", "ssc_0_seg"), "case name", ["ssc_0_seg"]),
    "no patient": (
        lambda d: edit_manifest(d, "seg.nii.gz,A,,", "seg.nii.gz,,,"),
        "manifest",
        ["line 3, ssc_1", "no patient"],
    ),
    "date": (
        lambda d: edit_manifest(d, "seg.nii.gz,A,,", "seg.nii.gz,A,7.3.2019,"),
        "manifest",
        ["2019-03-07: '7.3.2019'"],
    ),
    "thickness": (lambda d: edit_manifest(d, "A,,,", "A,,thin,"), "manifest", ["thickness_mm", "'thin'"]),
    "lung function": (
        lambda d: edit_manifest(d, "A,,,,", "A,,,,2.1"),
        "lung function",
        ["line 3, case ssc_1, column fev1_pp"],
    ),
    "no case": (lambda d: edit_manifest(d, "ssc_1", ""), "manifest", ["line 3: names no case"]),
    "litres": (
        lambda d: (edit_manifest(d, ",70\n", ",2.1\n"), edit_manifest(d, ",64.25\n", ",3.2\n")),
        "lung function",
        ["column fev1_pp: looks like litres"],
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_each_bad_input_is_one_clear_problem_and_nothing_is_written(download, out, name):
    damage, kind, words = BAD[name]
    damage(download)
    result = convert_siccs(download, out)
    found = [problem for problem in result.errors if problem.kind == kind]
    assert any(all(word in problem.message for word in words) for problem in found), result.problems
    assert {problem.kind for problem in result.errors} == {kind}
    assert result.written == ()
    assert not out.exists()


def test_everything_is_listed_at_once_and_the_good_cases_can_go_on(download, out):
    BAD["unknown label value"][0](download)
    (download / "ct" / "P2_ct.nii").unlink()
    edit_manifest(download, "2019-03-07", "yesterday")
    (download / "manifest.csv").open("a").write("ssc_3,ct/absent.nii.gz,,C,,,,\n")
    good, bad = scan(7)
    save(download / "good.nii.gz", good)
    save(download / "good_label.nii.gz", bad)
    (download / "manifest.csv").open("a").write("ssc_4,good.nii.gz,good_label.nii.gz,D,,,88,90\n")
    result = convert_siccs(download, out)
    assert {problem.case for problem in result.errors} == {"ssc_0", "ssc_1", "ssc_2", "ssc_3"}
    assert not out.exists()
    result = convert_siccs(download, out, skip_bad=True)
    assert result.cases == ("ssc_4",)
    assert len(result.errors) == 5
    assert list(assert_valid(out).cases) == ["ssc_4"]
    assert read_pft(out / "pft.csv", ["ssc_4"]).values == {"fev1_fvc": {"ssc_4": 88.0}, "fev1_pp": {"ssc_4": 90.0}}


@pytest.mark.parametrize("name", ["no case", "litres"])
def test_what_concerns_all_cases_is_not_skipped(download, out, name):
    BAD[name][0](download)
    assert not convert_siccs(download, out, skip_bad=True).written
    assert not out.exists()


def test_an_empty_label_is_a_warning(download, out):
    resave(LABEL, np.zeros_like)(download)
    result = convert_siccs(download, out)
    assert [(problem.severity, problem.kind) for problem in result.problems] == [("warning", "empty label")]
    assert len(result.cases) == 3


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("case,image", "case,picture", "has no column 'image'"),
        ("thickness_mm", "thickness", "'thickness' is not known.*Rename it to thickness_mm"),
        ("patient", "patients", "Rename it to patient"),
        ("fev1_pp", "fev1pp", "Rename it to fev1_pp"),
    ],
)
def test_a_misspelt_column_of_the_manifest(download, out, old, new, words):
    edit_manifest(download, old, new)
    with pytest.raises(DataError, match=words):
        convert_siccs(download, out)


def test_other_columns_of_the_manifest_are_told(download, out, caplog):
    edit_manifest(download, "date", "sex")
    edit_manifest(download, "2019-03-07", "F")
    convert_siccs(download, out)
    assert "the column sex is left out" in caplog.text


def test_a_manifest_of_other_formats_is_refused_by_name(download, out):
    (download / "manifest.csv").write_text("case,image,label\na,a.nrrd,b.nrrd\n")
    with pytest.raises(UnavailableError, match=r"names no NIfTI image.*a\.nrrd"):
        convert_siccs(download, out)


def test_missing_paths(tmp_path, download):
    with pytest.raises(MissingPathError, match=r"absent\.csv"):
        draft_siccs(download, tmp_path / "absent.csv")
    with pytest.raises(MissingPathError, match="the folder does not exist"):
        draft_siccs(tmp_path / "absent", download / "manifest.csv")


def test_a_number_or_a_full_name_says_where(tmp_path):
    workspace = Workspace.resolve(tmp_path)
    raw = tmp_path / "raw"
    assert dataset_folder(workspace, "501", name="SICCS") == raw / "Dataset501_SICCS"
    assert dataset_folder(workspace, "7", name="SICCS", root=tmp_path) == tmp_path / "Dataset007_SICCS"
    assert dataset_folder(workspace, "Dataset502_A.b-c") == raw / "Dataset502_A.b-c"
    assert task_name(tmp_path / "Task06_Lung") == (6, "Lung")
    assert task_name(tmp_path / "chest") == (None, "chest")


@pytest.mark.parametrize("dataset", [None, "", "501", "Dataset1_A", "Dataset501_", "Dataset501_a/b", "Dataset501_.."])
def test_a_name_that_is_none(tmp_path, dataset):
    with pytest.raises(UsageError, match=r"no usable name.*DatasetXXX_Name"):
        dataset_folder(Workspace.resolve(tmp_path), dataset)


def test_nnunets_raw_folder_is_read_and_never_written(tmp_path, monkeypatch, download):
    monkeypatch.setenv("nnUNet_raw", str(tmp_path / "shared"))
    workspace = Workspace.resolve(tmp_path)
    assert dataset_folder(workspace, "501", name="SICCS") == tmp_path / "raw" / "Dataset501_SICCS"
    convert_siccs(download, tmp_path / "shared" / "Dataset501_Other")
    with pytest.raises(UsageError, match="Dataset501_Other: another dataset has the number 501"):
        dataset_folder(workspace, "501", name="SICCS")
    assert dataset_folder(workspace, "Dataset501_Other") == tmp_path / "raw" / "Dataset501_Other"
