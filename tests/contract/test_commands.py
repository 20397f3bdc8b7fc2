"""Every command: help without torch in under half a second, exit codes, one-line errors, run reports."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import pytest

from siccs_net.testing.tiny import write_tiny_dataset

VERBS = ("demo", "validate", "plan_and_preprocess", "train", "predict", "evaluate", "doctor")


def _run(verb, *arguments, cwd=None, env=None):
    code = f"from siccs_net.cli.main import {verb}; {verb}()"
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=env,
        timeout=120,
    )


@pytest.mark.parametrize("verb", VERBS)
def test_help_is_fast_and_needs_no_torch(verb):
    code = (
        "import sys\n"
        f"from siccs_net.cli.main import {verb}\n"
        "sys.argv[1:] = ['--help']\n"
        "try:\n"
        f"    {verb}()\n"
        "finally:\n"
        "    heavy = sorted({'torch', 'numpy', 'nibabel', 'pydantic'} & set(sys.modules))\n"
        "    print('HEAVY', heavy)\n"
    )
    seconds = []
    for _ in range(3):
        started = time.monotonic()
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        seconds.append(time.monotonic() - started)
    assert done.returncode == 0, done.stderr
    assert "HEAVY []" in done.stdout
    assert min(seconds) < 0.5
    for words in ("--workspace", "--report", "--quiet", "--verbose", "exit codes", "example:", f"siccs_{verb}"):
        assert words in done.stdout


def test_importing_the_library_needs_no_torch():
    code = "import sys, siccs_net; print('torch' in sys.modules, sorted(siccs_net.__all__)[0])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.split() == ["False", "Dataset"]


def test_every_public_name_is_there():
    import siccs_net

    for name in siccs_net.__all__:
        assert getattr(siccs_net, name) is not None
    assert set(siccs_net.__all__) <= set(dir(siccs_net))
    with pytest.raises(AttributeError):
        siccs_net.no_such_name  # noqa: B018


@pytest.mark.parametrize(
    ("verb", "arguments", "code", "words"),
    [
        ("validate", [], 2, "DATASET"),
        ("validate", ["501", "--workspace", "nowhere"], 2, "no dataset '501'"),
        ("plan_and_preprocess", [], 2, "no dataset was named"),
        ("plan_and_preprocess", ["-d", "1", "--workspace", "nowhere"], 2, "no dataset"),
        ("train", [], 2, "a dataset and a configuration"),
        ("train", ["1", "2d", "0", "--resume", "--overwrite"], 2, "contradict"),
        ("predict", ["-i", "absent", "-o", "out"], 2, "no model was named"),
        ("predict", ["-i", "absent", "-o", "out", "-m", "absent"], 2, "not a model folder"),
        ("evaluate", ["-i", "absent", "-r", "absent", "-o", "out"], 2, "absent"),
        ("doctor", ["--device", "cuda:9", "--no-self-test"], 3, "cuda"),
        ("doctor", ["--device", "abacus"], 2, "abacus"),
    ],
)
def test_wrong_use_is_one_line_and_a_code(tmp_path, verb, arguments, code, words):
    done = _run(verb, *arguments, cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_validate_reports_all_problems_and_writes_its_report(tmp_path):
    root = write_tiny_dataset(tmp_path / "Dataset999_Tiny", cases=3)
    (root / "labelsTr" / "tiny_000.nii.gz").unlink()
    (root / "imagesTr" / "tiny_001_0000.nii.gz").write_bytes(b"x" * 400)
    report, problems = tmp_path / "run.json", tmp_path / "problems.json"
    done = _run("validate", root, "--report", report, "--json", problems)
    assert done.returncode == 4
    assert "tiny_000" in done.stdout
    assert "tiny_001" in done.stdout
    assert {item["case"] for item in json.loads(problems.read_text()) if item["severity"] == "error"} == {
        "tiny_000",
        "tiny_001",
    }
    record = json.loads(report.read_text())
    assert record["exit_code"] == 4
    assert record["results"]["errors"] == 2
    assert record["versions"]["torch"]
    assert len(record["outputs_sha256"][str(problems)]) == 64


def test_verbose_shows_the_traceback(tmp_path):
    done = _run("validate", "501", "--workspace", tmp_path, "--verbose")
    assert "Traceback" in done.stderr


def test_a_dry_run_prints_the_plan_and_writes_nothing(tmp_path):
    write_tiny_dataset(tmp_path / "raw" / "Dataset999_Tiny", cases=8)
    done = _run("plan_and_preprocess", "-d", "999", "--workspace", tmp_path, "--dry-run")
    assert done.returncode == 0, done.stderr
    for words in ("2d", "3d_fullres", "patch size", "expected memory", "GiB on disk", "assumed", "8 folds"):
        assert words in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["raw"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-pl", "convnxt"], "Did you mean convnext"),
        (["--preset", "vahdani"], "Did you mean vahdani2026"),
        (["-c", "3d_lowres"], "no configuration 3d_lowres"),
        (["--set", "patch_sise=[1]"], "Did you mean patch_size"),
        (["--set", "patch_size=[7,7,7]"], "multiple of the network's total stride"),
        (["--set", "spacing_mm=[1,1]"], "three positive numbers"),
    ],
)
def test_wrong_plan_settings_name_the_right_ones(tmp_path, arguments, words):
    write_tiny_dataset(tmp_path / "raw" / "Dataset999_Tiny", cases=3)
    chosen = [] if "-c" in arguments else ["-c", "3d_fullres"]
    done = _run("plan_and_preprocess", "-d", "999", "--workspace", tmp_path, "--dry-run", *chosen, *arguments)
    assert done.returncode == 2, done.stderr
    assert words in done.stderr


def test_lists(tmp_path):
    assert "SiccsTrainer" in _run("train", "--list-trainers").stdout
    assert "vahdani2026" in _run("plan_and_preprocess", "--list-presets").stdout
    assert "nnunet_resenc_xl" in _run("plan_and_preprocess", "--list-planners").stdout


@pytest.mark.slow
def test_doctor_tests_the_machine():
    done = _run("doctor", "--device", "cpu")
    assert done.returncode == 0, done.stderr
    for words in ("torch", "processor cores", "self-test", "passed"):
        assert words in done.stdout
