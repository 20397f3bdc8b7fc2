"""siccs_report from trained folds to the page; a wrong lung function table is one error that names its row."""

from __future__ import annotations

import csv
import json
import re
import shutil
from dataclasses import replace

import pytest

from siccs_net.cli.process import run_command
from siccs_net.pipeline.train import train
from siccs_net.records.report import Report

QUICK = {"epochs": 1, "iterations_per_epoch": 1, "workers": 0, "validation_patches": 1, "batch_size": 1}
PFT = [("case", "fev1_fvc", "fev1_pp"), *((f"tiny_{n:03d}", f"{90 - n}", f"{80 - 3 * n}") for n in range(8))]


@pytest.fixture(scope="module")
def trained(ready):
    train(ready.dataset, ready.plan, "3d_fullres", settings=QUICK, device="cpu", workspace=ready.workspace)
    return ready


def write_pft(path, rows):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return str(path)


def report(ready, output, *arguments):
    return run_command("report", [ready.dataset.name, "--workspace", str(ready.root), "-o", str(output), *arguments])


def test_the_whole_report(trained, tmp_path, capsys):
    pft = write_pft(tmp_path / "pft.csv", PFT)
    assert report(trained, tmp_path / "out", "--pft", pft, "--palette", "colour_blind") == 0
    said = capsys.readouterr().out
    assert "Table 1" in said
    assert "FEV1 (% predicted)" in said
    made = Report.from_json((tmp_path / "out" / "report.json").read_text())
    assert sorted(case.case for case in made.cases) == sorted(trained.dataset.cases)
    assert [row.metric for row in made.table2] == ["fev1_fvc", "fev1_pp"]
    assert made.table2[0].reference.n == 8
    page = (tmp_path / "out" / "report.html").read_text()
    for name in ("figure1", "figure2", "figure3"):
        assert (tmp_path / "out" / f"{name}.png").is_file()
        assert (tmp_path / "out" / f"{name}.svg").is_file()
    assert not re.findall(r"(?:src|href)\s*=\s*[\"']https?:", page)
    assert len(made.methods) == 5
    assert all(path in page for path in made.assumed)


def test_volumes_are_those_of_the_label_files(trained, tmp_path):
    """Counted from the raw labels, with nibabel alone; of an earlier report's figures nothing is left."""
    import nibabel
    import numpy as np

    (tmp_path / "out").mkdir()
    for name in ("report.json", "figure3.png", "figure3.csv", "mine.png"):
        (tmp_path / "out" / name).write_bytes(b"earlier")
    assert report(trained, tmp_path / "out") == 0
    made = Report.from_json((tmp_path / "out" / "report.json").read_text())
    for case in made.cases:
        labels = np.asarray(nibabel.load(trained.dataset.cases[case.case].label).dataobj)
        lung = np.isin(labels, (1, 2, 3)).sum()
        assert case.reference_percent["EF+GGO"] == pytest.approx(100 * np.isin(labels, (2, 3)).sum() / lung)
        assert case.reference_ml["EF"] == pytest.approx((labels == 2).sum() * 5 * 4 * 4 / 1000)
        assert case.slice_thickness_mm == 5.0
    assert made.table2 == ()
    assert not list((tmp_path / "out").glob("figure3*"))
    assert (tmp_path / "out" / "mine.png").exists()
    assert "no patients are named" in made.methods[0]
    (by_hand,) = [note for note in made.notes if note.startswith("Not as in the preset demo")]
    assert "patch_size" in by_hand
    assert "configurations" not in by_hand
    assert any("distance between slices in every case" in note for note in made.notes)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda rows: rows[:-1], r"tiny_007"),
        (lambda rows: [*rows[:3], ("tiny_002", "eighty", "70"), *rows[4:]], r"line 4.*tiny_002.*fev1_fvc.*eighty"),
        (lambda rows: [*rows, ("tiny_003", "80", "70")], r"line 10.*tiny_003.*line 5"),
        (lambda rows: [rows[0], *((case, ratio, "2.1") for case, ratio, _ in rows[1:])], r"litres"),
        (lambda rows: [rows[0], *((case, "0.8", fev1) for case, _, fev1 in rows[1:])], r"fev1_fvc"),
        (lambda rows: [("patient", *rows[0][1:]), *rows[1:]], r"case"),
    ],
    ids=["missing case", "text", "twice", "litres", "fraction", "no case column"],
)
def test_a_wrong_table_is_one_error_that_names_the_row(trained, tmp_path, capsys, change, words):
    pft = write_pft(tmp_path / "pft.csv", change(PFT))
    assert report(trained, tmp_path / "out", "--pft", pft) == 4
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("siccs_report:")]
    assert "pft.csv" in line
    assert re.search(words, line), line
    assert not (tmp_path / "out").exists()


def test_an_unfinished_cross_validation_is_refused_or_partial(trained, tmp_path, capsys):
    source = trained.workspace.results / trained.dataset.name / "SiccsTrainer__demo__3d_fullres"
    copy = tmp_path / "half"
    shutil.copytree(source, copy)
    shutil.rmtree(copy / "fold_3")
    assert report(trained, tmp_path / "out", "-m", str(copy)) == 4
    assert "6 of 8 cases" in capsys.readouterr().err
    assert report(trained, tmp_path / "out", "-m", str(copy), "--partial") == 0
    made = Report.from_json((tmp_path / "out" / "report.json").read_text())
    assert any("Partial report: 6 of 8" in note for note in made.notes)


def test_a_model_against_itself_does_not_differ(trained, tmp_path):
    source = trained.workspace.results / trained.dataset.name / "SiccsTrainer__demo__3d_fullres"
    assert report(trained, tmp_path / "out", "--against", str(source)) == 0
    made = Report.from_json((tmp_path / "out" / "report.json").read_text())
    assert made.compared_with == source.name
    assert all(row.dice_percent.mean_difference in (0.0, None) for row in made.comparison)
    assert all(row.dice_percent.wilcoxon_p_holm in (1.0, None) for row in made.comparison)


def model_of(ready):
    return ready.workspace.results / ready.dataset.name / "SiccsTrainer__demo__3d_fullres"


def made_in(folder):
    return Report.from_json((folder / "report.json").read_text())


def copied(ready, root):
    """A copy of the workspace, to be changed."""
    shutil.copytree(ready.root, root)
    return replace(ready, root=root)


def error_of(capsys):
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("siccs_report:")]
    return line


def test_a_fold_without_validation_is_named_and_does_not_count(trained, tmp_path, capsys):
    copy = tmp_path / "half"
    shutil.copytree(model_of(trained), copy)
    (copy / "fold_2" / "validation" / "summary.json").unlink()
    assert report(trained, tmp_path / "out", "-m", str(copy)) == 4
    assert "6 of 8 cases, none for fold 2" in error_of(capsys)
    assert report(trained, tmp_path / "out", "-m", str(copy), "--partial") == 0
    made = made_in(tmp_path / "out")
    assert made.folds == 3
    assert "4-fold cross-validation, of which 3 are finished" in made.methods[0]


def test_a_model_of_another_dataset_is_refused_though_its_cases_are_called_alike(trained, tmp_path, capsys):
    copy = tmp_path / "other"
    shutil.copytree(model_of(trained), copy)
    record = json.loads((copy / "model.json").read_text())
    (copy / "model.json").write_text(json.dumps({**record, "dataset_name": "Dataset998_Other"}))
    for option in ("-m", "--against"):
        assert report(trained, tmp_path / "out", option, str(copy)) == 4
        assert "another dataset; found Dataset998_Other; expected Dataset999_Tiny" in error_of(capsys)


def test_what_the_dataset_brings_is_used_and_said(trained, tmp_path):
    """Slice thickness (where unknown, the distance between slices), patients, folds and lung function."""
    ready = copied(trained, tmp_path / "workspace")
    raw = ready.root / "raw" / ready.dataset.name
    thickness = ["0,7", "0.9", "1", *["2.5"] * 4, ""]
    rows = [(f"tiny_{n:03d}", f"P{n // 2}", known) for n, known in enumerate(thickness)]
    write_pft(raw / "patients.csv", [("case", "patient", "thickness_mm"), *rows])
    pft = write_pft(raw / "pft.csv", PFT)
    shutil.copy(ready.root / "preprocessed" / ready.dataset.name / "splits_final.json", raw)
    assert report(ready, tmp_path / "out", "--report", str(tmp_path / "run.json")) == 0
    made = made_in(tmp_path / "out")
    by_case = {case.case: case.slice_thickness_mm for case in made.cases}
    assert [by_case[case] for case in sorted(by_case)] == [0.7, 0.9, 1.0, 2.5, 2.5, 2.5, 2.5, 5.0]
    assert [(row.dice_percent.n_first, row.dice_percent.n_second) for row in made.subgroups if row.name == "lung"] == [
        (2, 6)
    ]
    assert any("distance between slices in 1 of 8 cases" in note for note in made.notes)
    assert any("4 of 4 patients have several scans" in note for note in made.notes)
    assert "slices of 0.7 to 5 mm" in made.methods[0]
    assert "came with the dataset" in made.methods[0]
    assert "stratified" not in made.methods[0]
    record = json.loads((tmp_path / "run.json").read_text())
    assert list(record["inputs_sha256"]) == [pft]
    assert record["settings"]["thin_below_mm"] == 1.0
    assert any(path.endswith("report.html") for path in record["outputs_sha256"])


def test_what_is_not_there_is_named(trained, tmp_path, capsys):
    out = tmp_path / "out"
    out.write_text("a file")
    assert report(trained, out) == 2
    assert "is a file, not a folder" in error_of(capsys)
    copy = tmp_path / "copy"
    shutil.copytree(model_of(trained), copy)
    for mask in copy.glob("fold_*/validation/*.nii.gz"):
        mask.unlink()
    assert report(trained, tmp_path / "new", "-m", str(copy)) == 2
    assert "validation" in error_of(capsys)
    assert not (tmp_path / "new").exists()
    ready = copied(trained, tmp_path / "workspace")
    path = ready.root / "preprocessed" / ready.dataset.name / "fingerprint.json"
    fingerprint = json.loads(path.read_text())
    path.write_text(json.dumps({**fingerprint, "cases": fingerprint["cases"][1:]}))
    assert report(ready, tmp_path / "new") == 4
    assert "lacks cases of the dataset; found no tiny_000" in error_of(capsys)
    path.unlink()
    assert report(ready, tmp_path / "new") == 2
    assert "Run siccs_plan_and_preprocess" in error_of(capsys)


@pytest.mark.parametrize("option", [("--thin-below", "nan"), ("--thin-below", "-1"), ("--seed", "-1")], ids=" ".join)
def test_numbers_that_make_no_sense_are_refused(trained, tmp_path, option, capsys):
    with pytest.raises(SystemExit) as stopped:
        report(trained, tmp_path / "out", *option)
    assert stopped.value.code == 2
    assert option[0] in capsys.readouterr().err
