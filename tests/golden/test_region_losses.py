"""Losses of regions against NumPy and MONAI; other people's losses on regions and ignored voxels."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from monai.losses import DiceFocalLoss
from torch import Tensor, nn

from siccs_net.errors import DataError, UsageError
from siccs_net.losses import DeepSupervisionLoss, DiceCrossEntropyLoss, FocalDiceLoss
from siccs_net.preprocessing.preprocess import IGNORED
from siccs_net.records.dataset import LabelScheme
from siccs_net.trainers.foreign_loss import ForeignLoss, fit_to_labels
from siccs_net.trainers.scoring import confusion_matrix, dice, predicted_classes

REGIONS = ((1, 2, 3), (2, 3), (2,))
"""Lung, abnormal and fibrosis of the classes normal lung, fibrosis and ground-glass opacity."""
SCHEME = LabelScheme(
    plain={"background": 0},
    regions={"lung": (1, 2, 3), "abnormal": (2, 3), "fibrosis": (2,)},
    regions_class_order=(1, 3, 2),
)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def sample(shape: tuple[int, ...] = (2, 3, 5, 6, 7), *, ignored: float = 0.0) -> tuple[Tensor, Tensor]:
    """Random logits [b, regions, *spatial] and classes [b, *spatial], a share of them ignored."""
    generator = torch.Generator().manual_seed(3)
    logits = 3 * torch.randn(shape, generator=generator)
    target = torch.randint(0, 4, (shape[0], *shape[2:]), generator=generator)
    chance = torch.rand(target.shape, generator=generator)
    return logits, torch.where(chance < ignored, IGNORED, target)


def by_hand(logits: Tensor, target: Tensor, *, batch_dice: bool) -> tuple[float, float]:
    """Binary cross-entropy and soft Dice of the regions in float64, voxels that are ignored cut out."""
    x, labels = logits.double().numpy(), target.numpy()
    axes = tuple(range(2, x.ndim))
    truth = np.stack([np.isin(labels, region) for region in REGIONS], 1).astype(float)
    known = np.broadcast_to((labels != IGNORED)[:, None], x.shape).astype(float)
    entropy = np.maximum(x, 0) - x * truth + np.log1p(np.exp(-np.abs(x)))
    probability = known / (1 + np.exp(-x))
    sums = [(probability * truth).sum(axes), truth.sum(axes), probability.sum(axes)]
    both, reference, predicted = [each.sum(0) for each in sums] if batch_dice else sums
    soft_dice = (2 * both + 1e-5) / np.maximum(reference + predicted + 1e-5, 1e-8)
    return float((entropy * known).sum() / known.sum()), float(soft_dice.mean())


@pytest.mark.parametrize("ignored", [0.0, 0.6])
@pytest.mark.parametrize("batch_dice", [False, True])
@pytest.mark.parametrize("shape", [(2, 3, 5, 6, 7), (3, 3, 8, 9)])
def test_dice_and_cross_entropy_equal_numpy(shape: tuple[int, ...], batch_dice: bool, ignored: float) -> None:
    """nnU-Net's loss of regions; with an ignore label cross-entropy stays a mean over regions (nnU-Net: a sum)."""
    logits, target = sample(shape, ignored=ignored)
    loss = DiceCrossEntropyLoss(batch_dice=batch_dice, regions=REGIONS, ignore_label=IGNORED if ignored else None)
    found = loss.measure(logits, target)
    entropy, soft_dice = by_hand(logits, target, batch_dice=batch_dice)
    assert float(found["cross_entropy"]) == pytest.approx(entropy, rel=1e-6)
    assert float(found["dice"]) == pytest.approx(-soft_dice, rel=1e-6)
    assert float(loss(logits, target)) == pytest.approx(entropy - soft_dice, rel=2e-6)


def test_focal_dice_equals_monai() -> None:
    logits, target = sample()
    masks = torch.stack([torch.isin(target, torch.tensor(region)) for region in REGIONS], 1).float()
    theirs = DiceFocalLoss(sigmoid=True, squared_pred=True, lambda_dice=0.7, lambda_focal=1.9, gamma=3.0)
    ours = FocalDiceLoss("monai", dice_weight=0.7, focal_weight=1.9, gamma=3.0, regions=REGIONS)
    torch.testing.assert_close(ours(logits, target), theirs(logits, masks), rtol=1e-6, atol=1e-7)
    mine, other = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    ours(mine, target).backward()
    theirs(other, masks).backward()
    torch.testing.assert_close(mine.grad, other.grad, rtol=1e-5, atol=1e-8)


def test_the_papers_focal_loss_has_no_regions() -> None:
    with pytest.raises(UsageError, match=r"by a softmax; regions may overlap.*loss.variant=monai"):
        FocalDiceLoss("paper", regions=REGIONS)


@pytest.mark.parametrize(
    "loss",
    [
        DiceCrossEntropyLoss(regions=REGIONS, ignore_label=IGNORED),
        DiceCrossEntropyLoss(regions=REGIONS, ignore_label=IGNORED, batch_dice=True),
        FocalDiceLoss("monai", regions=REGIONS, ignore_label=IGNORED),
    ],
)
def test_ignored_voxels_of_regions_count_nowhere(loss: nn.Module) -> None:
    """Whatever is predicted there changes neither the loss nor a gradient."""
    logits, target = sample(ignored=0.5)
    hidden = (target == IGNORED).unsqueeze(1)
    one, other = logits.clone().requires_grad_(), torch.where(hidden, 50.0, logits).requires_grad_()
    first, second = loss(one, target), loss(other, target)
    torch.testing.assert_close(first, second)
    first.backward()
    assert one.grad is not None
    assert not one.grad[hidden.expand_as(one)].any()
    assert torch.isfinite(loss(logits, torch.full_like(target, IGNORED)))


def test_wrong_targets_of_regions_are_named() -> None:
    logits, target = sample()
    loss = DiceCrossEntropyLoss(regions=REGIONS)
    with pytest.raises(UsageError, match="a channel a region"):
        loss(logits[:, :2], target)
    with pytest.raises(DataError, match=r"no class; found \[4\]; expected one of \[0, 1, 2, 3\]"):
        loss(logits, torch.where(target == 2, 4, target))


def fitted(loss: nn.Module, *, regions: bool = False, ignore: int | None = None) -> Any:
    scheme = SCHEME if regions else LabelScheme({"background": 0, "a": 1, "b": 2, "c": 3}, ignore=ignore)
    return fit_to_labels(loss, scheme)


def test_a_loss_of_torchs_leaves_ignored_voxels_out() -> None:
    logits, target = sample((2, 4, 5, 6), ignored=0.5)
    expected = nn.CrossEntropyLoss(ignore_index=IGNORED)(logits, target)
    assert torch.equal(fitted(nn.CrossEntropyLoss(), ignore=9)(logits, target), expected)
    # One that was made for 255 is handed 255.
    assert torch.equal(fitted(nn.CrossEntropyLoss(ignore_index=IGNORED), ignore=9)(logits, target), expected)


def test_a_level_without_a_labelled_voxel_leaves_the_weights_alone() -> None:
    """Every fifth slice labelled: the coarse outputs of deep supervision may see none of them."""
    logits = [torch.randn(1, 4, 8 // n, 8, requires_grad=True) for n in (1, 4)]
    target = torch.full((1, 8, 8), IGNORED)
    target[:, 0] = 1
    loss = DeepSupervisionLoss(fitted(nn.CrossEntropyLoss(), ignore=9), (0.6, 0.4))
    total = loss([logits[0], logits[1].repeat(1, 1, 1, 1)[..., ::4]], target)
    total.backward()
    assert torch.isfinite(total)
    assert all(torch.isfinite(each.grad).all() for each in logits)
    assert not logits[1].grad.any()
    assert logits[0].grad[:, :, 0].all()


def test_a_loss_of_torchs_gets_masks_of_regions() -> None:
    logits, target = sample()
    masks = torch.stack([torch.isin(target, torch.tensor(region)) for region in REGIONS], 1).float()
    expected = nn.BCEWithLogitsLoss()(logits, masks)
    torch.testing.assert_close(fitted(nn.BCEWithLogitsLoss(), regions=True)(logits, target), expected)


def test_losses_of_ours_are_told_and_others_stay_as_they_are() -> None:
    assert fitted(DiceCrossEntropyLoss(), ignore=9).ignore_label == IGNORED
    assert fitted(DiceCrossEntropyLoss(ignore_label=7), ignore=9).ignore_label == 7
    assert fitted(DiceCrossEntropyLoss(), regions=True).regions == REGIONS
    plain = nn.CrossEntropyLoss()
    assert fitted(plain) is plain
    with pytest.raises(UsageError, match="by a softmax"):
        fitted(FocalDiceLoss(), regions=True)(*sample())
    with pytest.raises(UsageError, match="CrossEntropyLoss tells classes apart"):
        fitted(plain, regions=True)
    with pytest.raises(UsageError, match="MSELoss cannot leave out the ignored voxels of regions"):
        ForeignLoss(nn.MSELoss(), regions=REGIONS, ignore_label=IGNORED)


def test_regions_are_painted_in_order_and_scored_as_wholes() -> None:
    """Three voxels: lung alone, abnormal without lung (painted all the same), and all three at once."""
    logits = torch.tensor([[2.0, -1.0, 1.0], [-1.0, 0.5, 1.0], [-1.0, -0.1, 3.0]]).view(1, 3, 3)
    predicted = predicted_classes(logits, SCHEME)
    assert predicted.tolist() == [[1, 3, 2]]
    confusion = confusion_matrix(predicted, torch.tensor([[1, 2, 2]]), 4)
    assert [dice(confusion, region) for region in SCHEME.region_classes] == [1.0, 1.0, pytest.approx(2 / 3)]
