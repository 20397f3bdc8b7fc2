"""Losses of logits [b, classes, *spatial] against label maps [b, *spatial]: focal Dice, Dice with cross-entropy.

All compute in float32 also under autocast, from the logarithm of the softmax. A label map holds class numbers (any
integer type) and, where a loss has an `ignore_label`, that value where nobody labelled. A loss with `regions` (sets of
classes, which may overlap) takes logits [b, regions, *spatial] and tells each from the rest by a sigmoid of its own.
None of them uses an operation without a deterministic CUDA kernel.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional

from siccs_net.errors import UsageError
from siccs_net.losses.devices import over_devices, several_devices
from siccs_net.losses.masks import downsampled, known_voxels, one_hot, region_masks, truth_of

__all__ = [
    "DeepSupervisionLoss",
    "DiceCrossEntropyLoss",
    "FocalDiceLoss",
    "SummedLoss",
    "deep_supervision_weights",
    "downsampled",
    "one_hot",
    "over_devices",
    "region_masks",
]

# nnU-Net's smallest denominator of a soft Dice.
SMALLEST_DENOMINATOR = 1e-8


class SummedLoss(nn.Module):
    """A weighted sum of named parts. Subclasses give the parts, unweighted, as scalars."""

    def __init__(self, weights: Mapping[str, float]) -> None:
        super().__init__()
        self.weights = dict(weights)

    def parts(self, logits: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Return the unweighted parts by name."""
        raise NotImplementedError

    def measure(self, logits: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Return the total as `loss`, and the parts."""
        parts = self.parts(logits, target)
        total = torch.stack([self.weights[name] * part for name, part in parts.items()]).sum()
        return {"loss": total, **parts}

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        return self.measure(logits, target)["loss"]


class FocalDiceLoss(SummedLoss):
    """Focal loss plus Dice loss with squared denominators, background included (Vahdani et al. 2026, Eq. 1).

    `paper`: focal loss -(1 - p)^gamma log p of the softmax probability p of the true class, mean over voxels; Dice
    term 1 - 2 sum(p t) / (sum(p^2) + sum(t^2) + epsilon) with sums over space, mean over samples and classes. A class
    absent from the reference has the constant Dice term 1 and no gradient there.
    `monai`: MONAI's DiceFocalLoss(softmax=True, squared_pred=True, to_onehot_y=True): focal loss of each class's
    sigmoid, mean over voxels and classes; epsilon in Dice's numerator too, so that an absent class's term falls to 0.
    With `regions`, which only `monai` can have, it is DiceFocalLoss(sigmoid=True, squared_pred=True) of their masks.
    Weights and gamma are `assumed` in the paper's preset. Ignored voxels count in neither part.
    """

    def __init__(
        self,
        variant: Literal["paper", "monai"] = "paper",
        *,
        focal_weight: float = 1.0,
        dice_weight: float = 1.0,
        gamma: float = 2.0,
        epsilon: float = 1e-5,
        ignore_label: int | None = None,
        regions: Sequence[Sequence[int]] = (),
    ) -> None:
        super().__init__({"focal": focal_weight, "dice": dice_weight})
        if variant not in ("paper", "monai"):
            raise UsageError("no such variant of the focal Dice loss", found=variant, expected="paper or monai")
        self.variant = variant
        self.gamma = gamma
        self.epsilon = epsilon
        self.ignore_label = ignore_label
        self.regions = tuple(map(tuple, regions))
        self._refuse_regions()

    def _refuse_regions(self) -> None:
        if self.variant == "paper" and self.regions:
            raise UsageError(
                "the paper's focal Dice loss tells classes apart by a softmax; regions may overlap",
                hint="Choose --set loss.variant=monai or --set loss.name=dice_cross_entropy",
            )

    def parts(self, logits: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Return `focal` and `dice`. Raises UsageError or DataError for a target that does not fit."""
        self._refuse_regions()
        logits = _full_precision(logits)
        truth = truth_of(logits, target, self.ignore_label, self.regions)
        known = known_voxels(target, self.ignore_label)
        log_probability = functional.logsigmoid(logits) if self.regions else functional.log_softmax(logits, 1)
        focal = (
            self._softmax_focal(log_probability, truth)
            if self.variant == "paper"
            else self._sigmoid_focal(logits, truth)
        )
        return {
            "focal": _mean(focal, known, together=self.training),
            "dice": self._dice(log_probability.exp(), truth, known),
        }

    def _softmax_focal(self, log_probability: Tensor, truth: Tensor) -> Tensor:
        """[b, *spatial]: the true class's term, which is the sum over classes."""
        return _focal(_of_true_class(log_probability, truth), self.gamma)

    def _sigmoid_focal(self, logits: Tensor, truth: Tensor) -> Tensor:
        """[b, *spatial]: the mean over classes."""
        return _focal(_of_true_side(logits, truth), self.gamma).mean(1)

    def _dice(self, probability: Tensor, truth: Tensor, known: Tensor | None) -> Tensor:
        probability = _only_known(probability, known)
        both, reference = _overlap(probability, truth)
        predicted = _over_space(probability.square())
        above = self.epsilon if self.variant == "monai" else 0.0
        return (1 - (2 * both + above) / (predicted + reference + self.epsilon)).mean()


class DiceCrossEntropyLoss(SummedLoss):
    """nnU-Net's loss: cross-entropy plus the negative soft Dice of all classes but the background, or one of them.

    Soft Dice is (2 sum(p t) + smooth) / (sum(p) + sum(t) + smooth) with softmax probabilities p, summed over space
    (`batch_dice`: over the batch too), mean over classes and samples. An absent class counts: its Dice is near 1
    where nothing is predicted. Ignored voxels count in neither part; without any labelled voxel cross-entropy is 0.
    `label_smoothing` moves that share of the true class's weight evenly to all classes. With `hardest_percent` the
    cross-entropy is the mean of that share of all voxels, those with the largest. Parts of weight 0 are left out.
    While training on several devices (`over_devices`) the batch is that of all of them.
    With `regions`: binary cross-entropy, mean over voxels and regions, and the Dice of all regions with sigmoid
    probabilities. (With an ignore label nnU-Net sums it over the regions; here it is the mean with and without one.)
    Source: Isensee et al., Nature Methods 18 (2021) 203-211.
    """

    def __init__(
        self,
        *,
        batch_dice: bool = False,
        smooth: float = 1e-5,
        ignore_label: int | None = None,
        cross_entropy_weight: float = 1.0,
        dice_weight: float = 1.0,
        label_smoothing: float = 0.0,
        hardest_percent: float | None = None,
        regions: Sequence[Sequence[int]] = (),
    ) -> None:
        weights = {"cross_entropy": cross_entropy_weight, "dice": dice_weight}
        super().__init__({name: weight for name, weight in weights.items() if weight > 0})
        self.batch_dice = batch_dice
        self.smooth = smooth
        self.ignore_label = ignore_label
        self.label_smoothing = label_smoothing
        self.hardest_percent = hardest_percent
        self.regions = tuple(map(tuple, regions))

    def parts(self, logits: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Return `cross_entropy` and negative `dice`. Raises UsageError or DataError for a target that does not fit."""
        logits = _full_precision(logits)
        truth = truth_of(logits, target, self.ignore_label, self.regions)
        known = known_voxels(target, self.ignore_label)
        log_probability = functional.logsigmoid(logits) if self.regions else functional.log_softmax(logits, 1)
        made = {
            "cross_entropy": lambda: self._cross_entropy(logits, log_probability, truth, known),
            "dice": lambda: -self._dice(log_probability.exp(), truth, known),
        }
        return {name: made[name]() for name in self.weights}

    def _cross_entropy(self, logits: Tensor, log_probability: Tensor, truth: Tensor, known: Tensor | None) -> Tensor:
        voxels = self._of_voxels(logits, log_probability, truth)
        if self.hardest_percent is None:
            return _mean(voxels, known, together=self.training)
        voxels = (voxels if known is None else torch.where(known, voxels, 0)).flatten()
        return voxels.topk(max(1, int(len(voxels) * self.hardest_percent / 100)), sorted=False).values.mean()

    def _of_voxels(self, logits: Tensor, log_probability: Tensor, truth: Tensor) -> Tensor:
        """Cross-entropy of each voxel [b, *spatial]; with regions the mean of theirs. Smoothing is towards a half."""
        if self.regions:
            voxels = -_of_true_side(logits, truth)
            if self.label_smoothing > 0:
                share = self.label_smoothing / 2
                voxels = (1 - share) * voxels - share * _of_true_side(logits, ~truth)
            return voxels.mean(1)
        voxels = -_of_true_class(log_probability, truth)
        if self.label_smoothing > 0:
            voxels = (1 - self.label_smoothing) * voxels - self.label_smoothing * log_probability.mean(1)
        return voxels

    def _dice(self, probability: Tensor, truth: Tensor, known: Tensor | None) -> Tensor:
        """Soft Dice of all regions, or of all classes but the background."""
        first = 0 if self.regions else 1
        foreground = _only_known(probability[:, first:], known)
        both, reference = _overlap(foreground, truth[:, first:])
        sums = torch.stack([both, reference, _over_space(foreground)])
        if self.batch_dice:
            sums = over_devices(sums.sum(1)) if self.training else sums.sum(1)
        both, reference, predicted = sums
        below = (reference + predicted + self.smooth).clamp_min(SMALLEST_DENOMINATOR)
        soft_dice: Tensor = (2 * both + self.smooth) / below
        return soft_dice.mean()


class DeepSupervisionLoss(nn.Module):
    """A loss over several outputs, finest first: the weighted sum of the losses of each.

    Each output's target is the label map at every stride-th voxel (the nearest to the output voxel's centre).
    Outputs of weight 0 are skipped. One output alone, as in evaluation, has weight 1. `loss` may be any module of
    (logits, target); if it has `measure` its parts are summed with the same weights.
    """

    def __init__(self, loss: nn.Module, weights: Sequence[float]) -> None:
        super().__init__()
        self.loss = loss
        self.weights = tuple(weights)

    def parts(self, outputs: Sequence[Tensor] | Tensor, target: Tensor) -> dict[str, Tensor]:
        """Return the parts of the loss by name."""
        measured = self.measure(outputs, target)
        return {name: value for name, value in measured.items() if name != "loss"}

    def measure(self, outputs: Sequence[Tensor] | Tensor, target: Tensor) -> dict[str, Tensor]:
        """Return the total as `loss`, and the parts. Raises UsageError for another number of outputs."""
        listed = [outputs] if isinstance(outputs, Tensor) else list(outputs)
        weights = (1.0,) if len(listed) == 1 else self.weights
        if len(listed) != len(weights):
            raise UsageError("the loss has a weight for each output", found=len(listed), expected=len(weights))
        total: dict[str, Tensor] = {}
        for logits, weight in zip(listed, weights, strict=True):
            if weight == 0:
                continue
            for name, value in _measure(self.loss, logits, downsampled(target, logits.shape[2:])).items():
                total[name] = total[name] + weight * value if name in total else weight * value
        return total

    def forward(self, outputs: Sequence[Tensor] | Tensor, target: Tensor) -> Tensor:
        return self.measure(outputs, target)["loss"]


def deep_supervision_weights(outputs: int, *, drop_last: bool) -> tuple[float, ...]:
    """Return the weights 1, 1/2, 1/4 ... of so many outputs, finest first, scaled to the sum 1.

    `drop_last` gives the coarsest the weight 0, as nnU-Net does; a single output keeps its weight.
    """
    halved = [0.5**number for number in range(outputs)]
    if drop_last and outputs > 1:
        halved[-1] = 0.0
    return tuple(weight / sum(halved) for weight in halved)


def _measure(loss: nn.Module, logits: Tensor, target: Tensor) -> dict[str, Tensor]:
    if isinstance(loss, SummedLoss):
        return loss.measure(logits, target)
    return {"loss": loss(logits, target)}


def _full_precision(logits: Tensor) -> Tensor:
    return logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits


def _only_known(values: Tensor, known: Tensor | None) -> Tensor:
    return values if known is None else torch.where(known.unsqueeze(1), values, 0)


def _mean(values: Tensor, known: Tensor | None, *, together: bool = False) -> Tensor:
    """Mean over the labelled voxels of [b, *spatial]; 0 without any.

    `together` divides by the mean number of labelled voxels of all devices, so that the mean of their gradients is
    the whole batch's.
    """
    if known is None:
        return values.mean()
    total, count = torch.where(known, values, 0).sum(), known.sum()
    if together and several_devices():
        devices = distributed.get_world_size()
        return total / (over_devices(count.float()) / devices).clamp_min(1 / devices)
    return total / count.clamp_min(1)


def _of_true_class(values: Tensor, truth: Tensor) -> Tensor:
    """[b, classes, *spatial] at the true class: [b, *spatial], 0 where a voxel has none."""
    return torch.where(truth, values, 0).sum(1)


def _of_true_side(logits: Tensor, truth: Tensor) -> Tensor:
    """Logarithm of the probability that each channel's sigmoid gives to the truth, [b, channels, *spatial]."""
    return functional.logsigmoid(torch.where(truth, logits, -logits))


def _overlap(probability: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """Sums over space, [b, classes]: of the probability inside the truth, and of the truth."""
    return _over_space(torch.where(truth, probability, 0)), _over_space(truth.to(probability.dtype))


def _over_space(values: Tensor) -> Tensor:
    return values.flatten(2).sum(2)


def _focal(log_probability: Tensor, gamma: float) -> Tensor:
    """-(1 - p)^gamma log p. The guard keeps the gradient finite at p = 1 for a gamma below 1."""
    missing = (-torch.expm1(log_probability)).clamp_min(torch.finfo(log_probability.dtype).tiny)
    return -(missing**gamma) * log_probability
