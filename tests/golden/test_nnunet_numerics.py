"""nnU-Net 2.8.1's own numbers (made by make_nnunet_numerics.py) against ours, and where ours differ on purpose."""

from __future__ import annotations

import base64
import json
import math
import zlib
from functools import reduce
from pathlib import Path
from typing import Any

import nnunet_numerics_inputs as inputs
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from siccs_net.augment.settings import AugmentationSettings
from siccs_net.augment.spatial import draw_spatial
from siccs_net.data.splits import make_nnunet_splits
from siccs_net.inference.sliding_window import gaussian_weights, plan_tiles, tile_starts
from siccs_net.losses import DeepSupervisionLoss, DiceCrossEntropyLoss, deep_supervision_weights, downsampled
from siccs_net.preprocessing.preprocess import to_storage
from siccs_net.preprocessing.resample import decide_separate_axis, resample_image, resampled_shape
from siccs_net.preprocessing.resample_labels import resample_labels
from siccs_net.preprocessing.statistics import apply_normalisation, fold_normalisation, image_normalisation, measure
from siccs_net.records.statistics import ChannelScaling, Normalisation
from siccs_net.trainers.config import TrainerConfig
from siccs_net.trainers.optimisation import schedule

GOLDEN = json.loads(Path(__file__).with_name("nnunet_numerics.json").read_text())
EPSILON = float(np.finfo(np.float32).eps)


def unpacked(text: str, dtype: Any = np.float32) -> NDArray[Any]:
    return np.frombuffer(zlib.decompress(base64.b64decode(text)), dtype)


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_the_numbers_are_of_version_2_8_1() -> None:
    assert GOLDEN["nnunetv2"] == "2.8.1"


@pytest.mark.parametrize("number", range(len(inputs.LOSSES)))
def test_dice_and_cross_entropy_and_their_gradient(number: int) -> None:
    case, expected = inputs.LOSSES[number], GOLDEN["losses"][number]
    logits, labels = inputs.logits_and_labels(case)
    leaf = torch.from_numpy(logits).requires_grad_()
    ignored = inputs.IGNORED if case["ignored"] else None
    loss = DiceCrossEntropyLoss(batch_dice=case["batch_dice"], ignore_label=ignored)(leaf, torch.from_numpy(labels))
    loss.backward()
    assert loss.item() == pytest.approx(expected["loss"], rel=4 * EPSILON)
    assert leaf.grad is not None
    gradient = unpacked(expected["gradient"]).reshape(logits.shape)
    np.testing.assert_allclose(leaf.grad.numpy(), gradient, rtol=1e-5, atol=8 * EPSILON * np.abs(gradient).max())


def test_deep_supervision_weights_targets_and_loss() -> None:
    outputs, labels = inputs.deep_outputs()
    expected = GOLDEN["deep_supervision"]
    weights = deep_supervision_weights(len(outputs), drop_last=True)
    assert weights == pytest.approx(expected["weights"], rel=1e-15)
    target = torch.from_numpy(labels)
    for output, text in zip(outputs, expected["targets"], strict=True):
        theirs = unpacked(text, np.uint8).reshape(2, *output.shape[2:])
        assert np.array_equal(downsampled(target.long(), output.shape[2:]).numpy(), theirs)
    loss = DeepSupervisionLoss(DiceCrossEntropyLoss(), weights)
    value = loss([torch.from_numpy(output) for output in outputs], target.long())
    assert float(value) == pytest.approx(expected["loss"], rel=4 * EPSILON)


def test_poly_schedule() -> None:
    """Over 1000 epochs, held during an epoch."""
    settings = {"schedule": "poly", "epochs": inputs.EPOCHS, "warmup_epochs": 0, "learning_rate": inputs.RATE}
    factor = schedule(TrainerConfig.model_validate(settings))
    for within in (0.0, 0.5, 0.999):
        rates = [inputs.RATE * factor(epoch + within) for epoch in inputs.RATE_EPOCHS]
        assert rates == pytest.approx(GOLDEN["schedule"], rel=1e-12)


def _outer(tile: tuple[int, ...], axis_weights: Any) -> NDArray[np.float64]:
    return np.asarray(reduce(np.multiply.outer, (axis_weights(edge).astype(np.float64) for edge in tile)))


@pytest.mark.parametrize("number", range(len(inputs.TILES)))
def test_gaussian_map(number: int) -> None:
    """Equal (theirs has the peak 10) where the patch has a middle voxel.

    On purpose ours is symmetric in a patch of even edges too, whose middle is between two voxels; nnU-Net's peak is at
    the upper of the two, so that one border weighs 2.8 times what the other does, and tiles overlap unevenly.
    """
    tile = inputs.TILES[number]
    theirs = unpacked(GOLDEN["gaussians"][number]).reshape(tile)
    ours = 10 * _outer(tile, lambda edge: gaussian_weights(edge, 1 / 8))
    if all(edge % 2 for edge in tile):
        np.testing.assert_allclose(ours, theirs, rtol=8 * EPSILON)
        return
    assert np.array_equal(ours, np.flip(ours))
    assert not np.allclose(theirs, np.flip(theirs), rtol=0.5)
    shifted = 10 * _outer(tile, lambda edge: np.exp(-0.5 * ((np.arange(edge) - edge // 2) / (edge / 8)) ** 2))
    np.testing.assert_allclose(shifted, theirs, rtol=8 * EPSILON)


def test_the_floor_of_the_weights_is_never_reached_at_nnunets_width() -> None:
    assert min(float(gaussian_weights(edge, 1 / 8).min()) for edge in range(2, 400)) > 3e-4


def test_tile_positions() -> None:
    for (image, tile, step), theirs in zip(inputs.tilings(), GOLDEN["steps"], strict=True):
        ours = [list(tile_starts(size, edge, 1 - step)) for size, edge in zip(image, tile, strict=True)]
        assert ours == theirs, (image, tile, step)
    assert [list(axis.starts) for axis in plan_tiles((68, 234, 254), (5, 5, 5), 0.5, 1 / 8)] == GOLDEN["steps"][0]


def _scaled(scaling: ChannelScaling, image: NDArray[np.float32]) -> NDArray[np.float32]:
    normalisation = image_normalisation(Normalisation(channels=(scaling,)), (measure(image),))
    return apply_normalisation(image[None], normalisation)[0]


CT = ChannelScaling(
    scheme="ct",
    lower=inputs.CT_PROPERTIES["percentile_00_5"],
    upper=inputs.CT_PROPERTIES["percentile_99_5"],
    mean=inputs.CT_PROPERTIES["mean"],
    std=inputs.CT_PROPERTIES["std"],
)


@pytest.mark.parametrize("scheme", ["ct", "zscore_image", "rescale_to_0_1"])
def test_normalisation(scheme: Any) -> None:
    image = inputs.hounsfield_image()
    ours = _scaled(CT if scheme == "ct" else ChannelScaling(scheme=scheme), image)
    theirs = unpacked(GOLDEN["normalisation"][scheme]).reshape(image.shape)
    # Theirs sums a whole image in float32 for its mean and standard deviation, ours in float64.
    np.testing.assert_allclose(ours, theirs, rtol=4 * EPSILON, atol=4 * EPSILON if scheme == "zscore_image" else 1e-7)


def test_foreground_statistics_are_of_every_voxel() -> None:
    """On purpose: nnU-Net draws voxels with replacement; what it draws has the error of a draw, ours none."""
    image, label = inputs.hounsfield_image(), inputs.foreground()
    sampled, exact = GOLDEN["foreground_statistics"]
    ours = fold_normalisation(["ct"], [[measure(image[label > 0])]]).channels[0]
    assert ours.mean == pytest.approx(exact["mean"], rel=EPSILON)
    assert ours.lower == exact["percentile_00_5"]
    assert ours.upper == exact["percentile_99_5"]
    error = float(image[label > 0].std()) / math.sqrt(inputs.SAMPLES)
    assert ours.mean != sampled["mean"]
    assert ours.mean == pytest.approx(sampled["mean"], abs=4 * error)
    assert ours.std == pytest.approx(sampled["std"], rel=0.02)


@pytest.mark.parametrize("number", range(len(inputs.RESAMPLINGS)))
def test_resampling_of_images_and_labels(number: int) -> None:
    """Cubic splines of the image, the largest share of the labels, thick slices apart: every voxel."""
    image, label, before, after = inputs.volume_and_labels(inputs.RESAMPLINGS[number])
    expected = GOLDEN["resampled"][number]
    shape = resampled_shape(image.shape, before, after)
    assert list(shape) == expected["shape"]
    axis = decide_separate_axis(before, after)
    assert axis == expected["axis"]
    ours = resample_image(image, shape, order=3, separate_axis=axis)
    theirs = unpacked(expected["image"]).reshape(ours[inputs.SOME].shape)
    np.testing.assert_allclose(ours[inputs.SOME], theirs, rtol=0, atol=8 * EPSILON * 1000)
    labels = resample_labels(label, shape, separate_axis=axis)
    assert np.array_equal(labels, unpacked(expected["label"], np.uint8).reshape(shape))
    assert np.array_equal(np.unique(labels), [1, 2, 3])


def test_thick_slices_are_among_the_cases() -> None:
    assert {each["axis"] for each in GOLDEN["resampled"]} == {None, 0, 2}


def test_normalisation_comes_after_resampling() -> None:
    """On purpose: nnU-Net clips and scales, then resamples; we store whole HU and normalise what is read.

    Splines overshoot what is clipped, so the two differ at edges of the window; inside it by the rounding to 1 HU.
    """
    image, _, before, after = inputs.volume_and_labels(inputs.RESAMPLINGS[0])
    shape = resampled_shape(image.shape, before, after)
    stored = to_storage(resample_image(image, shape, order=3), "int16")
    ours = _scaled(CT, stored.astype(np.float32))[inputs.SOME]
    theirs = unpacked(GOLDEN["normalised_then_resampled"]).reshape(ours.shape)
    window = [(value - inputs.CT_PROPERTIES["mean"]) / inputs.CT_PROPERTIES["std"] for value in (CT.lower, CT.upper)]
    assert ours.min() >= window[0] - 1e-6
    assert ours.max() <= window[1] + 1e-6
    assert np.abs(ours - theirs).max() > 0.1  # noise of 400 HU about both ends of the window
    assert np.corrcoef(ours.ravel(), theirs.ravel())[0, 1] > 0.98


def test_splits() -> None:
    for number, theirs in zip(inputs.SPLIT_SIZES, GOLDEN["splits"], strict=True):
        ours = make_nnunet_splits(inputs.case_names(number)[::-1])
        assert [fold["val"] for fold in ours] == theirs
        everything = sorted(inputs.case_names(number))
        assert all(fold["train"] == [name for name in everything if name not in fold["val"]] for fold in ours)


@pytest.mark.parametrize("number", range(len(inputs.PATCHES)))
def test_a_third_of_the_voxels_are_read(number: int) -> None:
    """On purpose: nnU-Net reads the box of the largest rotation and scale for every sample, we the one drawn."""
    patch, largest = inputs.PATCHES[number], GOLDEN["initial_patches"][number]
    ratio = math.prod(largest) / math.prod(patch)
    assert 4.0 < ratio < 4.5
    settings = AugmentationSettings(rotation_degrees=30, scale=(0.7, 1.4))
    drawn = [draw_spatial(settings, (), (1, 1, 1), np.random.default_rng(seed)) for seed in range(600)]
    read = np.array([math.prod(spatial.footprint(patch)) for spatial in drawn]) / math.prod(patch)
    assert 0.6 < np.mean(read == 1) < 0.75
    assert read.mean() < 0.45 * ratio
