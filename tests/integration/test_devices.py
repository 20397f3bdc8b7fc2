"""One fold on two processes learns what it learns in one; averaged and pretrained weights; validation again."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch

from siccs_net.cli.process import run_command
from siccs_net.io.checkpoint import read_tensors
from siccs_net.io.dataset import open_dataset
from siccs_net.pipeline.plan import plan
from siccs_net.pipeline.preprocess import preprocess
from siccs_net.testing.tiny import write_tiny_dataset
from siccs_net.workspace import Workspace

PLAN = {
    "network.widths": [4, 6],
    "network.strides": [[1, 1, 1], [2, 2, 2]],
    "network.kernel_sizes": [[3, 3, 3]] * 2,
    "network.blocks_encoder": [1, 1],
    "network.blocks_decoder": [1, 1],
    "patch_size": [8, 16, 16],
    "batch_size": 4,
    "iterations_per_epoch": 3,
    "batch_dice": True,
}
DESCENT = ["epochs=1", "optimizer=sgd", "learning_rate=0.05", "workers=0", "validation_patches=2", "schedule=constant"]
DESCENT += ["precision=float32"]  # updates are equal to rounding, also where bfloat16 is fast


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A workspace with a tiny dataset, planned and prepared."""
    folder = tmp_path_factory.mktemp("devices")
    workspace = Workspace.resolve(folder)
    dataset = open_dataset(write_tiny_dataset(workspace.raw[0] / "Dataset999_Tiny", cases=4, shape=(8, 20, 24)))
    made = plan(dataset, preset="demo", settings=PLAN, folds=2, workspace=workspace)
    preprocess(dataset, made, "3d_fullres", workspace=workspace)
    return folder


def arguments(root, fold, *more, settings=DESCENT):
    place = ["--workspace", str(root), "--device", "cpu", "--quiet"]
    return ["999", "3d_fullres", str(fold), *place, *more, *(["--set", *settings] if settings else [])]


def fold_folder(root, fold=0):
    return root / "results" / "Dataset999_Tiny" / "SiccsTrainer__demo__3d_fullres" / f"fold_{fold}"


def weights(root, fold=0):
    return read_tensors(fold_folder(root, fold) / "final.safetensors")


def run(root, fold, *more, settings=DESCENT):
    threads = torch.get_num_threads()
    try:
        assert run_command("train", arguments(root, fold, *more, settings=settings)) == 0
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize(
    "extra",
    [["ema_decay=0.9"], ["loss.name=cross_entropy", "gradient_accumulation=2"]],
    ids=["batch Dice and average", "accumulation"],
)
def test_two_processes_make_the_updates_of_one(root, extra):
    run(root, 0, "--no-val", "--overwrite", "--set", *extra)
    alone, log = weights(root), (fold_folder(root) / "log.jsonl").read_text()
    assert not (fold_folder(root) / "validation").exists()
    more = ["--no-val", "--overwrite", "--set", *extra]
    command = [sys.executable, "-m", "siccs_net.cli.train", *arguments(root, 0, *more)]
    done = subprocess.run(
        [*command, "--num-gpus", "2"], env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    together = weights(root)
    assert alone.keys() == together.keys()
    for name, tensor in alone.items():
        torch.testing.assert_close(together[name], tensor, rtol=1e-5, atol=1e-5)
    one, two = json.loads(log), json.loads((fold_folder(root) / "log.jsonl").read_text())
    for name in [name for name in one if "loss" in name]:
        assert two[name] == pytest.approx(one[name], rel=1e-4)
    assert two["dice"].keys() == one["dice"].keys()


def test_a_batch_that_cannot_be_divided_is_one_line(root):
    command = [sys.executable, "-m", "siccs_net.cli.train", *arguments(root, 1, "--set", "batch_size=3")]
    done = subprocess.run([*command, "--num-gpus", "2"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "must be divided evenly" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr


def test_averaged_weights_resume_exactly_and_are_the_model(root):
    settings = [*DESCENT, "epochs=2", "ema_decay=0.8", "deterministic=true"]
    run(root, 0, "--no-val", "--overwrite", settings=settings)
    whole = weights(root)
    folder = fold_folder(root)
    newest = max(folder.glob("state-*.safetensors"))
    plain = read_tensors(newest)
    assert any(not torch.equal(whole[name], plain[f"network.{name}"]) for name in whole)
    assert all(torch.equal(whole[name], plain[f"average.{name}"]) for name in whole)
    for path in (newest, newest.with_suffix(".json"), folder / "final.safetensors", folder / "final.json"):
        path.unlink()
    run(root, 0, "--no-val", "--resume", settings=settings)
    assert all(torch.equal(tensor, weights(root)[name]) for name, tensor in whole.items())


def test_pretrained_weights_are_told_kept_in_the_record_and_not_loaded_on_resume(root, capsys, caplog):
    run(root, 0, "--no-val", "--overwrite")
    source = fold_folder(root)
    changed = [*DESCENT, "epochs=2", "deterministic=true"]
    run(root, 1, "--no-val", "--overwrite", "--pretrained", str(source), settings=changed)
    record = json.loads((fold_folder(root, 1) / "final.json").read_text())
    assert record["pretrained"]["sha256"] == json.loads((source / "final.json").read_text())["weights_sha256"]
    assert {row["action"] for row in record["pretrained"]["weights"]} == {"loaded"}
    assert "validation cases" in caplog.text  # fold 0 was trained on those of fold 1
    newest = max(fold_folder(root, 1).glob("state-*.safetensors"))
    whole = weights(root, 1)
    for path in (newest, newest.with_suffix(".json"), fold_folder(root, 1) / "final.safetensors"):
        path.unlink()
    run(root, 1, "--no-val", "--resume", settings=changed)
    assert all(torch.equal(tensor, weights(root, 1)[name]) for name, tensor in whole.items())
    assert json.loads((fold_folder(root, 1) / "final.json").read_text())["pretrained"] == record["pretrained"]


def test_validation_is_left_out_and_made_again(root, capsys):
    run(root, 0, "--no-val", "--overwrite")
    folder = fold_folder(root)
    assert not (folder.parent / "crossval_summary.json").exists()
    run(root, "all", "--val-only", settings=())
    summary = folder / "validation" / "summary.json"
    first = summary.read_bytes()
    assert (folder.parent / "crossval_summary.json").is_file()
    summary.write_text("{}")
    run(root, 0, "--val-only", settings=())
    assert summary.read_bytes() == first
    capsys.readouterr()
    assert run_command("train", arguments(root, 0, "--val-only", "--resume", settings=())) == 2
    assert "--val-only trains nothing; found --resume" in capsys.readouterr().err


def test_untrained_folds_are_not_validated(root, capsys):
    assert run_command("train", [*arguments(root, 0, "--val-only", settings=()), "-tr", "Vahdani2026Trainer"]) == 2
    assert "cannot be validated" in capsys.readouterr().err


def test_compiling_without_a_compiler_is_one_clear_error(root, monkeypatch, capsys):
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert run_command("train", arguments(root, 0, "--overwrite", "--compile", "on")) == 3
    assert "torch.compile cannot work here" in capsys.readouterr().err
