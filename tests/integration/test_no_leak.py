"""What a fold trains on does not change with its validation cases' voxels."""

from __future__ import annotations

import json

import numpy as np
import pytest

from siccs_net.io.dataset import open_dataset, read_splits
from siccs_net.io.image import read_image, write_image
from siccs_net.pipeline.plan import plan
from siccs_net.pipeline.preprocess import preprocess
from siccs_net.pipeline.train import train
from siccs_net.testing.tiny import write_tiny_dataset
from siccs_net.workspace import Workspace

QUICK = {"epochs": 1, "iterations_per_epoch": 2, "workers": 0, "validation_patches": 1, "deterministic": True}
PRESETS = {
    "vahdani2026": {"patch_size": [8, 32, 32], "network.widths": [4, 8, 12, 16]},
    "demo": {"patch_size": [16, 32, 48], "network.widths": [8, 12, 16, 24]},
}


def fold_0(root, preset, change):
    """Train fold 0 of a tiny dataset whose validation cases were changed; return record, validation loss and fold."""
    workspace = Workspace.resolve(root)
    raw = write_tiny_dataset(workspace.raw[0] / "Dataset999_Tiny", cases=6)
    planned = plan(open_dataset(raw), preset=preset, settings=PRESETS[preset], folds=3, workspace=workspace)
    fold = read_splits(workspace.prepared_dataset(raw.name).splits).folds[0]
    for case in fold.val if change else ():
        path = raw / "imagesTr" / f"{case}_0000.nii.gz"
        image = read_image([path])
        noise = np.random.default_rng(0).normal(0, 200, image.array[0].shape)  # CLAHE undoes what is merely brighter
        write_image(path, (image.array[0] + noise).astype(np.int16), image.orientation)
    dataset = open_dataset(raw)
    if change:  # the splits file stays; statistics are taken anew
        planned = plan(dataset, preset=preset, settings=PRESETS[preset], workspace=workspace)
    preprocess(dataset, planned, "3d_fullres", workspace=workspace)
    (result,) = train(dataset, planned, "3d_fullres", 0, settings=QUICK, device="cpu", workspace=workspace)
    run = workspace.model_folder(raw.name, result.record.trainer, planned.name, "3d_fullres").fold(0)
    return result.record, json.loads(run.log.read_text())["validation_loss"], fold


@pytest.mark.parametrize("preset", PRESETS)
def test_validation_voxels_change_neither_statistics_nor_weights(tmp_path, preset):
    as_it_was, loss, fold = fold_0(tmp_path / "before", preset, change=False)
    changed, other_loss, same_fold = fold_0(tmp_path / "after", preset, change=True)
    assert fold == same_fold
    assert changed.normalisation == as_it_was.normalisation
    assert changed.weights_sha256 == as_it_was.weights_sha256
    assert loss != other_loss, "the changed voxels must reach the validation, or this test proves nothing"
