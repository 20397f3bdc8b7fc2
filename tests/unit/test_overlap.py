"""Overlap counts against masks counted one by one, and the rules for empty masks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from siccs_net.errors import DataError, GeometryError, UsageError
from siccs_net.evaluation.overlap import Overlap, confusion

CLASSES = {"1": (1,), "2": (2,), "200": (200,), "EF+GGO": (2, 200), "lung": (1, 2, 200), "absent": (77,), "none": ()}


@given(st.integers(0, 2**32 - 1), st.sampled_from([None, 2, 9]), st.sampled_from([np.uint8, np.int16, np.uint64]))
def test_counts_equal_those_of_masks(seed: int, ignore_label: int | None, dtype: type[np.generic]) -> None:
    generator = np.random.default_rng(seed)
    prediction, reference = generator.choice([0, 1, 2, 9, 200], (2, 5, 6, 7)).astype(dtype)
    found = confusion(prediction, reference, CLASSES, ignore_label=ignore_label)
    counted = np.ones(reference.shape, bool) if ignore_label is None else reference != ignore_label
    for name, values in CLASSES.items():
        kept = set(values) - {ignore_label}
        predicted, wanted = (np.isin(labels[counted], sorted(kept)) for labels in (prediction, reference))
        tp, fp = (predicted & wanted).sum(), (predicted & ~wanted).sum()
        fn, tn = (~predicted & wanted).sum(), (~predicted & ~wanted).sum()
        assert found[name] == Overlap(tp, fp, fn, tn)
        assert (found[name].n_pred, found[name].n_ref) == (predicted.sum(), wanted.sum())


def test_dice_and_iou_by_hand() -> None:
    """Three of four reference voxels found and one false one: Dice 6/8, IoU 3/5."""
    reference = np.array([[1, 1, 1, 1, 0, 0]], np.uint8)
    prediction = np.array([[0, 1, 1, 1, 1, 0]], np.uint8)
    found = confusion(prediction, reference, {"mask": [1]})["mask"]
    assert found == Overlap(tp=3, fp=1, fn=1, tn=1)
    assert found.dice == 6 / 8
    assert found.iou == 3 / 5


def test_empty_masks() -> None:
    empty, full = np.zeros((2, 3, 4), np.uint8), np.ones((2, 3, 4), np.uint8)
    assert confusion(empty, empty, {"mask": [1]})["mask"].dice is None
    assert confusion(empty, empty, {"mask": [1]})["mask"].iou is None
    for prediction, reference in ((empty, full), (full, empty)):
        found = confusion(prediction, reference, {"mask": [1]})["mask"]
        assert (found.dice, found.iou) == (0, 0)


def test_values_that_no_class_names_are_background() -> None:
    prediction = np.array([[-1, -300, 1, 30000]], np.int16)
    reference = np.array([[1, 0, 1, 0]], np.int16)
    assert confusion(prediction, reference, {"mask": [1]})["mask"] == Overlap(tp=1, fp=0, fn=1, tn=2)


def test_masks_of_truth_values_are_labels_0_and_1() -> None:
    mask = np.array([[True, False, True]])
    assert confusion(mask, mask, {"mask": [1]})["mask"] == Overlap(tp=2, fp=0, fn=0, tn=1)


def test_memory_order_does_not_matter() -> None:
    prediction, reference = np.random.default_rng(0).integers(0, 4, (2, 9, 8, 7)).astype(np.uint8)
    classes = {"1": [1], "lung": [1, 2, 3]}
    turned = [np.asfortranarray(labels)[::-1, :, ::-1] for labels in (prediction, reference)]
    assert confusion(*turned, classes) == confusion(prediction, reference, classes)


def test_refusals() -> None:
    labels = np.zeros((2, 3, 4), np.uint8)
    with pytest.raises(GeometryError, match=r"differ in shape; found \(2, 3, 4\); expected \(1, 3, 4\)"):
        confusion(labels, labels[:1], {"mask": [1]})
    with pytest.raises(DataError, match="whole numbers; found float32"):
        confusion(labels.astype(np.float32), labels, {"mask": [1]})
    with pytest.raises(DataError, match="two or three axes"):
        confusion(labels[None], labels[None], {"mask": [1]})
    for value in (-1, 65536):
        with pytest.raises(UsageError, match=f"out of range; found {value}; expected 0 to 65535"):
            confusion(labels, labels, {"mask": [value]})
