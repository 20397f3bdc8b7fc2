"""The whole way on a tiny dataset: train, plug in, predict, evaluate; bad scans beside good ones."""

from __future__ import annotations

import json
import shutil

import nibabel as nib
import numpy as np
import pytest

from siccs_net.errors import DataError, ModelError, StoreError, TrainerContractError, UnavailableError, UsageError
from siccs_net.inference.load_model import load_model
from siccs_net.io.image import Image, read_image
from siccs_net.pipeline.evaluate import evaluate
from siccs_net.pipeline.plan import plan
from siccs_net.pipeline.predict import predict_scans
from siccs_net.pipeline.preprocess import preprocess
from siccs_net.pipeline.scans import find_scans
from siccs_net.pipeline.train import train
from siccs_net.plugins import find_class
from siccs_net.testing import check_trainer
from siccs_net.testing.tiny import make_tiny_case
from siccs_net.trainers.base import Trainer
from siccs_net.trainers.nnunet import NnUNetTrainer
from siccs_net.trainers.siccs import SiccsTrainer
from siccs_net.trainers.vahdani2026 import Vahdani2026Trainer

QUICK = {"epochs": 1, "iterations_per_epoch": 2, "workers": 0, "validation_patches": 2}
PLUG_IN = '''"""Fifteen lines in a user's own file."""
from torch import nn

from siccs_net import SiccsTrainer


class MyTrainer(SiccsTrainer):
    """Another loss."""

    defaults = {"epochs": 2, "weight_decay": 0.5}

    def build_loss(self):
        return nn.CrossEntropyLoss(label_smoothing=0.1)
'''
OWN_NETWORK = """
from torch import nn
from siccs_net import SiccsTrainer


class Flat(nn.Module):
    def __init__(self, spec):
        super().__init__()
        self.layer = nn.Conv3d(spec.in_channels, spec.classes, 3, padding=1)

    def forward(self, x):
        return self.layer(x)


class FlatTrainer(SiccsTrainer):
    def build_network(self):
        return Flat(self.configuration.network)
"""


@pytest.fixture(scope="module")
def model_folder(ready):
    """All folds of a very short training."""
    results = train(
        ready.dataset, ready.plan, "3d_fullres", "all", settings={**QUICK, "epochs": 2}, workspace=ready.workspace
    )
    assert [result.fold for result in results] == ["0", "1", "2", "3"]
    return ready.workspace.model_folder(ready.dataset.name, "SiccsTrainer", ready.plan.name, "3d_fullres")


def test_every_fold_leaves_its_files_and_a_summary(ready, model_folder):
    for fold in range(4):
        run = model_folder.fold(fold)
        names = {path.name for path in run.root.iterdir()}
        assert {"final.safetensors", "final.json", "log.jsonl", "progress.png", "validation"} <= names
        assert len(run.states()) == 2
    summary = json.loads(model_folder.summary.read_text())
    assert len(summary["metric_per_case"]) == 8
    assert set(summary["folds"].values()) == {0, 1, 2, 3}
    assert 0 <= summary["mean"]["1"]["Dice"] <= 1


def test_normalisation_comes_from_training_cases_only(ready, model_folder):
    """Each fold's mean is the mean over its training cases' prepared voxels, and no other's."""
    import blosc2

    folder = ready.workspace.prepared_dataset(ready.dataset.name).prepared(ready.plan.name, "3d_fullres")
    for fold in range(4):
        record = json.loads(model_folder.fold(fold).record.read_text())
        voxels = np.concatenate(
            [blosc2.open(str(folder / f"{case}.b2nd"))[:].ravel() for case in record["training_cases"]]
        )
        channel = record["normalisation"]["channels"][0]
        assert channel["mean"] == pytest.approx(voxels.mean(dtype=np.float64), rel=1e-9)
        assert channel["std"] == pytest.approx(voxels.std(dtype=np.float64), rel=1e-9)
        assert channel["lower"] == pytest.approx(np.percentile(voxels, 0.5), abs=1)
        assert not set(record["training_cases"]) & set(record["validation_cases"])


def test_the_ensemble_is_the_mean_of_its_folds_logits(ready, model_folder):
    image = Image.from_array(make_tiny_case(77)[0], spacing_mm=(5.0, 4.0, 4.0))
    from siccs_net.preprocessing.preprocess import preprocess_case

    whole = load_model(model_folder.root, device="cpu")
    assert whole.folds == ("0", "1", "2", "3")
    prepared = preprocess_case(image, None, whole.configuration, whole.labels, case="x")
    singles = []
    for fold in whole.folds:
        slabs = load_model(model_folder.root, folds=[fold], device="cpu").logits(prepared)
        singles.append(np.concatenate([part for _, part in slabs], 1))
    together = np.concatenate([part for _, part in whole.logits(prepared)], 1)
    assert np.allclose(together, np.mean(singles, 0), atol=1e-4)


@pytest.mark.parametrize("codes", ["LPS", "RAS", "SPR", "AIL"])
def test_masks_lie_on_the_inputs_exact_grid(model_folder, tmp_path, codes):
    image, _ = make_tiny_case(5)
    affine = np.diag([-4, -4, 5, 1.0])
    scan = nib.Nifti1Image(image.transpose(2, 1, 0), affine)
    turned = scan.as_reoriented(
        nib.orientations.ornt_transform(nib.io_orientation(affine), nib.orientations.axcodes2ornt(codes))
    )
    nib.save(turned, tmp_path / "scan.nii.gz")
    segmentation = load_model(model_folder.root, device="cpu").predict(tmp_path / "scan.nii.gz")
    segmentation.save(tmp_path / "mask.nii.gz")
    mask = nib.load(tmp_path / "mask.nii.gz")
    assert mask.shape == turned.shape
    assert np.array_equal(mask.affine, turned.affine)
    reference = load_model(model_folder.root, device="cpu").predict(Image.from_array(image, spacing_mm=(5, 4, 4)))
    assert np.array_equal(read_image([tmp_path / "mask.nii.gz"]).array, reference.array)
    assert set(segmentation.volumes_ml()) == {"normal_lung", "EF", "GGO", "lung", "EF+GGO"}


def test_a_batch_goes_on_past_bad_scans_and_keeps_what_is_done(ready, model_folder, tmp_path):
    scans, output = tmp_path / "scans", tmp_path / "out"
    shutil.copytree(ready.dataset.folder / "imagesTr", scans)
    for name in ("tiny_001_0000.nii.gz", "tiny_004_0000.nii.gz"):
        (scans / name).write_bytes((scans / name).read_bytes()[:-40])
    (scans / "tiny_006_0000.nii.gz").rename(scans / "no channel number.nii.gz")
    model = load_model(model_folder.root, folds=[0], device="cpu")
    outcomes = predict_scans(model, find_scans(scans, 1), output)
    assert [outcome.scan.name for outcome in outcomes if outcome.status == "refused"] == ["tiny_001", "tiny_004"]
    assert (output / "no channel number.nii.gz").is_file()
    assert not (output / "tiny_001.nii.gz").exists()
    again = predict_scans(model, find_scans(scans, 1), output)
    assert {outcome.status for outcome in again} == {"kept", "refused"}
    other = load_model(model_folder.root, folds=[1], device="cpu")
    blocked = predict_scans(other, find_scans(scans, 1), output)
    assert {outcome.status for outcome in blocked} == {"refused"}
    assert "--overwrite" in str(blocked[0].error)
    replaced = predict_scans(other, find_scans(scans / "tiny_000_0000.nii.gz", 1), output, overwrite=True)
    assert [outcome.status for outcome in replaced] == ["written"]


def test_evaluation_measures_pairs_and_names_what_is_missing(ready, tmp_path):
    references = ready.dataset.folder / "labelsTr"
    predictions = tmp_path / "predictions"
    shutil.copytree(references, predictions)
    (predictions / "tiny_000.nii.gz").unlink()
    (predictions / "tiny_001.nii.gz").write_bytes(b"damaged")
    result = evaluate(predictions, references, tmp_path / "evaluation")
    assert sorted(name for name, _ in result.errors) == ["tiny_000", "tiny_001"]
    assert len(result.summary.metric_per_case) == 6
    assert result.summary.mean["1"].Dice == 1
    assert result.summary.mean["EF+GGO"].NSD_2mm == 1
    assert (tmp_path / "evaluation" / "summary.csv").read_text().count("\n") == 1 + 6 * 5
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "x.nii.gz").write_bytes(b"")
    with pytest.raises(UsageError, match="no prediction has the name"):
        evaluate(tmp_path / "other", references, tmp_path / "evaluation")


def test_a_trainer_in_a_users_file_trains_and_predicts_without_it(ready, tmp_path):
    path = tmp_path / "my_trainer.py"
    path.write_text(PLUG_IN)
    settings = ["epochs=2", "iterations_per_epoch=2", "workers=0", "validation_patches=2"]
    train(
        ready.dataset,
        ready.plan,
        "3d_fullres",
        0,
        trainer=f"{path}:MyTrainer",
        settings=settings,
        workspace=ready.workspace,
    )
    path.unlink()
    folder = ready.workspace.model_folder(ready.dataset.name, "MyTrainer", ready.plan.name, "3d_fullres")
    record = json.loads(folder.fold(0).record.read_text())
    assert record["epochs"] == 2
    assert record["config"]["weight_decay"] == 0.5
    assert load_model(folder.root, device="cpu").predict(Image.from_array(make_tiny_case(3)[0], spacing_mm=(5, 4, 4)))


def test_a_network_of_ones_own_must_be_named(ready, tmp_path):
    path = tmp_path / "flat.py"
    path.write_text(OWN_NETWORK)
    train(
        ready.dataset,
        ready.plan,
        "3d_fullres",
        0,
        trainer=f"{path}:FlatTrainer",
        settings=QUICK,
        workspace=ready.workspace,
    )
    folder = ready.workspace.model_folder(ready.dataset.name, "FlatTrainer", ready.plan.name, "3d_fullres")
    with pytest.raises(UnavailableError, match=r"flat.*:Flat.*--network"):
        load_model(folder.root, device="cpu")
    model = load_model(folder.root, device="cpu", network=f"{path}:Flat")
    assert model.predict(Image.from_array(make_tiny_case(3)[0], spacing_mm=(5, 4, 4))).array.shape == (1, 16, 40, 48)


def test_full_trains_one_model_on_every_case(ready):
    (result,) = train(ready.dataset, ready.plan, "3d_fullres", "full", settings=QUICK, workspace=ready.workspace)
    assert result.validation is None
    assert len(result.record.training_cases) == 8


def test_wrong_folds_and_changed_data_are_refused(ready, tmp_path):
    with pytest.raises(UsageError, match="0 to 3, all or full"):
        train(ready.dataset, ready.plan, "3d_fullres", 9, settings=QUICK, workspace=ready.workspace)
    changed = ready.plan.configurations["3d_fullres"].model_copy(update={"storage": "float32"})
    other = ready.plan.model_copy(update={"configurations": {"3d_fullres": changed}})
    with pytest.raises(StoreError, match="another plan"):
        train(ready.dataset, other, "3d_fullres", 0, settings=QUICK, workspace=ready.workspace, overwrite=True)


def test_a_damaged_prepared_case_is_refused_then_made_anew(ready, model_folder):
    folder = ready.workspace.prepared_dataset(ready.dataset.name).prepared(ready.plan.name, "3d_fullres")
    path = folder / "tiny_002.b2nd"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(StoreError, match=r"tiny_002\.b2nd.*damaged"):
        train(ready.dataset, ready.plan, "3d_fullres", 0, settings=QUICK, workspace=ready.workspace, overwrite=True)
    done = preprocess(ready.dataset, ready.plan, "3d_fullres", workspace=ready.workspace)
    assert done.made == ("tiny_002",)


def test_a_damaged_model_is_refused_by_name(model_folder, tmp_path):
    copy = tmp_path / "model"
    shutil.copytree(model_folder.root, copy)
    weights = copy / "fold_1" / "final.safetensors"
    data = bytearray(weights.read_bytes())
    data[-5] ^= 1
    weights.write_bytes(data)
    with pytest.raises(ModelError, match=r"fold_1.final\.safetensors"):
        load_model(copy, device="cpu")
    with pytest.raises(UsageError, match="no fold 7"):
        load_model(copy, folds=[7], device="cpu")


def test_a_scan_smaller_than_the_patch_and_a_wrong_channel_count(model_folder):
    model = load_model(model_folder.root, folds=[0], device="cpu")
    small = Image.from_array(make_tiny_case(1, (6, 12, 14))[0], spacing_mm=(5, 4, 4))
    assert model.predict(small).array.shape == (1, 6, 12, 14)
    with pytest.raises(DataError, match="number of channels"):
        model.predict(Image.from_array(np.zeros((2, 6, 12, 14), np.int16), spacing_mm=(5, 4, 4)))


def test_a_misspelt_hook_is_refused_when_the_class_is_made():
    with pytest.raises(TrainerContractError, match=r"build_los .*Did you mean build_loss"):

        class Wrong(SiccsTrainer):
            def build_los(self):
                return None

    class Right(SiccsTrainer):
        def _build_anything(self):
            return None

    assert find_class(Right, "siccs_net.trainers") is Right


@pytest.mark.slow
@pytest.mark.parametrize("trainer", [SiccsTrainer, Vahdani2026Trainer, NnUNetTrainer])
def test_our_trainers_meet_the_contract(trainer):
    assert "resumes to the same weights" in check_trainer(trainer)


@pytest.mark.slow
def test_a_trainer_that_is_not_reproducible_fails_the_check():
    import random

    class Dice(SiccsTrainer):
        def training_step(self, images, labels):
            return super().training_step(images * random.SystemRandom().uniform(0.5, 2), labels)

    with pytest.raises(TrainerContractError, match="other weights the second time"):
        check_trainer(Dice)
    with pytest.raises(TrainerContractError, match="not a trainer"):
        check_trainer(dict)
    assert issubclass(Dice, Trainer)


def test_two_dimensions_work_too(ready):
    made = plan(
        ready.dataset,
        configurations=["2d"],
        settings={"network.widths": [8, 12, 16], "batch_size": 2},
        workspace=ready.workspace,
    )
    preprocess(ready.dataset, made, "2d", workspace=ready.workspace)
    (result,) = train(ready.dataset, made, "2d", 0, settings=QUICK, workspace=ready.workspace)
    assert result.validation is not None
    assert len(result.validation.metric_per_case) == 2


def test_the_papers_preset_trains_small(ready):
    settings = {"patch_size": [8, 32, 32], "network.widths": [4, 8, 12, 16]}
    made = plan(ready.dataset, preset="vahdani2026", settings=settings, workspace=ready.workspace)
    configuration = made.configurations["3d_fullres"]
    assert configuration.steps[2].shape == (8, 32, 32)
    assert made.provenance["configurations.3d_fullres.network.widths"] == "user"
    assert made.provenance["configurations.3d_fullres.network.kernel_sizes"] == "assumed"
    preprocess(ready.dataset, made, "3d_fullres", workspace=ready.workspace)
    (result,) = train(ready.dataset, made, "3d_fullres", 0, settings=QUICK, workspace=ready.workspace)
    assert result.record.trainer == "Vahdani2026Trainer"
    assert result.record.config["loss"]["name"] == "focal_dice"
