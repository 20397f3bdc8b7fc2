"""Disturbing the previous stage's segmentation, so that a cascade's second stage does not trust it blindly.

nnU-Net's two transforms: a random binary operation with a ball, and the removal of a random component.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from siccs_net.augment.settings import AugmentationSettings

Mask = NDArray[np.bool_]
Operation = Literal["dilation", "erosion", "opening", "closing"]
OPERATIONS: tuple[Operation, ...] = ("dilation", "erosion", "opening", "closing")


@dataclass(frozen=True)
class Disturbance:
    """What is done to which label: operations with a ball's radius in voxels, and components to remove.

    A removal is a number in [0, 1) that picks one of the components that are small enough.
    """

    operations: tuple[tuple[int, Operation, int], ...] = ()
    removals: tuple[tuple[int, float], ...] = ()


def draw_disturbance(settings: AugmentationSettings, labels: int, rng: np.random.Generator) -> Disturbance:
    """Draw what is done to a segmentation with labels 1 to `labels`."""
    operations: list[tuple[int, Operation, int]] = []
    removals: list[tuple[int, float]] = []
    change, remove = rng.random(2) < (settings.stage_morphology_probability, settings.stage_removal_probability)
    smallest, largest = settings.stage_morphology_radius
    for label in (rng.permutation(labels) + 1).tolist():
        each = rng.random(2) < settings.stage_label_probability
        operation, radius = OPERATIONS[int(rng.integers(len(OPERATIONS)))], int(rng.integers(smallest, largest + 1))
        pick = float(rng.random())
        if change and each[0]:
            operations.append((label, operation, radius))
        if remove and each[1]:
            removals.append((label, pick))
    return Disturbance(tuple(operations), tuple(removals))


def disturb(stage: NDArray[np.uint8], drawn: Disturbance, *, largest_share: float) -> NDArray[np.uint8]:
    """Apply a disturbance to a segmentation [*spatial]; the input is not changed.

    What a label gains is taken from the others, what it loses becomes background. Only components that cover less
    than `largest_share` of the patch are removed.
    """
    if not drawn.operations and not drawn.removals:
        return stage
    result = stage.copy()
    for label, operation, radius in drawn.operations:
        _operate(result, label, operation, radius)
    for label, pick in drawn.removals:
        _remove_component(result, label, pick, largest_share)
    return result


def _operate(stage: NDArray[np.uint8], label: int, operation: Operation, radius: int) -> None:
    """Work in the label's box, widened by the ball: the rest does not change."""
    if (box := _box(stage == label, radius + 1)) is None:
        return
    part = stage[box]
    before = part == label
    after = ball_operation(before, operation, radius)
    part[after] = label
    part[before & ~after] = 0


def _box(mask: Mask, margin: int) -> tuple[slice, ...] | None:
    found: Sequence[Any] = ndimage.find_objects(mask.astype(np.uint8))
    if not found:
        return None
    return tuple(slice(max(part.start - margin, 0), part.stop + margin) for part in found[0])


def ball_operation(mask: Mask, operation: Operation, radius: int) -> Mask:
    """Return a mask [*spatial] after an operation with the ball of all offsets no longer than `radius` voxels.

    By distances, which takes as long for a large ball as for a small one. The array's border is no border: erosion
    does not begin there.
    """
    match operation:
        case "dilation":
            return _dilated(mask, radius)
        case "erosion":
            return ~_dilated(~mask, radius)
        case "opening":
            return _dilated(~_dilated(~mask, radius), radius)
        case "closing":
            return ~_dilated(~_dilated(mask, radius), radius)


def _dilated(mask: Mask, radius: int) -> Mask:
    if not mask.any():
        return mask
    reached: Mask = np.asarray(ndimage.distance_transform_edt(~mask)) <= radius
    return reached


def _remove_component(stage: NDArray[np.uint8], label: int, pick: float, largest_share: float) -> None:
    structure = ndimage.generate_binary_structure(stage.ndim, stage.ndim)
    components, count = ndimage.label(stage == label, structure)
    sizes = np.bincount(components.ravel(), minlength=count + 1)[1:]
    small = np.flatnonzero(sizes < largest_share * stage.size) + 1
    if len(small):
        stage[components == small[int(pick * len(small))]] = 0
