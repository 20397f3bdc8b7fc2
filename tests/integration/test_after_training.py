"""From two trained models to the best of them and their ensemble, through the commands, on a tiny dataset."""

from __future__ import annotations

import json
import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from siccs_net.cli.process import run_command
from siccs_net.errors import DataError, ModelError, UsageError
from siccs_net.io.dataset import open_dataset
from siccs_net.io.image import read_label
from siccs_net.io.probabilities import open_probabilities
from siccs_net.pipeline.cross_validation import read_validated
from siccs_net.pipeline.find_best import SMALLEST_GAIN, find_best_configuration
from siccs_net.pipeline.plan import plan
from siccs_net.pipeline.predict import postprocessing_of
from siccs_net.pipeline.preprocess import preprocess
from siccs_net.records.comparison import Instructions
from siccs_net.records.metrics import Summary
from siccs_net.records.postprocessing import FillHoles, MinimumVolume, PostProcessing
from siccs_net.records.prediction import PredictionRecord
from siccs_net.testing.tiny import write_tiny_dataset
from siccs_net.workspace import ModelFolder, Workspace

NAME = "Dataset999_Tiny"
SMALL = {"network.widths": [4, 4, 6, 6], "patch_size": [16, 16, 16], "batch_size": 1}
QUICK = ["--set", "epochs=1", "iterations_per_epoch=1", "workers=0", "validation_patches=1", "seed=1"]


@dataclass(frozen=True)
class Trained:
    """Two models of one dataset in two folds: `first` kept its probabilities."""

    root: Path
    first: ModelFolder
    second: ModelFolder

    @property
    def workspace(self) -> Workspace:
        return Workspace.resolve(self.root)

    def run(self, verb, *arguments):
        return run_command(verb, [*map(str, arguments), "--quiet", "--workspace", str(self.root)])

    def dice(self, model):
        return read_validated(model).summary.foreground_mean.Dice


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("workspace")
    workspace = Workspace.resolve(root)
    raw = write_tiny_dataset(workspace.raw[0] / NAME, cases=4, shape=(12, 24, 28))
    dataset = open_dataset(raw)
    made = plan(dataset, preset="demo", settings=SMALL, folds=2, workspace=workspace)
    preprocess(dataset, made, "3d_fullres", workspace=workspace, workers=0)
    folders = [workspace.model_folder(NAME, name, "demo", "3d_fullres") for name in ("SiccsTrainer", "SecondTrainer")]
    (root / "second.py").write_text(
        "from siccs_net import SiccsTrainer\n\n\nclass SecondTrainer(SiccsTrainer):\n    pass\n"
    )
    found = Trained(root, *folders)
    train = ("train", "999", "3d_fullres", "all", "--device", "cpu", *QUICK)
    assert found.run(*train, "--save-probabilities") == 0
    assert found.run(*train, "seed=2", "-tr", f"{root / 'second.py'}:SecondTrainer") == 0
    yield found
    torch.set_num_threads(before)


@pytest.fixture
def scans(trained, tmp_path):
    folder = tmp_path / "scans"
    folder.mkdir()
    for path in sorted((trained.workspace.raw[0] / NAME / "imagesTr").iterdir())[:2]:
        shutil.copy(path, folder)
    return folder


def test_without_probabilities_single_models_are_compared_and_the_note_says_so(trained, capsys):
    assert trained.run("find_best_configuration", "999") == 0
    said = capsys.readouterr().out
    best = max((trained.first, trained.second), key=trained.dice)
    assert f"siccs_predict -i IN -o OUT -m {best.root}" in said
    assert "SecondTrainer__demo__3d_fullres is in no ensemble" in said
    made = _instructions(trained)
    assert [len(candidate.models) for candidate in made.candidates] == [1, 1]
    assert made.candidates[0].cases == 4
    assert made.candidates[0].foreground_dice == trained.dice(best)
    assert PostProcessing.from_json(best.postprocessing.read_text()).cases == 4
    assert (trained.workspace.results / NAME / "inference_instructions.txt").read_text().strip() in said


def _instructions(trained):
    return Instructions.from_json(trained.workspace.comparison(NAME).instructions.read_text())


def test_the_ensembles_figures_are_those_of_the_mean_probabilities(trained, capsys):
    """Averaged and scored by hand, from the folds' own files."""
    train = ("train", "999", "3d_fullres", "all", "--device", "cpu", *QUICK)
    trainer = f"{trained.root / 'second.py'}:SecondTrainer"
    weights = trained.second.fold(0).weights.read_bytes()
    assert trained.run(*train, "seed=2", "-tr", trainer, "--resume", "--save-probabilities") == 0
    assert trained.second.fold(0).weights.read_bytes() == weights
    assert trained.run("find_best_configuration", "999", "--no-postprocessing") == 0
    made = _instructions(trained)
    assert (made.notes, len(made.candidates)) == ((), 3)
    pair = next(candidate for candidate in made.candidates if len(candidate.models) == 2)
    dice = []
    for fold in range(2):
        folders = [model.fold(fold).validation for model in (trained.first, trained.second)]
        for case in json.loads(trained.first.fold(fold).record.read_text())["validation_cases"]:
            mean = np.mean([open_probabilities(folder, case).array[:].astype(float) for folder in folders], 0)
            mask = mean.argmax(0)
            wanted = read_label(trained.workspace.raw[0] / NAME / "labelsTr" / f"{case}.nii.gz").array[0]
            dice.append([_dice(mask == value, wanted == value) for value in (1, 2, 3)])
    assert pair.foreground_dice == pytest.approx(np.mean(dice, 0).mean(), abs=1e-3)
    wanted = sorted(made.candidates, key=lambda item: -item.foreground_dice + SMALLEST_GAIN * len(item.models))
    assert [item.models for item in made.candidates] == [item.models for item in wanted]
    assert "post-processing was not judged" in capsys.readouterr().out


def _dice(one, other):
    return 2 * (one & other).sum() / (one.sum() + other.sum())


def test_the_printed_command_predicts(trained, scans, tmp_path):
    assert trained.run("find_best_configuration", "999") == 0
    made = _instructions(trained)
    (line,) = made.commands
    verb, *arguments = shlex.split(line.replace("IN", str(scans), 1).replace("OUT", str(tmp_path / "out"), 1))
    assert trained.run(verb.removeprefix("siccs_"), *arguments, "--device", "cpu") == 0
    assert len(list((tmp_path / "out").glob("*.nii.gz"))) == 2


def test_two_predictions_or_one_command_make_the_same_ensemble(trained, scans, tmp_path):
    models = (trained.first.root, trained.second.root)
    for name, model in zip("ab", models, strict=True):
        command = ("predict", "-i", scans, "-o", tmp_path / name, "-m", model, "--save-probabilities")
        assert trained.run(*command, "--device", "cpu") == 0
    assert trained.run("ensemble", "-i", tmp_path / "a", tmp_path / "b", "-o", tmp_path / "two") == 0
    assert trained.run("ensemble", "-i", scans, "-m", *models, "-o", tmp_path / "one", "--device", "cpu") == 0
    for case in ("tiny_000", "tiny_001"):
        one, two = ((tmp_path / name / f"{case}.nii.gz").read_bytes() for name in ("one", "two"))
        assert one == two
        image = read_label(tmp_path / "two" / f"{case}.nii.gz")
        assert image.array.shape == (1, 12, 24, 28)
    (tmp_path / "b" / "tiny_001.probabilities.b2nd").unlink()
    assert trained.run("ensemble", "-i", tmp_path / "a", tmp_path / "b", "-o", tmp_path / "less") == 4
    assert not (tmp_path / "less" / "tiny_001.nii.gz").exists()


def test_the_mask_is_the_same_with_probabilities_and_is_kept_only_with_them(trained, scans, tmp_path):
    command = ("predict", "-i", scans, "-o", tmp_path / "out", "-m", trained.first.root, "--device", "cpu")
    assert trained.run(*command) == 0
    plain = (tmp_path / "out" / "tiny_000.nii.gz").read_bytes()
    assert trained.run(*command, "--save-probabilities") == 4
    assert trained.run(*command, "--save-probabilities", "--overwrite") == 0
    assert (tmp_path / "out" / "tiny_000.nii.gz").read_bytes() == plain
    assert trained.run(*command, "--save-probabilities") == 0
    levels = open_probabilities(tmp_path / "out", "tiny_000").array[:].astype(int)
    mask = read_label(tmp_path / "out" / "tiny_000.nii.gz").array[0]
    assert (levels.argmax(0) != mask).mean() < 0.05
    assert abs(levels.sum(0) - 255).max() <= 2


def test_a_models_postprocessing_is_applied_unless_it_is_switched_off(trained, scans, tmp_path):
    step = FillHoles(labels=(1, 2, 3)), MinimumVolume(label=1, minimum_mm3=1e9)
    model = tmp_path / "model"
    shutil.copytree(trained.first.root, model)
    (model / "postprocessing.json").write_text(PostProcessing(steps=step).to_json())
    command = ("predict", "-i", scans, "-m", model, "--device", "cpu")
    assert trained.run(*command, "-o", tmp_path / "on") == 0
    assert trained.run(*command, "-o", tmp_path / "off", "--no-postprocessing") == 0
    records = [PredictionRecord.from_json((tmp_path / name / "tiny_000.json").read_text()) for name in ("on", "off")]
    assert [record.postprocessing for record in records] == [step, ()]
    assert not (read_label(tmp_path / "on" / "tiny_000.nii.gz").array == 1).any()
    assert trained.run(*command, "-o", tmp_path / "off") == 4  # not the same mask: refused, not kept
    stale = PostProcessing(steps=step, weights_sha256=("0" * 64,))
    (model / "postprocessing.json").write_text(stale.to_json())
    with pytest.raises(ModelError, match="--no-postprocessing"):
        postprocessing_of(model, ["0"])
    assert trained.run(*command, "-o", tmp_path / "stale") == 4


def test_folds_accumulate_into_one_folder(trained, tmp_path, capsys):
    assert trained.run("accumulate", "-m", trained.first.root, "-o", tmp_path / "all") == 0
    summary = Summary.from_json((tmp_path / "all" / "summary.json").read_text())
    assert summary == Summary.from_json(trained.first.summary.read_text())
    assert len(list((tmp_path / "all").glob("*.nii.gz"))) == len(list((tmp_path / "all").glob("*.b2nd"))) == 4
    for fold in range(2):
        for path in trained.first.fold(fold).validation.glob("*.nii.gz"):
            assert (tmp_path / "all" / path.name).read_bytes() == path.read_bytes()
    assert trained.run("accumulate", "-m", trained.first.root, "-o", tmp_path / "all") == 2
    assert trained.run("accumulate", "-m", trained.first.root, "-o", tmp_path / "one", "-f", "1") == 0
    assert len(list((tmp_path / "one").glob("*.nii.gz"))) == 2
    assert trained.run("accumulate", "-m", trained.first.root, "-o", tmp_path / "none", "-f", "7") == 2
    assert "fold 7 is not validated" in capsys.readouterr().err


def test_models_without_every_case_are_left_out_and_named(trained, tmp_path):
    root = tmp_path / "other"
    shutil.copytree(trained.root, root)
    workspace = Workspace.resolve(root)
    dataset = open_dataset(workspace.raw[0] / NAME)
    shutil.rmtree(workspace.model_folder(NAME, "SecondTrainer", "demo", "3d_fullres").fold(1).validation)
    made = find_best_configuration(dataset, workspace=workspace, workers=0)
    assert [candidate.models for candidate in made.candidates] == [("SiccsTrainer__demo__3d_fullres",)]
    assert "2 cases are not validated" in made.notes[0]
    both = find_best_configuration(dataset, workspace=workspace, folds=["0"], workers=0, postprocessing=False)
    assert both.candidates[0].cases == 2
    assert both.commands[0].count("-f 0") == 1
    single = find_best_configuration(dataset, workspace=workspace, trainers=["SiccsTrainer"], workers=0)
    assert len(single.candidates) == 1
    for wrong, words in (
        ({"configurations": ["2d", "3d_fullres"]}, "no trained model has the configuration 2d; found 3d_fullres"),
        ({"plans": ["other"]}, "the plan other"),
        ({"folds": ["0", "9"]}, "validated fold 9"),
    ):
        with pytest.raises(UsageError, match=words):
            find_best_configuration(dataset, workspace=workspace, **wrong)
    mask = next((workspace.model_folder(NAME, "SiccsTrainer", "demo", "3d_fullres").fold(0).validation).glob("*.gz"))
    mask.unlink()
    with pytest.raises(DataError, match=rf"{mask.name}: the mask is missing"):
        find_best_configuration(dataset, workspace=workspace)
    empty = Workspace.resolve(tmp_path / "empty")
    with pytest.raises(UsageError, match="no model of these names"):
        find_best_configuration(dataset, workspace=empty)


def test_equal_models_are_no_trouble(trained, tmp_path):
    root = tmp_path / "twins"
    shutil.copytree(trained.root, root)
    workspace = Workspace.resolve(root)
    first, second = (
        workspace.model_folder(NAME, name, "demo", "3d_fullres").root for name in ("SiccsTrainer", "SecondTrainer")
    )
    shutil.rmtree(second)
    shutil.copytree(first, second)
    dataset = open_dataset(workspace.raw[0] / NAME)
    made = find_best_configuration(dataset, workspace=workspace, workers=0, ensembles=False)
    assert made.models == (str(second),)  # the first by name
    assert made.candidates[0].foreground_dice == made.candidates[1].foreground_dice
    assert find_best_configuration(dataset, workspace=workspace, workers=0).models == made.models


def test_overlays_show_the_fullest_slice(trained, tmp_path, capsys):
    raw = trained.workspace.raw[0] / NAME
    command = ("overlay", "-i", raw / "imagesTr", "-s", raw / "labelsTr")
    assert trained.run(*command, "-o", tmp_path / "png", "-r", raw / "labelsTr") == 0
    assert sorted(path.name for path in (tmp_path / "png").iterdir()) == [f"tiny_00{n}.png" for n in range(4)]
    assert "4 of 4 pictures" in capsys.readouterr().out
    (tmp_path / "none").mkdir()
    assert trained.run(*command, "-o", tmp_path / "png", "-r", tmp_path / "none") == 2
