"""Regions, sparse annotation and two channels, each through the commands: plan, train, predict, evaluate."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from siccs_net.cli.process import run_command
from siccs_net.geometry import Orientation, canonical_affine
from siccs_net.io.image import read_image, read_label, write_image, write_label
from siccs_net.records.metrics import Summary
from siccs_net.testing.tiny import make_tiny_case, write_tiny_dataset

CASES, SHAPE, SPACING = 4, (16, 40, 48), (5.0, 4.0, 4.0)
REGIONS = {"background": 0, "lung": [1, 2, 3], "abnormal": [2, 3], "EF": 2}
IGNORED = 7
DEMO = ("--preset", "demo", "--set", "network.widths=[8,12,16,24]", "patch_size=[16,32,48]")
SMALL = ("-c", "3d_fullres", "--set", "network.widths=[8,12,16]", "patch_size=[16,32,32]")
TRAIN = ["epochs=1", "iterations_per_epoch=3", "batch_size=2", "workers=0", "validation_patches=2", "warmup_epochs=0"]


@dataclass(frozen=True)
class Run:
    """What the commands made of a dataset: masks by case, the evaluation's and the validation's summary, the log."""

    raw: Path
    workspace: Path
    masks: dict[str, np.ndarray]
    evaluation: Summary
    validation: Summary
    log: list[dict[str, Any]]


def _describe(raw: Path, **changes: Any) -> None:
    body = json.loads((raw / "dataset.json").read_text())
    (raw / "dataset.json").write_text(json.dumps({**body, **changes}))


def _command(verb: str, *arguments: object) -> None:
    assert run_command(verb, [str(item) for item in arguments]) == 0, f"siccs_{verb} {arguments}"


def _run(
    root: Path,
    change: Callable[[Path], None],
    *settings: str,
    plan: Sequence[object] = DEMO,
    trainer: Sequence[object] = (),
) -> Run:
    """Write the tiny dataset, change it, and run every command on it."""
    torch.set_num_threads(1)
    raw, name = root / "raw" / "Dataset999_Tiny", "999"
    write_tiny_dataset(raw, cases=CASES, shape=SHAPE, spacing_mm=SPACING)
    change(raw)
    place = ["--workspace", root]
    _command("validate", raw)
    _command("plan_and_preprocess", "-d", name, "--folds", 2, *plan, *place)
    _command("train", name, "3d_fullres", 0, *trainer, *place, "--device", "cpu", "--set", *TRAIN, *settings)
    model = next((root / "results" / "Dataset999_Tiny").iterdir())
    _command("predict", "-i", raw / "imagesTr", "-o", root / "masks", "-m", model, "--device", "cpu")
    _command("evaluate", "-i", root / "masks", "-r", raw / "labelsTr", "-o", root / "evaluation")
    masks = {path.name[:-7]: read_label(path).array[0] for path in sorted((root / "masks").glob("*.nii.gz"))}
    assert len(masks) == CASES
    log = [json.loads(line) for line in (model / "fold_0" / "log.jsonl").read_text().splitlines()]
    summaries = [
        Summary.from_json(path.read_text())
        for path in (root / "evaluation" / "summary.json", model / "crossval_summary.json")
    ]
    return Run(raw, root, masks, summaries[0], summaries[1], log)


def _dice(prediction: np.ndarray, reference: np.ndarray) -> float:
    return 2 * np.count_nonzero(prediction & reference) / (np.count_nonzero(prediction) + np.count_nonzero(reference))


def test_regions(tmp_path: Path) -> None:
    """What is predicted is painted with label values; each region is measured as a whole, against NumPy."""

    def change(raw: Path) -> None:
        _describe(raw, labels=REGIONS, regions_class_order=[1, 3, 2])

    run = _run(tmp_path, change, "epochs=2", "iterations_per_epoch=4", "learning_rate=5e-3")
    assert list(run.log[-1]["dice"]) == ["lung", "abnormal", "EF", "GGO", "EF+GGO"]
    for summary in (run.evaluation, run.validation):
        labels = {"(1, 2, 3)": "lung", "(2, 3)": "abnormal", "2": "EF"}
        assert summary.names == {**labels, "GGO": "GGO", "EF+GGO": "EF+GGO"}  # lung and EF are regions already
    for case in run.evaluation.metric_per_case:
        mask = run.masks[case.case]
        assert set(np.unique(mask)) <= {0, 1, 2, 3}
        reference = read_label(run.raw / "labelsTr" / f"{case.case}.nii.gz").array[0]
        assert case.metrics["(1, 2, 3)"].Dice == pytest.approx(_dice(mask > 0, reference > 0))
        assert case.metrics["(1, 2, 3)"].n_ref == np.count_nonzero(reference)
    first, last = run.log
    assert last["loss"] < first["loss"]


@pytest.mark.parametrize("loss", ["ours", "torch's"])
def test_every_fifth_slice_labelled(tmp_path: Path, loss: str) -> None:
    """Also with a trainer whose loss knows nothing of ignored voxels."""
    own = tmp_path / "own.py"
    own.write_text(
        "from torch import nn\nfrom siccs_net import SiccsTrainer\n\n\n"
        "class Own(SiccsTrainer):\n    def build_loss(self):\n        return nn.CrossEntropyLoss()\n"
    )

    def change(raw: Path) -> None:
        for path in (raw / "labelsTr").iterdir():
            label = read_label(path)
            sparse = np.full(SHAPE, IGNORED, np.uint8)
            sparse[2::5] = label.array[0, 2::5]
            write_label(path, sparse, label.orientation)
        labels = json.loads((raw / "dataset.json").read_text())["labels"]
        _describe(raw, labels={**labels, "ignore": IGNORED})

    run = _run(tmp_path, change, trainer=() if loss == "ours" else ("-tr", f"{own}:Own"))
    assert all(set(np.unique(mask)) <= {0, 1, 2, 3} for mask in run.masks.values())
    for case in run.evaluation.metric_per_case:
        found = case.metrics["1"]
        counted = found.TP + found.FP + found.FN + found.TN
        assert counted == 3 * SHAPE[1] * SHAPE[2]  # the labelled slices alone
    assert np.isfinite(run.log[-1]["loss"])


def test_two_channels(tmp_path: Path) -> None:
    """A CT and another channel in which the lung stands out by itself, z-scored image by image."""

    def change(raw: Path) -> None:
        z, y, x = SHAPE
        orientation = Orientation.of((x, y, z), canonical_affine(SPACING))
        for number in range(CASES):
            _, label = make_tiny_case(number, SHAPE, SPACING)
            other = np.random.default_rng(number).normal(50 + 20 * (label > 0), 5, SHAPE).astype(np.float32)
            write_image(raw / "imagesTr" / f"tiny_{number:03d}_0001.nii.gz", other, orientation)
        _describe(raw, channel_names={"0": "CT", "1": "perfusion"})

    run = _run(tmp_path, change, plan=SMALL)
    plan = json.loads(next((tmp_path / "preprocessed" / "Dataset999_Tiny").rglob("plans/*.json")).read_text())
    network = plan["configurations"]["3d_fullres"]
    assert network["network"]["in_channels"] == 2
    assert [item["scheme"] for item in network["normalisation"]] == ["ct", "zscore_image"]
    one = read_image([run.raw / "imagesTr" / f"tiny_000_000{channel}.nii.gz" for channel in (0, 1)])
    assert one.array.shape == (2, *SHAPE)
