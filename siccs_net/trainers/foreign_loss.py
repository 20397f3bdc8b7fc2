"""Losses that a plug-in's `build_loss` returns, told of the dataset's regions and ignored voxels."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from siccs_net.errors import UsageError
from siccs_net.losses import SummedLoss, region_masks
from siccs_net.preprocessing.preprocess import IGNORED
from siccs_net.records.dataset import LabelScheme

TORCH_IGNORE_INDEX = -100
"""The target that torch's losses leave out unless told otherwise."""


def fit_to_labels(loss: nn.Module, labels: LabelScheme) -> nn.Module:
    """Return a loss that fits a dataset with regions or an ignore label, whatever it knows of them.

    One of ours that was made without them is given them; any other is wrapped (`ForeignLoss`). Raises UsageError for
    another loss on a dataset with both.
    """
    ignored = None if labels.ignore is None else IGNORED
    if isinstance(loss, SummedLoss):
        for name, value in (("ignore_label", ignored), ("regions", labels.region_classes)):
            if value and hasattr(loss, name) and not getattr(loss, name):
                setattr(loss, name, value)
        return loss
    if not labels.regions and ignored is None:
        return loss
    return ForeignLoss(loss, regions=labels.region_classes, ignore_label=ignored)


class ForeignLoss(nn.Module):
    """A loss that knows neither regions nor ignored voxels, such as one of torch's, handed what it expects.

    Ignored voxels get the loss's own `ignore_index`, else -100, torch's default; where no voxel is labelled the loss
    is 0. With regions the target is their masks [b, regions, *spatial] as float, as for nn.BCEWithLogitsLoss.
    """

    def __init__(
        self, loss: nn.Module, *, regions: Sequence[Sequence[int]] = (), ignore_label: int | None = None
    ) -> None:
        super().__init__()
        if regions and isinstance(loss, nn.CrossEntropyLoss | nn.NLLLoss):
            raise UsageError(
                f"{type(loss).__name__} tells classes apart, one a voxel; regions may overlap",
                hint="Let build_loss return a loss of masks such as nn.BCEWithLogitsLoss, or none of your own",
            )
        if regions and ignore_label is not None:
            raise UsageError(
                f"{type(loss).__name__} cannot leave out the ignored voxels of regions",
                hint="Let build_loss return a subclass of siccs_net.losses.SummedLoss, or name no ignore label",
            )
        self.loss = loss
        self.regions = tuple(map(tuple, regions))
        self.ignore_label = ignore_label

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        if self.regions:
            target = region_masks(logits, target, self.regions, None).to(logits.dtype)
        if self.ignore_label is not None:
            ignored = target == self.ignore_label
            if bool(ignored.all()):  # a mean over no voxel would be NaN, and so the weights ever after
                return logits.sum() * 0
            target = target.masked_fill(ignored, getattr(self.loss, "ignore_index", TORCH_IGNORE_INDEX))
        value: Tensor = self.loss(logits, target)
        return value
