"""Label maps as the losses compare them: one mask a class or region, the labelled voxels, coarser maps."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from siccs_net.errors import DataError, UsageError


def downsampled(target: Tensor, size: Sequence[int]) -> Tensor:
    """Return a label map [b, *spatial] at a coarser size: at each output voxel the label nearest to its centre.

    Raises UsageError when the size does not divide the label map's.
    """
    shape = target.shape[1:]
    if len(shape) != len(size) or any(whole % part for whole, part in zip(shape, size, strict=True)):
        raise UsageError("an output's size must divide the label map's", found=list(size), expected=list(shape))
    strides = [whole // part for whole, part in zip(shape, size, strict=True)]
    return target[:, *(slice(stride // 2, None, stride) for stride in strides)]


def one_hot(logits: Tensor, target: Tensor, ignore_label: int | None) -> Tensor:
    """Return which class each voxel has as bool [b, classes, *spatial]; ignored voxels have none.

    Raises UsageError when the shapes differ and DataError for a label that is no class (on CUDA the device asserts
    it, so that no step waits for the check).
    """
    _check_shapes(logits, target)
    classes = torch.arange(logits.shape[1], device=target.device).view(1, -1, *(1,) * (target.ndim - 1))
    truth = target.unsqueeze(1) == classes
    _check_labels(target, truth.any(1), known_voxels(target, ignore_label), f"0 to {logits.shape[1] - 1}")
    return truth


def region_masks(logits: Tensor, target: Tensor, regions: Sequence[Sequence[int]], ignore_label: int | None) -> Tensor:
    """Return where each region is as bool [b, regions, *spatial]; ignored voxels are in none.

    Raises UsageError when the shapes, or the numbers of regions and channels, differ, and DataError for a label that
    is neither background nor in a region (on CUDA the device asserts it).
    """
    _check_shapes(logits, target)
    if logits.shape[1] != len(regions):
        raise UsageError("the logits need a channel a region", found=logits.shape[1], expected=len(regions))
    masks = torch.stack([torch.stack([target == value for value in region]).any(0) for region in regions], 1)
    inside = sorted({0}.union(*regions))
    _check_labels(target, masks.any(1) | (target == 0), known_voxels(target, ignore_label), f"one of {inside}")
    return masks


def truth_of(logits: Tensor, target: Tensor, ignore_label: int | None, regions: Sequence[Sequence[int]]) -> Tensor:
    """Return the masks that a loss compares: of the regions where there are some, else of the classes."""
    return region_masks(logits, target, regions, ignore_label) if regions else one_hot(logits, target, ignore_label)


def _check_shapes(logits: Tensor, target: Tensor) -> None:
    if logits.ndim < 3 or target.shape != (logits.shape[0], *logits.shape[2:]):
        expected = [logits.shape[0], *logits.shape[2:]]
        raise UsageError("the label map does not fit the logits", found=list(target.shape), expected=expected)


def _check_labels(target: Tensor, valid: Tensor, known: Tensor | None, expected: str) -> None:
    valid = valid if known is None else valid | ~known
    if target.device.type == "cuda":
        torch._assert_async(valid.all())
    elif not bool(valid.all()):
        wrong = sorted(set(target[~valid].tolist()))
        raise DataError("the label map has values that are no class", found=wrong, expected=expected)


def known_voxels(target: Tensor, ignore_label: int | None) -> Tensor | None:
    """Return bool [b, *spatial] of the labelled voxels; None means all."""
    return None if ignore_label is None else target != ignore_label
