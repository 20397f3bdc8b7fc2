"""The previous stage's segmentation: on the second stage's grid, one-hot, disturbed, and moved with the image."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from siccs_net.augment.previous_stage import OPERATIONS, Disturbance, ball_operation, disturb, draw_disturbance
from siccs_net.augment.settings import NONE, AugmentationSettings
from siccs_net.data.foreground import ForegroundIndex
from siccs_net.data.loader import PatchReader, TrainingBatches
from siccs_net.data.sampling import PatchSampler
from siccs_net.errors import DataError, StoreError
from siccs_net.io.image import Image
from siccs_net.io.stage_store import StageStore
from siccs_net.io.store import PreparedStore
from siccs_net.preprocessing.preprocess import preprocess_case
from siccs_net.preprocessing.previous_stage import one_hot, stage_on_grid
from siccs_net.records.case import StageRecord
from siccs_net.records.dataset import LabelScheme
from siccs_net.records.network import NetworkSpec
from siccs_net.records.plan import ChannelNormalisation, Configuration, CropBody, Orient, Resample, Resize
from siccs_net.records.statistics import ChannelScaling, Normalisation
from siccs_net.testing.tiny import make_tiny_case

LABELS = LabelScheme({"background": 0, "lung": 1, "EF": 5, "GGO": 7}, ignore=9)
REGIONS = LabelScheme({"background": 0}, {"lesion": (5, 7), "all": (1, 5, 7)}, ignore=9, regions_class_order=(5, 1))
PATCH = (8, 16, 16)


def _configuration(*steps):
    network = NetworkSpec(
        architecture="convnext_unet",
        dimension=3,
        in_channels=4,
        classes=4,
        widths=(4,),
        strides=((1, 1, 1),),
        kernel_sizes=((3, 3, 3),),
        blocks_encoder=(1,),
        blocks_decoder=(1,),
        stem_stride=(1, 1, 1),
        deep_supervision=False,
    )
    return Configuration(
        dimension=3,
        steps=steps,
        spacing_mm=(1, 1, 1),
        median_shape=(1, 1, 1),
        storage="int16",
        normalisation=(ChannelNormalisation(scheme="ct"),),
        patch_size=PATCH,
        batch_size=1,
        iterations_per_epoch=1,
        network=network,
        previous_stage="3d_lowres",
    )


@pytest.mark.parametrize("labels", [LABELS, REGIONS])
@pytest.mark.parametrize(
    ("spacing_mm", "steps"),
    [
        ((5.0, 4.0, 4.0), (Orient(), CropBody(), Resample(spacing_mm=(3.1, 2.7, 2.7)))),
        ((9.0, 2.0, 2.0), (Orient(transpose=(2, 0, 1)), CropBody(), Resample(spacing_mm=(2.5, 4.0, 2.5)))),
        ((5.0, 4.0, 4.0), (Orient(), Resample(spacing_mm=(None, 3.0, 3.0)), Resize(shape=(8, 32, 24)))),
    ],
)
def test_the_mask_goes_the_way_of_a_label(spacing_mm, steps, labels):
    """The same values, brought in as a training label, land on the same voxels."""
    image, label = make_tiny_case(3, spacing_mm=spacing_mm)
    values = np.array([0, 1, 5, 7], np.uint8)[label]
    scan, mask = (Image.from_array(array, spacing_mm=spacing_mm) for array in (image, values))
    configuration = _configuration(*steps)
    prepared = preprocess_case(scan, mask, configuration, labels, case="x")
    stage = stage_on_grid(values, prepared.record.geometry, configuration, labels)
    assert stage.dtype == np.uint8
    assert np.array_equal(stage, prepared.label)
    assert set(np.unique(stage)) == {0, 1, 2, 3}


def test_masks_that_are_not_the_scans_are_refused():
    image, label = make_tiny_case(3)
    configuration = _configuration(Orient(), CropBody(), Resample(spacing_mm=(5.0, 4.0, 4.0)))
    scan = Image.from_array(image, spacing_mm=(5.0, 4.0, 4.0))
    geometry = preprocess_case(scan, None, configuration, LABELS, case="x").record.geometry
    with pytest.raises(DataError, match="not of this scan"):
        stage_on_grid(np.zeros((3, 4, 5), np.uint8), geometry, configuration, LABELS)
    with pytest.raises(DataError, match=r"no label; found \[2, 3\]"):
        stage_on_grid(label, geometry, configuration, LABELS)
    ignored = np.full(label.shape, 9, np.uint8)
    assert not stage_on_grid(ignored, geometry, configuration, LABELS).any()
    other = _configuration(Orient(), CropBody(), Resample(spacing_mm=(7.0, 4.0, 4.0)))
    with pytest.raises(DataError, match="made by other steps"):
        stage_on_grid(np.zeros_like(label), geometry, other, LABELS)


def test_one_hot_has_a_channel_a_foreground_label():
    stage = np.array([[0, 1], [3, 1]], np.int16)
    shown = one_hot(stage, 3)
    assert shown.dtype == np.float32
    assert shown.tolist() == [[[0, 1], [0, 1]], [[0, 0], [0, 0]], [[0, 0], [1, 0]]]


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("radius", [1, 2, 5])
def test_operations_are_those_of_a_ball(operation, radius):
    from skimage.morphology import ball

    rng = np.random.default_rng(radius)
    mask = np.pad(ndimage.gaussian_filter(rng.random((14, 16, 18)), 1.5) > 0.5, 2 * radius + 1)
    expected = getattr(ndimage, f"binary_{operation}")(mask, ball(radius))
    assert np.array_equal(ball_operation(mask, operation, radius), expected)
    assert expected.any() or operation in ("erosion", "opening")


def test_the_patchs_border_is_no_border():
    full = np.ones((4, 5), bool)
    assert ball_operation(full, "erosion", 2).all()
    assert not ball_operation(~full, "dilation", 2).any()
    assert ball_operation(np.pad(full, ((0, 0), (0, 1))), "closing", 3)[:, :5].all()


def test_a_label_takes_from_others_and_leaves_background():
    stage = np.zeros((20, 20), np.uint8)
    stage[5:15, 5:10], stage[5:15, 10:15] = 1, 2
    grown = disturb(stage, Disturbance(operations=((1, "dilation", 2),)), largest_share=1)
    assert grown[10, 11] == 1
    assert grown[10, 12] == 2
    assert grown[3, 7] == 1
    shrunk = disturb(stage, Disturbance(operations=((2, "erosion", 2),)), largest_share=1)
    assert shrunk[10, 11] == 0
    assert shrunk[10, 12] == 2
    assert np.array_equal(stage == 1, shrunk == 1)
    assert disturb(stage, Disturbance(operations=((3, "dilation", 2),)), largest_share=1).tolist() == stage.tolist()


@pytest.mark.parametrize("label", [1, 2])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_working_in_the_labels_box_changes_nothing(operation, label):
    rng = np.random.default_rng(4)
    stage = (ndimage.gaussian_filter(rng.random((16, 24, 20)), 2) > 0.5).astype(np.uint8)
    stage[:, 12:] *= 2
    stage[:, :, :3] = 0
    mask = stage == label
    after = ball_operation(mask, operation, 3)
    expected = np.where(after, label, np.where(mask, 0, stage))
    assert np.array_equal(disturb(stage, Disturbance(operations=((label, operation, 3),)), largest_share=1), expected)


def test_one_small_component_goes():
    stage = np.zeros((10, 30), np.uint8)
    stage[2:8, 2:14] = 1
    stage[2:4, 16:18] = 1
    stage[4, 18] = 1  # touches by a corner: the same component
    stage[8, 25] = 1
    stage[0, 20] = 2
    results = [
        disturb(stage, Disturbance(removals=((1, pick),)), largest_share=0.15) for pick in (0.0, 0.49, 0.5, 0.99)
    ]
    first, second = stage.copy(), stage.copy()
    first[:, 15:20] = 0
    second[8, 25] = 0
    assert np.array_equal(results[0], first)
    assert np.array_equal(results[1], first)
    assert np.array_equal(results[2], second)
    assert np.array_equal(results[3], second)
    whole = disturb(stage, Disturbance(removals=((1, 0.0),)), largest_share=0.5)
    assert not whole[2:8, 2:14].any()
    assert np.array_equal(disturb(stage, Disturbance(removals=((2, 0.3), (3, 0.3))), largest_share=0.001), stage)


def test_draws_are_as_often_as_the_settings_say():
    settings = AugmentationSettings()
    rng = np.random.default_rng(0)
    drawn = [draw_disturbance(settings, 2, rng) for _ in range(4000)]
    assert np.mean([len(one.operations) for one in drawn]) == pytest.approx(0.4 * 0.5 * 2, abs=0.03)
    assert np.mean([len(one.removals) for one in drawn]) == pytest.approx(0.2 * 0.5 * 2, abs=0.03)
    radii = [radius for one in drawn for _, _, radius in one.operations]
    assert (min(radii), max(radii)) == (1, 8)
    assert {name for one in drawn for _, name, _ in one.operations} == set(OPERATIONS)
    assert {label for one in drawn for label, _ in one.removals} == {1, 2}
    assert draw_disturbance(NONE, 2, rng) == Disturbance()
    again = [draw_disturbance(settings, 2, np.random.default_rng(5)) for _ in range(2)]
    assert again[0] == again[1]


@pytest.fixture(scope="module")
def batches(tmp_path_factory):
    """Batches of prepared cases whose previous stage is their label."""
    root = tmp_path_factory.mktemp("stores")
    configuration = _configuration(Orient(), Resample(spacing_mm=(5.0, 4.0, 4.0)))
    scheme = LabelScheme({"background": 0, "lung": 1, "EF": 2, "GGO": 3})
    store, stages = PreparedStore(root / "cases", 3), StageStore(root / "stage", 3, "abc")
    for number in range(2):
        image, label = (Image.from_array(array, spacing_mm=(5, 4, 4)) for array in make_tiny_case(number))
        prepared = preprocess_case(image, label, configuration, scheme, case=str(number))
        store.save(prepared)
        stages.save(_record(str(number)), prepared.label)
    scaling = ChannelScaling(scheme="ct", lower=-1000, upper=400, mean=0, std=500)
    index = ForegroundIndex(store, ["0", "1"], 4)

    def make(settings, patch=PATCH):
        reader = PatchReader(store, Normalisation(channels=(scaling,)), patch, stages, 3)
        sampler = PatchSampler(index, ("0", "1"), patch, 0.7, 0, "0")
        axes, spacing = tuple(range(len(patch))), (5.0, 4.0, 4.0)[-len(patch) :]
        return TrainingBatches(reader, sampler, settings, (), axes, spacing, 2, 8)

    return make


def _record(case):
    return StageRecord(
        case=case, fold="0", weights_sha256="w", mask_sha256="m", image_sha256="i", recipe_sha256="r", array_sha256=""
    )


@pytest.mark.parametrize("patch", [PATCH, (24, 16)])
def test_the_stage_is_rotated_scaled_and_mirrored_with_the_label(batches, patch):
    settings = NONE.model_copy(update={"rotation_probability": 0.5, "scaling_probability": 0.5})
    for iteration in range(8):
        batch = batches(settings, patch)[(0, iteration)]
        assert batch.images.shape == (2, 4, *patch)
        for image, label in zip(batch.images.numpy(), batch.labels.numpy(), strict=True):
            assert np.array_equal(image[1:], one_hot(label, 3))
            assert image[0].any()


def test_only_the_stage_is_disturbed(batches):
    settings = NONE.model_copy(update={"stage_morphology_probability": 1.0, "stage_label_probability": 1.0})
    changed = []
    for iteration in range(4):
        plain, batch = batches(NONE)[(0, iteration)], batches(settings)[(0, iteration)]
        assert np.array_equal(batch.images[:, 0], plain.images[:, 0])
        assert np.array_equal(batch.labels, plain.labels)
        assert np.array_equal(batch.images, batches(settings)[(0, iteration)].images)
        assert float(batch.images[:, 1:].sum(1).max()) <= 1
        changed.append(not np.array_equal(batch.images, plain.images))
    assert any(changed)


def test_a_store_knows_what_it_holds(tmp_path):
    store = StageStore(tmp_path, 3, "abc")
    record = _record("x")
    assert not store.holds(record)
    stage = np.arange(8 * 8 * 8, dtype=np.uint8).reshape(8, 8, 8)
    store.save(record, stage)
    assert store.holds(record)
    assert np.array_equal(store.stage("x")[:], stage)
    for change in ({"weights_sha256": "v"}, {"mask_sha256": "n"}, {"image_sha256": "j"}, {"fold": "1"}):
        assert not store.holds(record.model_copy(update=change))
    path = tmp_path / "x_seg.b2nd"
    path.write_bytes(path.read_bytes()[:-1])
    assert not store.holds(record)
    path.unlink()
    with pytest.raises(StoreError, match="cannot be opened"):
        store.stage("x")
