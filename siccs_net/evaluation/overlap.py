"""Overlap of two label maps: the counts of every class from one joint histogram, and Dice and IoU from the counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from siccs_net.errors import DataError, GeometryError, UsageError
from siccs_net.records.dataset import LARGEST_LABEL

_BYTE = 256


@dataclass(frozen=True)
class Overlap:
    """Voxel counts of one class: true and false positives, false and true negatives."""

    tp: int
    fp: int
    fn: int
    tn: int

    @property
    def n_pred(self) -> int:
        """Voxels of the class in the prediction."""
        return self.tp + self.fp

    @property
    def n_ref(self) -> int:
        """Voxels of the class in the reference."""
        return self.tp + self.fn

    @property
    def dice(self) -> float | None:
        """2 TP / (2 TP + FP + FN); None when the class is in neither mask."""
        total = self.n_pred + self.n_ref
        return 2 * self.tp / total if total else None

    @property
    def iou(self) -> float | None:
        """TP / (TP + FP + FN), the Jaccard index; None when the class is in neither mask."""
        union = self.tp + self.fp + self.fn
        return self.tp / union if union else None


def confusion(
    prediction: NDArray[Any],
    reference: NDArray[Any],
    classes: Mapping[str, Sequence[int]],
    *,
    ignore_label: int | None = None,
) -> dict[str, Overlap]:
    """Count the overlap of two label maps [z, y, x] or [y, x] for each class, a name and its set of label values.

    Voxels whose reference is `ignore_label` are counted nowhere. The maps are read once, whatever the number of
    classes. Raises GeometryError for two shapes, DataError for maps that do not hold whole numbers and UsageError
    for a label value outside 0..65535.
    """
    check_pair(prediction, reference)
    values = sorted({value for of_class in classes.values() for value in of_class} - {ignore_label})
    joint = _joint_histogram(prediction, reference, values if ignore_label is None else [*values, ignore_label])
    if ignore_label is not None:
        joint[-1] = 0
    return {
        name: _overlap(joint, [values.index(value) + 1 for value in set(of_class) - {ignore_label}])
        for name, of_class in classes.items()
    }


def check_pair(prediction: NDArray[Any], reference: NDArray[Any]) -> None:
    """Raise GeometryError unless both maps have one shape, DataError unless they hold whole numbers in 2D or 3D."""
    if prediction.shape != reference.shape:
        raise GeometryError(
            "prediction and reference differ in shape", found=prediction.shape, expected=reference.shape
        )
    for labels in (prediction, reference):
        check_label_map(labels)


def check_label_map(labels: NDArray[Any]) -> None:
    """Raise DataError unless the array holds whole numbers in two or three axes."""
    if labels.dtype.kind not in "iub":
        raise DataError("a label map must hold whole numbers", found=labels.dtype, expected="an integer type")
    if labels.ndim not in (2, 3):
        raise DataError("a label map has two or three axes", found=f"shape {labels.shape}", expected="[z, y, x]")


def code_table(codes: Mapping[int, int], dtype: type[np.integer[Any]]) -> NDArray[Any]:
    """Return the table that `lookup` reads: codes by label value, 0 for every other value.

    Raises UsageError for a label value outside 0..65535.
    """
    wrong = [value for value in codes if not 0 <= value <= LARGEST_LABEL]
    if wrong:
        raise UsageError("a label value is out of range", found=wrong[0], expected=f"0 to {LARGEST_LABEL}")
    table = np.zeros(max(_BYTE, *(value + 1 for value in codes)) + 1 if codes else _BYTE + 1, dtype)
    table[list(codes)] = list(codes.values())
    return table


def lookup(labels: NDArray[Any], table: NDArray[Any]) -> NDArray[Any]:
    """Return each voxel's code, in the table's type and the shape of `labels`."""
    if labels.dtype == np.bool_:
        labels = labels.view(np.uint8)
    if labels.dtype == np.uint8:
        return np.asarray(table[labels])
    # The table's last entry stands for every value that it does not hold.
    return np.asarray(table[np.clip(labels.astype(np.int64), -1, len(table) - 1)])


def _joint_histogram(prediction: NDArray[Any], reference: NDArray[Any], values: Sequence[int]) -> NDArray[np.int64]:
    """Return voxel counts [reference, prediction]; index i + 1 is values[i], index 0 any other value."""
    size = len(values) + 1
    table = code_table({value: number + 1 for number, value in enumerate(values)}, np.int64)
    counts = np.zeros(size * size, np.int64)
    # Plane by plane, because numpy.bincount needs eight bytes a voxel.
    for predicted, wanted in zip(prediction, reference, strict=True):
        pairs = lookup(wanted, table) * size + lookup(predicted, table)
        counts += np.bincount(pairs.ravel(), minlength=size * size)
    return counts.reshape(size, size)


def _overlap(joint: NDArray[np.int64], members: Sequence[int]) -> Overlap:
    n_ref, n_pred = int(joint[members].sum()), int(joint[:, members].sum())
    tp = int(joint[np.ix_(members, members)].sum())
    return Overlap(tp, n_pred - tp, n_ref - tp, int(joint.sum()) - n_pred - n_ref + tp)
