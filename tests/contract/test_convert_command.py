"""siccs_convert as it is typed: its sources' own help, exit codes, what is printed, and its run report."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys

import pytest

from siccs_net.io.dataset import open_dataset
from siccs_net.io.pft import read_pft
from siccs_net.testing.tiny import write_tiny_dataset


def _run(*arguments, cwd=None):
    code = "from siccs_net.cli.main import convert; convert()"
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, cwd=cwd, timeout=120
    )


@pytest.fixture
def deposit(tmp_path):
    """Four scans and masks side by side, as an archive may hold them."""
    raw = write_tiny_dataset(tmp_path / "made", cases=4)
    folder = tmp_path / "deposit"
    folder.mkdir()
    for number in range(4):
        shutil.move(raw / "imagesTr" / f"tiny_{number:03d}_0000.nii.gz", folder / f"S{number}_ct.nii.gz")
        shutil.move(raw / "labelsTr" / f"tiny_{number:03d}.nii.gz", folder / f"S{number}_label.nii.gz")
    return folder


@pytest.mark.parametrize(("source", "word"), [("siccs", "--manifest"), ("msd", "TaskXX_Name"), ("pairs", "--channel")])
def test_each_source_has_its_own_help(source, word):
    done = _run(source, "--help")
    assert done.returncode == 0
    for words in (word, "--workspace", "--report", "--quiet", "exit codes", "example:", "-np", "--skip-bad", "--link"):
        assert words in done.stdout


def test_from_a_folder_to_a_dataset_by_a_first_manifest(deposit, tmp_path):
    manifest = tmp_path / "manifest.csv"
    (deposit / "S3_label.nii.gz").unlink()
    done = _run("siccs", "-i", deposit, "--write-manifest", manifest)
    assert done.returncode == 0, done.stderr
    assert "image without label" in done.stdout
    assert "S3_ct.nii.gz" in done.stdout
    assert "3 cases" in done.stdout
    assert _run("siccs", "-i", deposit, "--write-manifest", manifest).returncode == 0
    manifest.write_text(manifest.read_text().replace("S0_label.nii.gz,,,,,,,", "S0_label.nii.gz,,,,81,70,,"))
    assert _run("siccs", "-i", deposit, "--write-manifest", manifest).returncode == 2
    report = tmp_path / "run.json"
    done = _run(
        "--report", report, "siccs", "-i", deposit, "--manifest", manifest, "-d", "501", "-o", tmp_path, "-np", 2
    )
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "Dataset501_SICCS"
    assert f"{folder}: 3 cases, 8 files written; 0 errors" in done.stdout
    assert f"siccs_validate {folder}" in done.stdout
    assert list(open_dataset(folder).cases) == ["S0", "S1", "S2"]
    assert read_pft(folder / "pft.csv", ["S0", "S1"]).values["fev1_pp"] == {"S0": 70.0, "S1": None}
    record = json.loads(report.read_text())
    read = [manifest, *(deposit / f"S{number}_{kind}.nii.gz" for number in range(3) for kind in ("ct", "label"))]
    written = [*folder.glob("*Tr/*"), folder / "dataset.json", folder / "pft.csv"]
    assert record["inputs_sha256"] == {str(path): _sha256(path) for path in read}
    assert record["outputs_sha256"] == {str(path): _sha256(path) for path in written}
    assert record["results"] == {"cases": ["S0", "S1", "S2"], "errors": 0, "warnings": 0}


def test_a_bad_batch_is_exit_code_4_with_and_without_skipping(deposit, tmp_path):
    (deposit / "S1_ct.nii.gz").write_bytes(b"damaged" * 100)
    manifest = tmp_path / "manifest.csv"
    _run("siccs", "-i", deposit, "--write-manifest", manifest)
    command = ["siccs", "-i", deposit, "--manifest", manifest, "-d", "501", "--workspace", tmp_path]
    done = _run(*command)
    assert done.returncode == 4
    assert "error    unreadable file" in done.stdout
    assert "S1" in done.stdout
    assert "nothing was written: 1 errors" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "raw").exists()
    done = _run(*command, "--skip-bad", "--quiet")
    assert done.returncode == 4
    assert "3 cases" in done.stdout
    assert list(open_dataset(tmp_path / "raw" / "Dataset501_SICCS").cases) == ["S0", "S2", "S3"]
    assert _run(*command, "--skip-bad").returncode == 2


def test_pairs_as_typed(deposit, tmp_path):
    for kind in ("ct", "label"):
        (tmp_path / kind).mkdir()
        for path in deposit.glob(f"*_{kind}*"):
            path.rename(tmp_path / kind / path.name)
    names = ["--labels", "normal_lung=1", "EF=2", "GGO=3"]
    done = _run("pairs", "-i", "ct", "-l", "label", "-d", "Dataset502_P", "-o", ".", *names, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert open_dataset(tmp_path / "Dataset502_P").description.labels["GGO"] == 3


def test_options_of_every_command_may_stand_before_or_after_the_source(deposit, tmp_path):
    for number, command in enumerate((["--quiet", "siccs"], ["siccs", "--quiet"])):
        done = _run(*command, "-i", deposit, "--write-manifest", tmp_path / f"{number}.csv")
        assert done.returncode == 0
    arguments = ["-i", deposit, "--manifest", tmp_path / "0.csv"]
    said = _run("--quiet", "siccs", *arguments, "-d", "501", "--workspace", tmp_path)
    assert "workspace" not in said.stderr
    assert "workspace (--workspace)" in _run("siccs", *arguments, "-d", "502", "--workspace", tmp_path).stderr
    assert "workspace (--workspace)" in _run("--workspace", tmp_path, "siccs", *arguments, "-d", "503").stderr


def _sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()
