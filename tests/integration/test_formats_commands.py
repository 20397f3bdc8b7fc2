"""Datasets in other formats than NIfTI through the commands: plan, prepare, train a step, predict, evaluate."""

from __future__ import annotations

import json
import logging

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from PIL import Image as Pillow

from siccs_net.cli.process import run_command
from siccs_net.io.dataset import open_dataset
from siccs_net.io.image import read_image, read_label, write_image
from siccs_net.records.checkpoint import FinalRecord
from siccs_net.testing.tiny import make_tiny_case

SHAPE = (8, 32, 40)
SMALL = ("network.widths=[4,6,8]", "patch_size=[8,32,32]", "batch_size=1")
QUICK = ("epochs=1", "iterations_per_epoch=1", "workers=0", "validation_patches=1")


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def _run(verb, *arguments, code=0):
    level = logging.getLogger("siccs_net").level
    try:
        assert run_command(verb, [*map(str, arguments), "--quiet"]) == code
    finally:
        logging.getLogger("siccs_net").setLevel(level)


def _describe(folder, ending, channels, labels, cases, **keys):
    body = {"channel_names": channels, "labels": labels, "numTraining": cases, "file_ending": ending, **keys}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "dataset.json").write_text(json.dumps(body))


def _whole_way(root, configuration, *plan_settings):
    """Plan, prepare, train fold 0 of 2 for a step; return the dataset and its model folder."""
    dataset = root / "raw" / "Dataset007_Formats"
    common = ("--workspace", root)
    plan = ("--folds", 2, "--workers", 0, *(["--set", *plan_settings] if plan_settings else []))
    _run("validate", dataset, *common, "--workers", 0)
    _run("plan_and_preprocess", "-d", dataset, "-c", configuration, "--dry-run", *plan, *common)
    _run("plan_and_preprocess", "-d", dataset, "-c", configuration, *plan, *common)
    _run("train", dataset, configuration, 0, "--device", "cpu", "--set", *QUICK, *common)
    (model,) = (root / "results" / dataset.name).iterdir()
    return open_dataset(dataset), model


def _itk(path, array, spacing=(4, 4, 5), origin=(3.25, -7.5, 1 / 3)):
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(spacing)
    image.SetOrigin(origin)
    image.SetDirection((0, -1, 0, 1, 0, 0, 0, 0, 1))
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, path)
    return path


def test_labels_with_gaps_stored_as_float_in_nrrd(tmp_path):
    """Images in .nrrd, masks of float64 in .mha with the values 0, 2 and 300; predictions hold these again."""
    folder = tmp_path / "raw" / "Dataset007_Formats"
    for number in range(4):
        image, label = make_tiny_case(number, SHAPE)
        values = np.array([0, 2, 300, 2.0])[label]
        _itk(folder / "imagesTr" / f"c{number}_0000.nrrd", image)
        _itk(folder / "labelsTr" / f"c{number}.mha", values)
    _describe(folder, ".nrrd", {"0": "CT"}, {"background": 0, "lung": 2, "fibrosis": 300}, 4)
    dataset, model = _whole_way(tmp_path, "3d_fullres", *SMALL)
    for path in (model / "fold_0" / "validation").glob("*.nrrd"):
        mask = sitk.ReadImage(path)
        assert mask.GetPixelID() == sitk.sitkUInt16
        assert set(np.unique(sitk.GetArrayViewFromImage(mask))) <= {0, 2, 300}
    summary = json.loads((model / "fold_0" / "validation" / "summary.json").read_text())
    assert len(summary["metric_per_case"]) == 2
    _predict_other_endings(tmp_path, dataset, model)


def _predict_other_endings(root, dataset, model):
    """The same scan in three formats: each mask is in its scan's format, on its exact grid, and they are equal."""
    scan = sitk.ReadImage(dataset.cases["c0"].images[0])
    (root / "scans").mkdir()
    for name in ("a.mha", "b_0000.nrrd", "c.nii.gz"):
        sitk.WriteImage(scan, root / "scans" / name)
    _run("predict", "-i", root / "scans", "-o", root / "masks", "-m", model, "--device", "cpu")
    masks = [read_label(root / "masks" / name) for name in ("a.mha", "b.nrrd", "c.nii.gz")]
    assert np.array_equal(masks[0].array, masks[1].array)
    assert np.array_equal(masks[0].array, masks[2].array)
    for name in ("a.mha", "b.nrrd"):
        mask = sitk.ReadImage(root / "masks" / name)
        assert mask.GetOrigin() == scan.GetOrigin()
        assert mask.GetDirection() == scan.GetDirection()
        assert mask.GetSpacing() == scan.GetSpacing()
    _run("predict", "-i", root / "scans", "-o", root / "masks", "-m", model, "--device", "cpu")


def test_a_colour_picture_dataset(tmp_path):
    """RGB in one PNG a case, masks of 0 and 255."""
    folder = tmp_path / "raw" / "Dataset007_Formats"
    rng = np.random.default_rng(0)
    for kind in ("imagesTr", "labelsTr"):
        (folder / kind).mkdir(parents=True)
    for number in range(4):
        mask = np.zeros((32, 40), np.uint8)
        mask[8 : 20 + number, 10:25] = 255
        picture = rng.integers(0, 80, (32, 40, 3), dtype=np.uint8) + (mask // 2)[..., None]
        Pillow.fromarray(picture).save(folder / "imagesTr" / f"p{number}_0000.png")
        Pillow.fromarray(mask).save(folder / "labelsTr" / f"p{number}.png")
    channels = {"0": "rgb_to_0_1", "1": "RGB_to_0_1", "2": "rescale_to_0_1"}
    _describe(
        folder, ".png", channels, {"background": 0, "spot": 255}, 4, overwrite_image_reader_writer="NaturalImage2DIO"
    )
    dataset, model = _whole_way(tmp_path, "2d", "batch_size=2")
    assert len(dataset.cases) == 4
    record = FinalRecord.from_json((model / "fold_0" / "final.json").read_text())
    assert [item.scheme for item in record.normalisation.channels] == ["rgb_to_0_1", "rgb_to_0_1", "rescale_to_0_1"]
    _run("predict", "-i", folder / "imagesTr", "-o", tmp_path / "masks", "-m", model, "--device", "cpu")
    for number in range(4):
        mask = np.asarray(Pillow.open(tmp_path / "masks" / f"p{number}.png"))
        assert mask.shape == (32, 40)
        assert set(np.unique(mask)) <= {0, 255}
    _run("evaluate", "-i", tmp_path / "masks", "-r", folder / "labelsTr", "-o", tmp_path / "score", "--workers", 0)
    assert len(json.loads((tmp_path / "score" / "summary.json").read_text())["metric_per_case"]) == 4


def test_two_channels_of_two_formats_by_explicit_paths(tmp_path, monkeypatch):
    """`dataset` names every file: an environment variable, images of two endings, scaled integers as labels."""
    monkeypatch.setenv("SICCS_TEST_SCANS", str(tmp_path / "elsewhere"))
    folder, cases = tmp_path / "raw" / "Dataset007_Formats", {}
    for number in range(4):
        image, label = make_tiny_case(number, SHAPE)
        first = tmp_path / "elsewhere" / f"ct {number}.nii.gz"
        write_image(first, image, read_image([_itk(tmp_path / "x.nrrd", image)]).orientation)
        place = read_image([first])
        write_image(folder / "pet" / f"{number}.mha", image.astype(np.float32) / 7, place.orientation)
        stored = place.orientation.to_native(label > 0).astype(np.int16) * 4
        scaled = nib.Nifti1Image(stored, place.header.get_sform())
        scaled.header.set_slope_inter(0.5, 0)
        (folder / "masks").mkdir(exist_ok=True)
        nib.save(scaled, folder / "masks" / f"{number}.nii")
        images = [f"$SICCS_TEST_SCANS/ct {number}.nii.gz", f"pet/{number}.mha"]
        cases[f"case{number}"] = {"images": images, "label": f"masks/{number}.nii"}
    labels = {"background": 0, "lung": 2}
    _describe(folder, ".nrrd", {"0": "NoNorm", "1": "MRI"}, labels, 4, dataset=cases)
    _, model = _whole_way(tmp_path, "3d_fullres", *SMALL)
    record = FinalRecord.from_json((model / "fold_0" / "final.json").read_text())
    assert [item.scheme for item in record.normalisation.channels] == ["none", "zscore_image"]
    assert len(list((model / "fold_0" / "validation").glob("case*.nrrd"))) == 2
