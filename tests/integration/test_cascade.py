"""A cascade through the commands: plan with overrides, train both stages, predict chained and from masks, evaluate."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from siccs_net.cli.process import run_command
from siccs_net.errors import ModelError, UsageError
from siccs_net.inference.load_model import load_model
from siccs_net.io.dataset import open_dataset
from siccs_net.io.image import read_image, read_label
from siccs_net.io.stage_store import StageStore
from siccs_net.io.store import PreparedStore
from siccs_net.pipeline.train import train
from siccs_net.preprocessing.previous_stage import stage_on_grid
from siccs_net.records.plan import Plan
from siccs_net.testing.tiny import write_tiny_dataset
from siccs_net.workspace import Workspace

NETWORK = {
    "widths": [8, 12],
    "strides": [[1, 1, 1], [2, 2, 2]],
    "kernel_sizes": [[3, 3, 3], [3, 3, 3]],
    "blocks_encoder": [1, 1],
    "blocks_decoder": [1, 1],
    "stem_stride": [1, 2, 2],
}
OVERRIDES = {
    "configurations": {
        "3d_fullres": {"patch_size": [8, 32, 32], "batch_size": 1, "iterations_per_epoch": 2, "network": NETWORK},
        "3d_lowres": {"inherits_from": "3d_fullres", "spacing_mm": [10, 8, 8]},
        "3d_cascade_fullres": {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"},
    }
}
LOWRES, CASCADE = "3d_lowres", "3d_cascade_fullres"
QUICK = {"epochs": 1, "iterations_per_epoch": 1, "workers": 0, "validation_patches": 1}
SETTINGS = [f"{name}={value}" for name, value in {**QUICK, "iterations_per_epoch": 2}.items()]


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Workspace:
    """Both stages of a cascade, trained in two folds by the commands."""
    root = tmp_path_factory.mktemp("cascade")
    write_tiny_dataset(root / "raw" / "Dataset999_Tiny", cases=4)
    (root / "overrides.json").write_text(json.dumps(OVERRIDES))
    plan = ["-d", 999, "--folds", 2, "-c", LOWRES, CASCADE, "--overrides", root / "overrides.json"]
    assert command("plan_and_preprocess", root, *plan) == 0
    assert command("train", root, 999, LOWRES, "all", "--device", "cpu", "--set", *SETTINGS) == 0
    assert command("train", root, 999, CASCADE, "all", "--device", "cpu", "--set", *SETTINGS) == 0
    return Workspace.resolve(root)


def command(verb, root, *arguments):
    return run_command(verb, ["--workspace", str(root), "--quiet", *map(str, arguments)])


def model(workspace, configuration):
    return workspace.model_folder("Dataset999_Tiny", "SiccsTrainer", "convnext", configuration)


def root_of(workspace):
    return workspace.results.parent


def arguments_of(workspace, configuration=CASCADE):
    dataset = open_dataset(workspace.find_dataset(999))
    plan = Plan.from_json(workspace.prepared_dataset(dataset.name).plan("convnext").read_text())
    return dataset, plan, configuration


@pytest.fixture
def copied(trained, tmp_path) -> Workspace:
    """A copy to change."""
    shutil.copytree(root_of(trained), tmp_path / "copy")
    return Workspace.resolve(tmp_path / "copy")


def test_the_second_stage_shares_the_prepared_cases_and_names_its_first(trained):
    names = {path.name.split("_previous_")[0] for path in trained.prepared_dataset("Dataset999_Tiny").root.iterdir()}
    assert {"convnext_3d_lowres", "convnext_3d_fullres", "convnext_3d_cascade_fullres"} <= names
    assert not trained.prepared_dataset("Dataset999_Tiny").prepared("convnext", CASCADE).exists()
    previous = json.loads(model(trained, CASCADE).model.read_text())["previous"]
    assert previous["folder"] == "SiccsTrainer__convnext__3d_lowres"
    for fold, digest in previous["weights_sha256"].items():
        assert json.loads(model(trained, LOWRES).fold(fold).record.read_text())["weights_sha256"] == digest


def test_every_case_is_shown_the_mask_of_the_fold_that_did_not_see_it(trained):
    place = trained.prepared_dataset("Dataset999_Tiny")
    (folder,) = place.root.glob("convnext_3d_cascade_fullres_previous_*")
    dataset, plan, _ = arguments_of(trained)
    prepared = PreparedStore(place.prepared("convnext", "3d_fullres"), 3)
    for fold, members in enumerate(json.loads(place.splits.read_text())):
        for case in members["val"]:
            assert json.loads((folder / f"{case}.json").read_text())["fold"] == str(fold)
            mask = read_label(model(trained, LOWRES).fold(fold).validation / f"{case}.nii.gz").array[0]
            geometry = prepared.read_record(case).geometry
            expected = stage_on_grid(mask, geometry, plan.configurations[CASCADE], dataset.labels)
            assert np.array_equal(StageStore(folder, 3, "").stage(case)[:], expected)


def test_validation_of_a_fold_is_shown_the_out_of_fold_masks(trained):
    dataset, _, _ = arguments_of(trained)
    for fold in (0, 1):
        run = model(trained, CASCADE).fold(fold)
        for case in json.loads(run.record.read_text())["validation_cases"]:
            mask = model(trained, LOWRES).fold(fold).validation / f"{case}.nii.gz"
            alone = load_model(model(trained, CASCADE).root, folds=[fold], device="cpu", previous=False)
            again = alone.predict(dataset.cases[case].images, previous=mask)
            assert np.array_equal(again.array[0], read_label(run.validation / f"{case}.nii.gz").array[0])


def test_prediction_chains_the_stages_and_takes_given_masks(trained, tmp_path):
    root, scans = root_of(trained), trained.find_dataset(999) / "imagesTr"
    common = ["-i", scans, "-d", 999, "--device", "cpu"]
    assert command("predict", root, *common, "-c", CASCADE, "-o", tmp_path / "chained") == 0
    assert command("predict", root, *common, "-c", LOWRES, "-o", tmp_path / "first") == 0
    given = ["-c", CASCADE, "--prev-stage-predictions", tmp_path / "first"]
    assert command("predict", root, *common, *given, "-o", tmp_path / "given") == 0
    for path in (tmp_path / "chained").glob("*.nii.gz"):
        chained, from_masks, first = (
            read_image([tmp_path / name / path.name]).array for name in ("chained", "given", "first")
        )
        assert np.array_equal(chained, from_masks)
        assert not np.array_equal(chained, first)
    evaluate = ["-i", tmp_path / "chained", "-r", trained.find_dataset(999) / "labelsTr", "-o", tmp_path / "evaluation"]
    assert command("evaluate", root, *evaluate) == 0
    assert len(json.loads((tmp_path / "evaluation" / "summary.json").read_text())["metric_per_case"]) == 4


def test_a_mask_decides_what_the_second_stage_says(trained):
    dataset, _, _ = arguments_of(trained)
    second = load_model(model(trained, CASCADE).root, device="cpu", previous=False)
    case = dataset.cases["tiny_000"]
    label = read_label(case.label).array[0]
    shown = [second.predict(case.images, previous=mask).array for mask in (label, np.zeros_like(label))]
    assert not np.array_equal(*shown)
    with pytest.raises(ModelError, match=r"3d_lowres was not loaded.*Give its masks"):
        second.predict(case.images)


def test_existing_masks_are_kept_only_for_the_same_previous_masks(trained, tmp_path, capsys):
    root, scan = root_of(trained), trained.find_dataset(999) / "imagesTr" / "tiny_000_0000.nii.gz"
    masks = tmp_path / "masks"
    shutil.copytree(trained.find_dataset(999) / "labelsTr", masks)
    arguments = ["-i", scan, "-d", 999, "-c", CASCADE, "--device", "cpu", "-o", tmp_path / "out"]
    arguments += ["--prev-stage-predictions", masks]
    assert command("predict", root, *arguments) == 0
    assert command("predict", root, *arguments) == 0
    assert "kept" in capsys.readouterr().out
    shutil.copy(masks / "tiny_001.nii.gz", masks / "tiny_000.nii.gz")
    assert command("predict", root, *arguments) == 4
    (masks / "tiny_000.nii.gz").unlink()
    assert command("predict", root, *arguments, "--overwrite") == 4
    assert "no mask of the previous stage" in capsys.readouterr().err


def test_without_its_first_stage_the_command_is_named(copied, capsys):
    root, first = root_of(copied), model(copied, LOWRES)
    start = ["train", root, 999, CASCADE, "0", "--device", "cpu", "--overwrite"]
    (first.fold(1).validation / "summary.json").unlink()
    assert command(*start) == 2
    error = capsys.readouterr().err
    assert "found folds 1 of 2 not trained and validated" in error
    assert "siccs_train Dataset999_Tiny 3d_lowres all -p convnext --resume" in error
    shutil.rmtree(first.root)
    assert command(*start) == 2
    error = capsys.readouterr().err.strip()
    assert error.endswith("found no such model. Run siccs_train Dataset999_Tiny 3d_lowres all -p convnext")
    assert "\n" not in error
    assert command("predict", root, "-i", root / "raw", "-o", root / "out", "-d", 999, "-c", CASCADE) == 2
    assert "previous stage is not there" in capsys.readouterr().err


def test_a_first_stage_that_changed_is_noticed(copied, caplog):
    workspace = copied
    train(*arguments_of(workspace, LOWRES), 0, settings={**QUICK, "seed": 5}, overwrite=True, workspace=workspace)
    second = model(workspace, CASCADE)
    with pytest.raises(ModelError, match=r"3d_lowres.*trained anew.*--previous-model"):
        load_model(second.root, device="cpu")
    assert load_model(second.root, device="cpu", previous=model(workspace, LOWRES).root).previous is not None
    assert "holds other weights" in caplog.text
    with pytest.raises(ModelError, match=r"other weights of the previous stage; found folds 0, 1.*--overwrite"):
        train(*arguments_of(workspace), 0, settings=QUICK, resume=True, workspace=workspace)
    with pytest.raises(ModelError, match=r"other weights of the previous stage; found folds 1\. "):
        train(*arguments_of(workspace), 0, settings=QUICK, overwrite=True, workspace=workspace)
    train(*arguments_of(workspace), "all", settings=QUICK, overwrite=True, workspace=workspace)
    assert load_model(second.root, device="cpu").previous.folds == ("0", "1")
    folders = list(workspace.prepared_dataset("Dataset999_Tiny").root.glob("*_previous_*"))
    assert len(folders) == 2


def test_one_model_on_every_case_is_shown_out_of_fold_masks_too(copied):
    (result,) = train(*arguments_of(copied), "full", settings=QUICK, workspace=copied)
    assert result.validation is None
    loaded = load_model(model(copied, CASCADE).root, folds=["full"], device="cpu")
    assert loaded.previous.folds == ("0", "1")


def test_options_of_a_cascade_need_one(trained, tmp_path, capsys):
    arguments = ["-i", tmp_path, "-o", tmp_path / "out", "-d", 999, "-c", LOWRES, "--prev-stage-predictions", tmp_path]
    assert command("predict", root_of(trained), *arguments) == 2
    assert "no second stage" in capsys.readouterr().err
    assert command("predict", root_of(trained), *arguments[:-2], "--previous-model", tmp_path) == 2
    assert "no model comes before it" in capsys.readouterr().err
    first = load_model(model(trained, LOWRES).root, folds=[0], device="cpu")
    with pytest.raises(UsageError, match="no second stage"):
        first.predict(arguments_of(trained)[0].cases["tiny_000"].images, previous=np.zeros((1, 1, 1)))


def test_configurations_that_share_cases_prepared_otherwise_are_dropped(copied, caplog):
    flags = ["-d", 999, "-c", "3d_fullres", "--no-preprocess", "--target-vram", 4]
    assert command("plan_and_preprocess", root_of(copied), *flags, "--overwrite-target-spacing", 6, 5, 5) == 0
    plan = arguments_of(copied)[1]
    assert plan.configurations["3d_fullres"].spacing_mm == (6.0, 5.0, 5.0)
    assert set(plan.configurations) == {LOWRES, "3d_fullres"}
    assert "dropped of the earlier plan: 3d_cascade_fullres" in caplog.text
    assert plan.provenance["target_vram_gb"] == plan.provenance["spacing_mm"] == "user"


def test_a_plan_is_taken_over_by_another_dataset(copied, capsys):
    root = root_of(copied)
    write_tiny_dataset(root / "raw" / "Dataset998_Other", cases=4)
    assert command("plan_and_preprocess", root, "-d", 998, "--plan-from", 999, "--no-preprocess", "--folds", 2) == 0
    source, path = arguments_of(copied)[1], copied.prepared_dataset("Dataset998_Other").plan("convnext")
    moved = Plan.from_json(path.read_text())
    assert {name: item.network for name, item in moved.configurations.items()} == {
        name: item.network for name, item in source.configurations.items()
    }
    assert moved.provenance["plan"] == "moved:Dataset999_Tiny/convnext"
    again = ["-d", 998, "--plan-from", path, "--plan-name", "mine", "--no-preprocess"]
    assert command("plan_and_preprocess", root, *again) == 0
    assert command("plan_and_preprocess", root, "-d", 999, "--plan-from", 998) == 2
    assert "more than one plan; found convnext, mine. Name the plan's JSON file" in capsys.readouterr().err
    assert command("plan_and_preprocess", root, "-d", 999, "--plan-from", path, "--preset", "demo") == 2


def test_a_setting_is_given_one_way(trained, capsys):
    flags = ["-d", 999, "--dry-run", "--target-vram", 4, "--set", "target_vram_gb=5"]
    assert command("plan_and_preprocess", root_of(trained), *flags) == 2
    assert "--target-vram and --set target_vram_gb are the same setting" in capsys.readouterr().err
