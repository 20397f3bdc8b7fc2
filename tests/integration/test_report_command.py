"""siccs_report from trained folds to the page; a wrong lung function table is one error that names its row."""

from __future__ import annotations

import csv
import re
import shutil

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
    """Counted from the raw labels, with nibabel alone."""
    import nibabel
    import numpy as np

    assert report(trained, tmp_path / "out") == 0
    made = Report.from_json((tmp_path / "out" / "report.json").read_text())
    for case in made.cases:
        labels = np.asarray(nibabel.load(trained.dataset.cases[case.case].label).dataobj)
        lung = np.isin(labels, (1, 2, 3)).sum()
        assert case.reference_percent["EF+GGO"] == pytest.approx(100 * np.isin(labels, (2, 3)).sum() / lung)
        assert case.reference_ml["EF"] == pytest.approx((labels == 2).sum() * 5 * 4 * 4 / 1000)
        assert case.slice_thickness_mm == 5.0
    assert made.table2 == ()
    assert not (tmp_path / "out" / "figure3.png").exists()


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
