"""Dice on validation patches: a confusion matrix of voxels, and what it says of labels and groups."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from siccs_net.preprocessing.preprocess import IGNORED
from siccs_net.records.dataset import LabelScheme


def confusion_matrix(predicted: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Return voxel counts [classes, classes] (reference, prediction) of two label maps; ignored voxels are left out."""
    known = labels != IGNORED
    joint = labels[known] * classes + predicted[known]
    return torch.bincount(joint, minlength=classes * classes).reshape(classes, classes)


def predicted_classes(logits: Tensor, labels: LabelScheme) -> Tensor:
    """Return the predicted class of each voxel [b, *spatial], as prepared cases have them, from logits.

    Regions are painted one over another, each where its logit is positive, with the class that stands for it.
    """
    if not labels.regions:
        return logits.argmax(1)
    classes = torch.zeros_like(logits[:, 0], dtype=torch.int64)
    for channel, painted in enumerate(labels.painted_classes):
        classes[logits[:, channel] > 0] = painted
    return classes


def dice(confusion: Tensor, classes: Sequence[int]) -> float | None:
    """Return the Dice of the union of some classes from a confusion matrix; None when it is in neither map."""
    members = torch.zeros(len(confusion), dtype=torch.bool)
    members[list(classes)] = True
    both = int(confusion[members][:, members].sum())
    total = int(confusion[members].sum()) + int(confusion[:, members].sum())
    return 2 * both / total if total else None
