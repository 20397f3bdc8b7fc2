"""The losses against MONAI, against formulas written out with loops, and their gradients against finite differences."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from monai.losses import DiceFocalLoss, DiceLoss
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from siccs_net.errors import DataError, UsageError
from siccs_net.losses import (
    DeepSupervisionLoss,
    DiceCrossEntropyLoss,
    FocalDiceLoss,
    deep_supervision_weights,
    downsampled,
)

IGNORED = 255
LOSSES = [
    FocalDiceLoss("paper"),
    FocalDiceLoss("monai"),
    FocalDiceLoss("paper", gamma=0.5, ignore_label=IGNORED),
    DiceCrossEntropyLoss(),
    DiceCrossEntropyLoss(batch_dice=True, ignore_label=IGNORED),
]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Tiny tensors: threads would only wait for each other on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def sample(
    shape: tuple[int, ...] = (2, 4, 5, 6, 7), *, absent: int | None = None, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    """Random logits [b, classes, *spatial] and labels [b, *spatial], perhaps with a class that never occurs."""
    generator = torch.Generator().manual_seed(1)
    logits = 2 * torch.randn(shape, generator=generator, dtype=dtype)
    target = torch.randint(0, shape[1], (shape[0], *shape[2:]), generator=generator)
    return logits, target if absent is None else torch.where(target == absent, 0, target)


def gradient(loss: nn.Module, logits: Tensor, target: Tensor) -> Tensor:
    """d loss / d logits."""
    leaf = logits.clone().requires_grad_()
    loss(leaf, target).backward()
    assert leaf.grad is not None
    return leaf.grad


def softmax(logits: Tensor) -> NDArray[np.float64]:
    values = np.exp(logits.double().numpy())
    return np.asarray(values / values.sum(1, keepdims=True))


@pytest.mark.parametrize("absent", [None, 2])
@pytest.mark.parametrize("shape", [(2, 4, 5, 6, 7), (3, 3, 8, 9)])
def test_monai_variant_equals_monai(shape: tuple[int, ...], absent: int | None) -> None:
    logits, target = sample(shape, absent=absent)
    theirs = DiceFocalLoss(softmax=True, squared_pred=True, to_onehot_y=True)
    ours = FocalDiceLoss("monai")
    torch.testing.assert_close(ours(logits, target), theirs(logits, target[:, None]), rtol=1e-6, atol=1e-7)
    leaf = logits.clone().requires_grad_()
    theirs(leaf, target[:, None]).backward()
    torch.testing.assert_close(gradient(ours, logits, target), leaf.grad, rtol=1e-5, atol=1e-8)


def test_monai_weights_and_gamma() -> None:
    logits, target = sample()
    theirs = DiceFocalLoss(
        softmax=True, squared_pred=True, to_onehot_y=True, lambda_dice=0.7, lambda_focal=1.9, gamma=3.5
    )
    ours = FocalDiceLoss("monai", dice_weight=0.7, focal_weight=1.9, gamma=3.5)
    torch.testing.assert_close(ours(logits, target), theirs(logits, target[:, None]), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("absent", [None, 3])
def test_paper_variant_equals_its_formula(absent: int | None) -> None:
    logits, target = sample(absent=absent)
    probability, labels = softmax(logits), target.numpy()
    voxels = [(b, *index) for b in range(2) for index in np.ndindex(labels.shape[1:])]
    true = np.array([probability[(place[0], labels[place], *place[1:])] for place in voxels])
    focal = float(np.mean(-((1 - true) ** 2) * np.log(true)))
    terms = []
    for b in range(2):
        for c in range(4):
            p, t = probability[b, c], (labels[b] == c).astype(float)
            terms.append(1 - 2 * (p * t).sum() / ((p**2).sum() + (t**2).sum() + 1e-5))
    loss = FocalDiceLoss()
    measured = loss.measure(logits, target)
    assert float(measured["focal"]) == pytest.approx(focal, rel=1e-6)
    assert float(measured["dice"]) == pytest.approx(float(np.mean(terms)), rel=1e-6)
    assert float(loss(logits, target)) == pytest.approx(focal + float(np.mean(terms)), rel=1e-6)


def test_absent_class_has_no_dice_gradient_in_the_paper() -> None:
    """Its term is the constant 1: the gradient is that of the present class's term alone."""
    logits, _ = sample((1, 2, 6, 6))
    target = torch.zeros(1, 6, 6, dtype=torch.int64)
    leaf = logits.clone().requires_grad_()
    present = torch.softmax(leaf, 1)[:, 0]
    ((1 - 2 * present.sum() / (present.square().sum() + 36 + 1e-5) + 1) / 2).backward()
    found = gradient(FocalDiceLoss("paper", focal_weight=0), logits, target)
    torch.testing.assert_close(found, leaf.grad, rtol=1e-5, atol=1e-8)


def test_absent_class_that_is_not_predicted() -> None:
    """Paper: its Dice term stays 1. MONAI: it falls to 0."""
    target = torch.zeros(1, 6, 6, dtype=torch.int64)
    logits = torch.stack([torch.full((6, 6), 12.0), torch.full((6, 6), -12.0)])[None]
    assert float(FocalDiceLoss("paper").parts(logits, target)["dice"]) == pytest.approx(0.5, abs=1e-5)
    assert float(FocalDiceLoss("monai").parts(logits, target)["dice"]) == pytest.approx(0, abs=1e-5)


def test_dice_cross_entropy_equals_its_formula() -> None:
    logits, target = sample(absent=3)
    probability, labels = softmax(logits), target.numpy()
    cross_entropy = float(functional.cross_entropy(logits, target))
    for batch_dice in (False, True):
        groups = [slice(None)] if batch_dice else [slice(0, 1), slice(1, 2)]
        dice = []
        for group in groups:
            for c in range(1, 4):
                p, t = probability[group, c], labels[group] == c
                dice.append((2 * (p * t).sum() + 1e-5) / (p.sum() + t.sum() + 1e-5))
        parts = DiceCrossEntropyLoss(batch_dice=batch_dice).parts(logits, target)
        assert float(parts["cross_entropy"]) == pytest.approx(cross_entropy, rel=1e-6)
        assert float(parts["dice"]) == pytest.approx(-float(np.mean(dice)), rel=1e-6)


@pytest.mark.parametrize("batch", [False, True])
def test_soft_dice_equals_monai(batch: bool) -> None:
    """MONAI's Dice loss is 1 - Dice, nnU-Net's is -Dice."""
    logits, target = sample()
    theirs = DiceLoss(softmax=True, to_onehot_y=True, include_background=False, batch=batch)
    parts = DiceCrossEntropyLoss(batch_dice=batch).parts(logits, target)
    torch.testing.assert_close(parts["dice"] + 1, theirs(logits, target[:, None]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: type(loss).__name__)
def test_gradient_against_finite_differences(loss: nn.Module) -> None:
    logits, target = sample((2, 3, 3, 2, 2), absent=1, dtype=torch.float64)
    if loss.ignore_label is not None:
        target[0, 0] = IGNORED
    assert torch.autograd.gradcheck(lambda leaf: loss(leaf, target), (logits.requires_grad_(),))


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: type(loss).__name__)
def test_sure_logits_stay_finite(loss: nn.Module) -> None:
    """Probabilities of exactly 0 and 1, right and wrong: no logarithm of 0."""
    target = torch.tensor([[[0, 1], [1, 0]]])
    for sign in (1, -1):
        logits = sign * 300 * (functional.one_hot(target, 2).movedim(-1, 1).float() * 2 - 1)
        assert torch.isfinite(loss(logits, target))
        assert torch.isfinite(gradient(loss, logits, target)).all()


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: type(loss).__name__)
def test_computes_in_float32_under_autocast(loss: nn.Module) -> None:
    logits, target = sample((1, 4, 16, 16, 16))
    half = logits.bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        found = loss(half, target.to(torch.uint8))
    assert found.dtype is torch.float32
    torch.testing.assert_close(found, loss(half.float(), target), rtol=1e-6, atol=0)


@pytest.mark.parametrize("kind", [FocalDiceLoss, DiceCrossEntropyLoss])
def test_ignored_voxels_count_nowhere(kind: type) -> None:
    """One sample, half ignored: the loss of the other half alone, and no gradient in the ignored half."""
    logits, target = sample((1, 4, 6, 6, 8))
    cut = target.clone()
    cut[..., 4:] = IGNORED
    loss = kind(ignore_label=IGNORED)
    torch.testing.assert_close(loss(logits, cut), kind()(logits[..., :4], target[..., :4]), rtol=1e-5, atol=1e-6)
    assert not gradient(loss, logits, cut)[..., 4:].any()
    nothing = torch.full_like(target, IGNORED)
    assert float(loss.parts(logits, nothing)[next(iter(loss.weights))]) == 0
    assert torch.isfinite(gradient(loss, logits, nothing)).all()


def test_refuses_labels_that_are_no_class_and_wrong_shapes() -> None:
    logits, target = sample()
    with pytest.raises(DataError, match=r"found \[7\].*0 to 3"):
        DiceCrossEntropyLoss()(logits, torch.where(target == 1, 7, target))
    with pytest.raises(DataError, match="255"):
        FocalDiceLoss()(logits, torch.where(target == 1, IGNORED, target))
    with pytest.raises(UsageError, match="does not fit"):
        FocalDiceLoss()(logits, target[:, None])
    with pytest.raises(UsageError, match="paper or monai"):
        FocalDiceLoss("dice")  # type: ignore[arg-type]


def test_deep_supervision_weights() -> None:
    assert deep_supervision_weights(3, drop_last=False) == pytest.approx((4 / 7, 2 / 7, 1 / 7))
    assert deep_supervision_weights(3, drop_last=True) == pytest.approx((2 / 3, 1 / 3, 0))
    assert deep_supervision_weights(1, drop_last=True) == (1.0,)
    assert math.fsum(deep_supervision_weights(6, drop_last=True)) == pytest.approx(1)


@pytest.mark.parametrize("stride", [(2, 2, 2), (1, 4, 4), (3, 2, 1)])
def test_downsampling_is_torchs_nearest_exact(stride: tuple[int, ...]) -> None:
    target = torch.randint(0, 9, (2, 12, 16, 8), generator=torch.Generator().manual_seed(0))
    size = [whole // part for whole, part in zip(target.shape[1:], stride, strict=True)]
    expected = functional.interpolate(target[:, None].double(), size, mode="nearest-exact")[:, 0].long()
    assert torch.equal(downsampled(target, size), expected)
    with pytest.raises(UsageError, match="divide"):
        downsampled(target, [5, 4, 4])


def test_deep_supervision_is_the_weighted_sum() -> None:
    logits, target = sample((2, 4, 8, 8, 4))
    outputs = [logits, logits[..., ::2, ::2, ::2], logits[..., ::4, ::4, ::4]]
    inner = DiceCrossEntropyLoss()
    loss = DeepSupervisionLoss(inner, (0.6, 0.4, 0.0))
    coarse = inner.measure(outputs[1], downsampled(target, outputs[1].shape[2:]))
    fine = inner.measure(logits, target)
    measured = loss.measure(outputs, target)
    assert list(measured) == ["loss", "cross_entropy", "dice"]
    for name, value in measured.items():
        torch.testing.assert_close(value, 0.6 * fine[name] + 0.4 * coarse[name])
    torch.testing.assert_close(measured["loss"], measured["cross_entropy"] + measured["dice"])
    assert torch.equal(loss(outputs, target), measured["loss"])
    assert loss.parts(outputs, target).keys() == {"cross_entropy", "dice"}
    torch.testing.assert_close(loss.measure([logits], target)["loss"], fine["loss"])
    torch.testing.assert_close(loss(logits, target), fine["loss"])
    with pytest.raises(UsageError, match="found 2; expected 3"):
        loss(outputs[:2], target)


def test_deep_supervision_takes_any_loss() -> None:
    logits, target = sample()
    loss = DeepSupervisionLoss(nn.CrossEntropyLoss(), deep_supervision_weights(1, drop_last=True))
    torch.testing.assert_close(loss.measure([logits], target)["loss"], functional.cross_entropy(logits, target))
