"""Killed at any moment and resumed, a deterministic training ends with the same weights, bit by bit."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest

EPOCHS = 3
KILLS = int(os.environ.get("SICCS_KILLS", "4"))


def _command(ready, *more):
    arguments = ["999", "3d_fullres", "0", "--workspace", str(ready), "--device", "cpu", "--deterministic"]
    code = "from siccs_net.cli.main import train; train()"
    settings = ["--set", f"epochs={EPOCHS}", "workers=1", "validation_patches=2"]
    return [sys.executable, "-c", code, *arguments, *settings, *more]


def _fold(root):
    return root / "results" / "Dataset999_Tiny" / "SiccsTrainer__demo__3d_fullres" / "fold_0"


def _sha(root):
    return hashlib.sha256((_fold(root) / "final.safetensors").read_bytes()).hexdigest()


def _copy(ready, target):
    shutil.copytree(ready.root, target, ignore=shutil.ignore_patterns("results"))
    return target


@pytest.fixture(scope="module")
def undisturbed(ready, tmp_path_factory):
    root = _copy(ready, tmp_path_factory.mktemp("undisturbed") / "w")
    started = time.monotonic()
    subprocess.run(_command(root), check=True, capture_output=True)
    return _sha(root), time.monotonic() - started, root


@pytest.mark.slow
def test_sigkill_at_random_moments_then_resume(ready, undisturbed, tmp_path):
    """Each kill falls at a random moment of the run, before the first state and after the last included."""
    expected, seconds, _ = undisturbed
    rng = random.Random(7)
    for number in range(KILLS):
        root = _copy(ready, tmp_path / f"kill_{number}")
        process = subprocess.Popen(_command(root), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(rng.uniform(0.3, max(seconds, 0.5)))
        process.send_signal(signal.SIGKILL)
        process.wait()
        done = subprocess.run(_command(root, "--resume"), capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert _sha(root) == expected
        lines = [json.loads(line) for line in (_fold(root) / "log.jsonl").read_text().splitlines()]
        assert [line["epoch"] for line in lines] == list(range(EPOCHS))


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_the_step_and_exits_with_its_code(ready, undisturbed, tmp_path, number, code):
    expected, _, _ = undisturbed
    root = _copy(ready, tmp_path / "signal")
    process = subprocess.Popen(_command(root), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    while not (_fold(root) / "log.jsonl").exists() and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code, errors
    assert "--resume" in errors
    assert list(_fold(root).glob("state-*.json"))
    subprocess.run(_command(root, "--resume"), check=True, capture_output=True)
    assert _sha(root) == expected


@pytest.mark.slow
def test_the_number_of_workers_changes_nothing(ready, undisturbed, tmp_path):
    root = _copy(ready, tmp_path / "workers")
    subprocess.run([*_command(root), "workers=0"], check=True, capture_output=True)
    assert _sha(root) == undisturbed[0]


@pytest.mark.slow
def test_runs_that_are_there_are_not_overwritten_silently(undisturbed):
    root = undisturbed[2]
    before = _sha(root)
    again = subprocess.run(_command(root), capture_output=True, text=True)
    assert again.returncode != 0
    assert "--resume" in again.stderr
    assert "--overwrite" in again.stderr
    assert again.returncode == 2
    other = subprocess.run([*_command(root), "--resume", "--set", "learning_rate=0.5"], capture_output=True, text=True)
    assert other.returncode == 2
    assert "other settings" in other.stderr
    same = subprocess.run(_command(root, "--resume"), capture_output=True, text=True)
    assert same.returncode == 0  # the fold is finished: nothing is trained
    assert _sha(root) == before


@pytest.mark.slow
def test_a_stop_file_ends_after_the_epoch_and_resume_goes_on(ready, undisturbed, tmp_path):
    root = _copy(ready, tmp_path / "stop")
    process = subprocess.Popen(_command(root), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not (_fold(root) / "log.jsonl").exists() and process.poll() is None:
        time.sleep(0.02)
    (_fold(root) / "STOP").touch()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert json.loads((_fold(root) / "final.json").read_text())["epochs"] < EPOCHS
    assert not (_fold(root) / "STOP").exists()
    done = subprocess.run(_command(root, "--resume"), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert _sha(root) == undisturbed[0]


@pytest.mark.slow
def test_a_damaged_state_falls_back_to_the_one_before(ready, undisturbed, tmp_path):
    expected = undisturbed[0]
    root = tmp_path / "damaged"
    shutil.copytree(undisturbed[2], root)
    for name in ("final.safetensors", "final.json"):
        (_fold(root) / name).unlink()
    newest = sorted(_fold(root).glob("state-*.safetensors"))[-1]
    damaged = bytearray(newest.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    newest.write_bytes(damaged)
    done = subprocess.run(_command(root, "--resume"), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "damaged" in done.stderr
    assert _sha(root) == expected
