"""nnU-Net's loss, its supervision weights, its sampling and its augmentation against formulas written out here."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from siccs_net.augment.intensity import Contrast, FactorTransform, Gamma, LowResolution, PerChannel
from siccs_net.augment.settings import NNUNET
from siccs_net.augment.spatial import draw_spatial, resolve_rotation
from siccs_net.data.sampling import PatchSampler
from siccs_net.losses import DeepSupervisionLoss, DiceCrossEntropyLoss, deep_supervision_weights, downsampled

RNG = np.random.default_rng(4)
LOGITS = torch.from_numpy(RNG.normal(size=(3, 4, 8, 8, 8)).astype(np.float32))
LABELS = torch.from_numpy(RNG.integers(0, 4, (3, 8, 8, 8)))


def soft_dice(logits, labels, *, batch, smooth):
    """Foreground soft Dice in float64, class by class."""
    p = np.exp(logits.double().numpy())
    p /= p.sum(1, keepdims=True)
    scores = []
    for group in [range(len(p))] if batch else [[number] for number in range(len(p))]:
        for value in range(1, p.shape[1]):
            t = np.stack([labels[number].numpy() == value for number in group])
            q = np.stack([p[number, value] for number in group])
            scores.append((2 * (q * t).sum() + smooth) / max(q.sum() + t.sum() + smooth, 1e-8))
    return float(np.mean(scores))


@pytest.mark.parametrize("batch", [False, True])
@pytest.mark.parametrize("smooth", [1e-5, 0.0, 1.0])
def test_dice_and_cross_entropy(batch, smooth):
    found = DiceCrossEntropyLoss(batch_dice=batch, smooth=smooth).measure(LOGITS, LABELS)
    cross_entropy = functional.cross_entropy(LOGITS.double(), LABELS).item()
    dice = soft_dice(LOGITS, LABELS, batch=batch, smooth=smooth)
    assert found["loss"].item() == pytest.approx(cross_entropy - dice, rel=1e-6)
    alone = DiceCrossEntropyLoss(batch_dice=batch, smooth=smooth, cross_entropy_weight=0).measure(LOGITS, LABELS)
    assert alone["loss"].item() == pytest.approx(-dice, rel=1e-6)
    assert set(alone) == {"loss", "dice"}


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_of_the_hardest_voxels(smoothing):
    loss = DiceCrossEntropyLoss(dice_weight=0, hardest_percent=10, label_smoothing=smoothing)
    voxels = functional.cross_entropy(LOGITS, LABELS, reduction="none", label_smoothing=smoothing).flatten()
    expected = np.sort(voxels.double().numpy())[-int(voxels.numel() * 0.1) :].mean()
    assert loss(LOGITS, LABELS).item() == pytest.approx(expected, rel=1e-6)
    plain = DiceCrossEntropyLoss(dice_weight=0, label_smoothing=smoothing)(LOGITS, LABELS)
    assert plain.item() == pytest.approx(voxels.mean().item(), rel=1e-6)


def test_deep_supervision():
    weights = deep_supervision_weights(5, drop_last=True)
    expected = np.array([1, 1 / 2, 1 / 4, 1 / 8, 0])
    assert np.allclose(weights, expected / expected.sum(), rtol=1e-12)
    outputs = [LOGITS, LOGITS[:, :, ::2, ::2, ::2], LOGITS[:, :, ::4, ::4, ::4]]
    loss = DiceCrossEntropyLoss(batch_dice=True)
    total = DeepSupervisionLoss(loss, deep_supervision_weights(3, drop_last=True))(outputs, LABELS)
    by_hand = [
        (functional.cross_entropy(x, y) - soft_dice(x, y, batch=True, smooth=1e-5)).item()
        for x, y in ((x, downsampled(LABELS, x.shape[2:])) for x in outputs[:2])
    ]
    assert total.item() == pytest.approx(by_hand[0] * 2 / 3 + by_hand[1] / 3, rel=1e-6)


class _Index:
    """Records whether a sample asked for foreground."""

    shapes = {"a": (9, 9, 9)}  # noqa: RUF012

    def draw(self, case, rng, weights):
        return (0, 0, 0)

    def draw_labelled(self, case, rng):
        return None


@pytest.mark.parametrize(("batch", "forced"), [(2, [1]), (3, [2]), (4, [3]), (5, [3, 4]), (12, [8, 9, 10, 11])])
def test_the_last_third_of_a_batch_is_foreground(batch, forced):
    sampler = PatchSampler(_Index(), ("a",), (4, 4, 4), 0.33, 0, "0", end_of_batch=True)
    assert forced == [sample for sample in range(batch) if not sample < round(batch * (1 - 0.33))]
    for iteration in range(5):
        places = [sampler.place(0, iteration, sample, iterations=5, batch_size=batch) for sample in range(batch)]
        assert [number for number, place in enumerate(places) if place.centre == (0, 0, 0)] == forced


def test_low_resolution_is_torchs_nearest_exact_and_linear():
    image = RNG.normal(size=(1, 12, 17, 20)).astype(np.float32)
    for scale in (0.5, 0.63, 0.97):
        size = [round(n * scale) for n in image.shape[1:]]
        coarse = functional.interpolate(torch.from_numpy(image)[None], size, mode="nearest-exact")
        expected = functional.interpolate(coarse, image.shape[1:], mode="trilinear", align_corners=False)[0]
        assert np.allclose(LowResolution(1, (0.5, 1)).apply(image, scale), expected.numpy(), atol=1e-5)
    flat = LowResolution(1, (0.5, 1), kept=(0,)).apply(image, 0.5)
    assert np.array_equal(flat[:, 3], LowResolution(1, (0.5, 1)).apply(image[:, 3:4], 0.5)[:, 0])


@pytest.mark.parametrize("inverted", [False, True])
def test_gamma_keeps_mean_and_deviation(inverted):
    image = RNG.gamma(2, size=(2, 6, 7, 8)).astype(np.float32)
    found = Gamma(1, (0.7, 1.5), inverted=inverted, keep_statistics=True).apply(image.copy(), 1.4)
    for channel, result in zip(image.astype(np.float64), found, strict=True):
        x = -channel if inverted else channel
        y = ((x - x.min()) / (x.max() - x.min())) ** 1.4 * (x.max() - x.min()) + x.min()
        y = (y - y.mean()) / y.std() * x.std() + x.mean()
        assert np.allclose(result, -y if inverted else y, atol=1e-5)


def test_factors_lie_below_and_above_one_equally_often_and_channels_are_drawn_apart():
    two_sided = FactorTransform.draw(Gamma(1, (0.7, 1.5), two_sided=True), np.random.default_rng(0))
    assert 0.7 <= two_sided <= 1.5
    rng = np.random.default_rng(1)
    drawn = np.array([Gamma(1, (0.7, 1.5), two_sided=True).draw(rng) for _ in range(2000)])
    assert abs((drawn < 1).mean() - 0.5) < 0.04
    image = np.stack([RNG.normal(size=(6, 6)).astype(np.float32)] * 40)
    changed = PerChannel(Contrast(1, (0.5, 0.9)), 0.5).apply(image, 7)
    different = [not np.array_equal(one, image[0]) for one in changed]
    assert 10 < sum(different) < 30
    assert len({channel.tobytes() for channel in changed}) == sum(different) + 1


def test_rotation_and_scale_of_a_flat_patch_leave_its_slices_apart():
    settings = resolve_rotation(NNUNET, (16, 128, 128)).model_copy(
        update={"rotation_probability": 1.0, "scaling_probability": 1.0}
    )
    scales = []
    for seed in range(300):
        matrix = draw_spatial(settings, (), (5.0, 0.7, 0.7), np.random.default_rng(seed)).matrix
        assert np.allclose(matrix[0], [1, 0, 0])
        assert np.allclose(matrix[:, 0], [1, 0, 0])
        scales.append(np.sqrt(np.linalg.det(matrix[1:, 1:])))
    assert 0.7 <= min(scales) < 0.75
    assert 1.35 < max(scales) <= 1.4
    assert abs(np.mean(scales) - 1.05) < 0.04  # uniform, as nnU-Net's factor on the coordinates
