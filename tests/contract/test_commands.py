"""Every command: help without torch in under half a second, exit codes, one-line errors, run reports."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from siccs_net.testing.tiny import write_tiny_dataset

VERBS = ("demo", "report", "validate", "plan_and_preprocess", "train", "predict", "evaluate", "convert", "doctor")
VERBS += ("find_best_configuration", "ensemble", "accumulate", "overlay", "export_model", "import_model")


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
        ("convert", [], 2, "siccs|msd|pairs"),
        ("convert", ["siccs", "-i", "absent", "--manifest", "absent.csv", "-d", "501"], 2, "absent: the folder"),
        ("convert", ["siccs", "-i", ".", "--manifest", "absent.csv", "-d", "501"], 2, "absent.csv: the file"),
        ("convert", ["siccs", "-i", ".", "--manifest", "absent.csv"], 2, "expected DatasetXXX_Name"),
        ("convert", ["msd", "-i", "absent", "-d", "501"], 2, "absent: the folder has no dataset.json"),
        ("convert", ["pairs", "-i", "absent", "-l", "absent", "-d", "Dataset501_A"], 2, "absent: the folder"),
        ("convert", ["pairs", "-i", ".", "-l", ".", "-d", "501"], 2, "expected DatasetXXX_Name"),
        ("find_best_configuration", [], 2, "DATASET"),
        ("find_best_configuration", ["501", "--workspace", "nowhere"], 2, "no dataset"),
        ("ensemble", ["-i", "a", "-o", "out"], 2, "two members at least"),
        ("ensemble", ["-i", "a", "b", "-o", "out"], 2, "a: the folder does not exist"),
        ("ensemble", ["-i", "a", "b", "-o", "out", "--weights", "1"], 2, "2 numbers"),
        ("ensemble", ["-i", "a", "b", "-o", "b"], 2, "one of the members"),
        ("ensemble", ["-i", "a", "-m", "x", "y", "-o", "out"], 2, "x"),
        ("accumulate", ["-m", "absent", "-o", "out"], 2, "not a model folder"),
        ("overlay", ["-i", "absent", "-s", "absent", "-o", "out"], 2, "absent: the folder does not exist"),
        ("overlay", ["-i", "a", "-s", "a", "-o", "out", "--window", "5", "1"], 2, "window"),
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
    for words in ("GiB of RAM", "epochs: the trainer's default", "depends on the device", "nothing was written"):
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
        (["--set", "training.epoch=3"], "Did you mean epochs"),
        (["--set", "training.epochs=0"], "epochs"),
        (["--set", "trainer=SiccsTrainr"], "Did you mean SiccsTrainer"),
        (["--set", "trainer=pathlib:Path"], "not a siccs_net trainer"),
        (["--plan-name", "../elsewhere"], "cannot be called '../elsewhere'"),
        (["--set", "name=a__b"], "cannot be called 'a__b'"),
    ],
)
def test_wrong_plan_settings_name_the_right_ones(tmp_path, arguments, words):
    write_tiny_dataset(tmp_path / "raw" / "Dataset999_Tiny", cases=3)
    chosen = [] if "-c" in arguments else ["-c", "3d_fullres"]
    done = _run("plan_and_preprocess", "-d", "999", "--workspace", tmp_path, "--dry-run", *chosen, *arguments)
    assert done.returncode == 2, done.stderr
    assert words in done.stderr


def test_a_dry_run_counts_the_iterations_of_stated_epochs(tmp_path):
    write_tiny_dataset(tmp_path / "raw" / "Dataset999_Tiny", cases=8)
    command = ["-d", "999", "--workspace", tmp_path, "--dry-run", "-c", "3d_fullres", "-np", "3"]
    done = _run("plan_and_preprocess", *command, "--set", "training.epochs=3", "iterations_per_epoch=10")
    assert "30 iterations a fold (3 epochs), 240 for 8 folds" in done.stdout, done.stderr
    assert "3 at a time" in done.stdout


def test_planning_reports_the_hashes_of_what_it_read_and_wrote(tmp_path):
    root = write_tiny_dataset(tmp_path / "raw" / "Dataset999_Tiny", cases=3)
    report = tmp_path / "run.json"
    command = ["-d", "999", "--workspace", tmp_path, "-c", "3d_fullres", "--no-preprocess", "--report", report]
    done = _run("plan_and_preprocess", *command, "--set", "batch_size=3")
    assert done.returncode == 0, done.stderr
    record = json.loads(report.read_text())
    assert record["inputs_sha256"] == {str(path): _sha256(path) for path in sorted(root.glob("*Tr/*.nii.gz"))}
    prepared = tmp_path / "preprocessed" / "Dataset999_Tiny"
    written = {str(prepared / name) for name in ("plans/convnext.json", "splits_final.json", "fingerprint.json")}
    assert record["outputs_sha256"] == {path: _sha256(path) for path in written}
    assert record["settings"]["set"] == {"batch_size": 3}


def test_validate_and_evaluate_report_the_hashes_of_what_they_read(tmp_path):
    root = write_tiny_dataset(tmp_path / "Dataset999_Tiny", cases=2)
    first, second = tmp_path / "validate.json", tmp_path / "evaluate.json"
    assert _run("validate", root, "--report", first).returncode == 0
    images = {str(path): _sha256(path) for path in root.glob("*Tr/*.nii.gz")}
    assert json.loads(first.read_text())["inputs_sha256"] == images
    masks = root / "labelsTr"
    done = _run("evaluate", "-i", masks, "-r", masks, "-o", tmp_path / "out", "--report", second, "--no-surface")
    assert done.returncode == 0, done.stderr
    wanted = {str(path): _sha256(path) for path in [*masks.glob("*.nii.gz"), root / "dataset.json"]}
    assert json.loads(second.read_text())["inputs_sha256"] == wanted


def test_training_reports_the_hashes_of_the_scans_it_learned_from(tmp_path):
    root = write_tiny_dataset(tmp_path / "raw" / "Dataset999_Tiny", cases=3)
    where, report = ["--workspace", tmp_path, "--quiet"], tmp_path / "run.json"
    planned = _run("plan_and_preprocess", "-d", "999", "--preset", "demo", "--folds", "3", *where)
    assert planned.returncode == 0, planned.stderr
    settings = ["--set", "epochs=1", "iterations_per_epoch=1", "workers=0", "--device", "cpu"]
    done = _run("train", "999", "3d_fullres", "0", *settings, "--report", report, *where)
    assert done.returncode == 0, done.stderr
    record = json.loads(report.read_text())
    assert record["inputs_sha256"] == {str(path): _sha256(path) for path in root.glob("*Tr/*.nii.gz")}
    assert record["settings"]["epochs"] == 1
    weights = next(tmp_path.glob("results/*/*/fold_0/final.safetensors"))
    assert record["outputs_sha256"] == {str(weights): _sha256(weights)}


def test_the_demo_reports_its_figures_and_picture(tmp_path, monkeypatch, capsys):
    from argparse import Namespace

    from siccs_net.cli import demo
    from siccs_net.cli.process import Run
    from siccs_net.evaluation import summary as summaries
    from siccs_net.records.metrics import Summary

    monkeypatch.setattr(demo, "_mean_dice", lambda summary, name: 0.5)
    monkeypatch.setattr(summaries, "summary_table", lambda summary: "")
    picture = tmp_path / "overlay.png"
    picture.write_bytes(b"picture")
    run = Run("demo", Namespace(output=tmp_path, seed=3))
    empty = Summary.model_construct(folds={})
    demo._finish(run, empty, empty, picture, 1.0)
    figures = tmp_path / "summary.json"
    assert run.outputs == {str(figures): _sha256(figures), str(picture): _sha256(picture)}
    assert run.settings["seed"] == 3
    assert str(figures) in capsys.readouterr().out


def _sha256(path):
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


@pytest.mark.parametrize(("cases", "code"), [(2, 3), (0, 4)])
def test_a_report_that_cannot_be_written_is_one_line(tmp_path, cases, code):
    root = write_tiny_dataset(tmp_path / "Dataset999_Tiny", cases=2)
    for path in sorted(root.glob("labelsTr/*"))[cases:]:
        path.unlink()
    (tmp_path / "file").write_text("in the way")
    done = _run("validate", root, "--report", tmp_path / "file" / "run.json")
    assert done.returncode == code
    assert "the report was not written" in done.stderr
    assert "Traceback" not in done.stderr


class OutOfMemoryError(RuntimeError):
    """As torch calls its own."""


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (OutOfMemoryError("CUDA out of memory.\nTried to allocate"), 3, "the device is out of memory"),
        (RuntimeError("CUDA error: out of memory"), 3, "the device is out of memory"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), 3, "out of memory. Use fewer"),
        (RuntimeError("not enough memory: you tried to allocate 3 GB"), 3, "out of memory. Use fewer"),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "), 5, "a loader worker died"),
        (RuntimeError("shapes\ndiffer"), 5, "internal error: RuntimeError: shapes differ"),
        (MemoryError(), 3, "out of memory. Use fewer"),
    ],
)
def test_unexpected_errors_are_told_apart(monkeypatch, capsys, error, code, words):
    from siccs_net.cli import process, validate

    def fail(run):
        raise error

    monkeypatch.setattr(validate, "run", fail)
    monkeypatch.setattr(process, "_set_up", lambda args: None)
    assert process.run_command("validate", ["501"]) == code
    said = capsys.readouterr().err
    assert words in said
    assert said.count("\n") == 1


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
