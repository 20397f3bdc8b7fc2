"""Plans from fingerprints: presets, overrides, provenance, memory; nothing is read or written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from siccs_net.errors import UsageError
from siccs_net.io.dataset import Case, Dataset
from siccs_net.networks.shapes import feature_shapes
from siccs_net.planners.planner import PLANNERS, PlanRequest, make_plan
from siccs_net.planners.presets import TRAINER_OF
from siccs_net.preprocessing.statistics import measure
from siccs_net.records.dataset import DatasetDescription
from siccs_net.records.fingerprint import CaseFingerprint, Fingerprint
from siccs_net.records.plan import Plan


def _dataset(channels=("CT",), cases=40):
    body = {
        "channel_names": {str(number): name for number, name in enumerate(channels)},
        "labels": {"background": 0, "normal_lung": 1, "EF": 2, "GGO": 3},
        "numTraining": cases,
        "file_ending": ".nii.gz",
    }
    named = {
        f"c{number:02d}": Case(f"c{number:02d}", (Path("a"),) * len(channels), Path("b")) for number in range(cases)
    }
    return Dataset(Path("Dataset001_X"), DatasetDescription.from_json(json.dumps(body)), named)


def _fingerprint(dataset):
    import numpy as np

    statistics = (measure(np.arange(10, dtype=np.int16)),) * dataset.description.channels
    cases = tuple(
        CaseFingerprint(
            case=name,
            input_sha256=("0",),
            spacing_mm=(1.25, 0.7, 0.7),
            shape=(240, 512, 512),
            crop_box=((0, 240), (80, 440), (20, 490)),
            label_voxels={"0": 1, "1": 1},
            statistics_all=statistics,
            statistics_foreground=statistics,
        )
        for name in dataset.cases
    )
    ct = dataset.description.channel_names["0"] == "CT"
    return Fingerprint(
        dataset_name="Dataset001_X", crop_threshold_hu=-500.0 if ct else None, crop_margin_mm=10.0, cases=cases
    )


def _plan(dataset=None, **request):
    dataset = dataset or _dataset()
    return make_plan(dataset, _fingerprint(dataset), PlanRequest(**request))


def test_the_papers_network_halves_320_320_40_to_40_40_5():
    configuration = _plan(preset="vahdani2026").configurations["3d_fullres"]
    assert feature_shapes(configuration.network, configuration.patch_size) == [
        (40, 320, 320),
        (20, 160, 160),
        (10, 80, 80),
        (5, 40, 40),
    ]
    assert configuration.network.blocks_encoder == configuration.network.blocks_decoder == (1, 1, 3, 1)
    assert [step.step for step in configuration.steps] == ["orient", "resample", "resize", "clahe"]
    assert configuration.iterations_per_epoch == 35
    assert configuration.network.initialisation == "truncated_normal"
    assert configuration.network.stem_stride == (1, 1, 1)
    assert not configuration.network.deep_supervision


@pytest.mark.parametrize("planner", PLANNERS)
def test_every_planner_gives_a_whole_plan_that_survives_its_file(planner):
    made = _plan(planner=planner)
    assert list(made.configurations) == ["2d", "3d_fullres"]
    assert Plan.from_json(made.to_json()) == made
    for configuration in made.configurations.values():
        assert configuration.steps[1].step == "crop_body"
        assert configuration.memory.training_bytes > configuration.memory.inference_bytes > 0
    assert made.trainer == TRAINER_OF.get(planner, "SiccsTrainer")
    assert "assumed" in made.provenance.values()


@pytest.mark.parametrize("preset", ["vahdani2026", "vahdani2026_patch", "demo"])
def test_every_setting_of_a_preset_has_a_provenance(preset):
    made = _plan(preset=preset)
    assert set(made.provenance.values()) <= {"paper", "library_default", "assumed"}
    if preset.startswith("vahdani"):
        given = made.provenance
        assert given["configurations.3d_fullres.network.widths"] == "assumed"
        assert given["configurations.3d_fullres.network.blocks_encoder"] == "paper"
        assert given["configurations.3d_fullres.steps.clahe.clip_limit"] == "library_default"
        assert given["training.epochs"] == given["folds"] == "paper"
        assert _plan(preset=preset, folds=5).provenance["folds"] == "user"


def test_overrides_reach_every_configuration_and_are_marked():
    made = _plan(settings={"batch_size": 3, "training.epochs": 7, "inference.overlap": 0.25, "spacing_mm": [2, 1, 1]})
    for configuration in made.configurations.values():
        assert configuration.batch_size == 3
        assert configuration.inference.overlap == 0.25
    assert made.configurations["3d_fullres"].spacing_mm == (2.0, 1.0, 1.0)
    assert made.training == {"epochs": 7}
    assert made.provenance["batch_size"] == made.provenance["spacing_mm"] == "user"


def test_a_presets_spacing_can_be_set():
    before = _plan(preset="demo").configurations["3d_fullres"]
    made = _plan(preset="demo", settings={"spacing_mm": [2.5, 2, 4]})
    after = made.configurations["3d_fullres"]
    resample = next(step for step in after.steps if step.step == "resample")
    assert resample.spacing_mm == after.spacing_mm == (2.5, 2.0, 4.0)
    z, y, x = before.median_shape
    assert after.median_shape == (2 * z, 2 * y, x)
    assert made.provenance["spacing_mm"] == "user"


def test_spacing_before_a_resize_leaves_the_prepared_spacing():
    before = _plan(preset="vahdani2026").configurations["3d_fullres"]
    made = _plan(preset="vahdani2026", settings={"spacing_mm": [2, 1, 1]})
    after = made.configurations["3d_fullres"]
    assert next(step for step in after.steps if step.step == "resample").spacing_mm == (2.0, 1.0, 1.0)
    assert (after.spacing_mm, after.median_shape) == (before.spacing_mm, before.median_shape)
    assert made.provenance["configurations.3d_fullres.steps.resample.spacing_mm"] == "user"


def test_spacing_of_a_plan_without_resampling_is_refused():
    steps = [{"step": "orient"}]
    with pytest.raises(UsageError, match="does not resample"):
        _plan(preset="demo", settings={"steps": steps, "spacing_mm": [2, 1, 1]})


@pytest.mark.parametrize("name", ["", "../x", "a/b", "a..b", "a__b", ".a", "-a", "a b", "a\n"])
def test_a_name_that_cannot_be_a_files_is_refused(name):
    with pytest.raises(UsageError, match="cannot be called"):
        _plan(settings={"name": name})
    if name:
        with pytest.raises(UsageError, match="cannot be called"):
            _plan(name=name)


@pytest.mark.parametrize("name", ["a", "convnext_2-mm.v1", "7"])
def test_a_good_name_is_kept(name):
    assert _plan(name=name).name == name


def test_a_bigger_gpu_gives_a_bigger_plan():
    small, large = (_plan(settings={"target_vram_gb": gb}).configurations["3d_fullres"] for gb in (8, 24))
    assert large.memory.training_bytes > 1.5 * small.memory.training_bytes


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        ({"planner": "convnet"}, "Did you mean convnext"),
        ({"preset": "vahdani"}, "Did you mean vahdani2026"),
        ({"configurations": ("3d_lowres",)}, "no configuration 3d_lowres"),
        ({"preset": "demo", "configurations": ("2d",)}, "no configuration 2d"),
        ({"settings": {"batchsize": 3}}, "Did you mean batch_size"),
        ({"settings": {"batch_size": 0}}, "batch_size"),
        ({"settings": {"spacing_mm": 3}}, "three positive numbers"),
        ({"settings": {"spacing_mm": ["a", 1, 1]}}, "three positive numbers"),
        ({"preset": "demo", "settings": {"spacing_mm": [0, 1, 1]}}, "three positive numbers"),
        ({"settings": {"target_vram_gb": "much"}}, "target_vram_gb must be a positive number"),
        ({"settings": {"steps.resample.order": 1}}, "no setting 'steps.resample.order'"),
        ({"settings": {"network.widths": [1]}}, "widths"),
    ],
)
def test_wrong_requests_are_one_clear_error(request_, words):
    with pytest.raises(UsageError, match=words):
        _plan(**request_)


def test_channels_that_are_not_ct_are_normalised_by_image():
    made = _plan(_dataset(channels=("T1", "noNorm")))
    configuration = made.configurations["3d_fullres"]
    assert [item.scheme for item in configuration.normalisation] == ["zscore_image", "none"]
    assert configuration.storage == "float32"
    assert [step.step for step in configuration.steps] == ["orient", "resample"]
    with pytest.raises(UsageError, match="one channel named CT"):
        _plan(_dataset(channels=("T1",)), preset="vahdani2026")
