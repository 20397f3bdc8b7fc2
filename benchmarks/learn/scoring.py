"""How good masks are: Dice by class and of all lesions, small lesions found, volume bias, calibration."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from benchmarks.learn.data import Task

ANY = "any lesion"
SMALL_MM2, SMALL_MM3 = 150.0, 2000.0
"""Lesions up to this size are small, in 2-D and in 3-D."""
FOUND_SHARE = 0.1
"""A lesion is found where this share of it is in the mask."""
BINS = 15


def score_cases(masks: Path, raw: Path, task: Task, cases: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return every case's scores. Raises FileNotFoundError for a case without a mask."""
    return {case: _score(masks, raw / "labelsTr" / f"{case}.nii.gz", case, task) for case in cases}


def _score(masks: Path, reference_path: Path, case: str, task: Task) -> dict[str, Any]:
    reference, spacing = _read(reference_path)
    found, _ = _read(masks / f"{case}.nii.gz")
    groups = {**{name: (value,) for name, value in task.classes.items()}, ANY: task.lesions}
    scores: dict[str, Any] = {"dice": {}, "volume": {}}
    for name, values in groups.items():
        own, wanted = np.isin(found, values), np.isin(reference, values)
        size = int(own.sum()) + int(wanted.sum())
        # Only where the reference has the class, so that the means of all sides are over the same cases.
        scores["dice"][name] = round(2 * int((own & wanted).sum()) / size, 6) if wanted.any() else None
        scores["volume"][name] = [round(int(mask.sum()) * _product(spacing), 3) for mask in (own, wanted)]
    scores["small_lesions"] = _small_lesions(np.isin(found, task.lesions), np.isin(reference, task.lesions), spacing)
    scores["calibration"] = _calibration(masks, case, reference, task.lesions)
    return scores


def _read(path: Path) -> tuple[NDArray[np.integer[Any]], tuple[float, ...]]:
    image = nib.load(path)
    return np.asarray(image.dataobj).astype(int), tuple(float(step) for step in image.header.get_zooms()[:3])


def _product(spacing: Sequence[float]) -> float:
    return float(np.prod(spacing))


def _small_lesions(found: NDArray[Any], wanted: NDArray[Any], spacing: Sequence[float]) -> list[int]:
    """Return how many small lesions were found, and how many there are."""
    from scipy import ndimage

    flat = 1 in wanted.shape
    limit = SMALL_MM2 * spacing[wanted.shape.index(1)] if flat else SMALL_MM3
    numbered, count = ndimage.label(wanted, ndimage.generate_binary_structure(wanted.ndim, wanted.ndim))
    sizes = np.bincount(numbered.ravel(), minlength=count + 1)[1:]
    covered = np.bincount(numbered[found], minlength=count + 1)[1:]
    small = sizes * _product(spacing) <= limit
    return [int((covered[small] >= FOUND_SHARE * sizes[small]).sum()), int(small.sum())]


def _calibration(masks: Path, case: str, reference: NDArray[Any], lesions: Sequence[int]) -> list[list[float]]:
    """Return [voxels, correct ones, sum of confidence] of each bin of confidence, where either side has a lesion."""
    probabilities = _probabilities(masks, case)
    answer, confidence = probabilities.argmax(0), probabilities.max(0)
    shown = np.isin(answer, lesions) | np.isin(reference, lesions)
    correct = (answer == reference)[shown]
    bins = np.minimum((confidence[shown] * BINS).astype(int), BINS - 1)
    sums = [np.bincount(bins, weights, BINS) for weights in (None, correct, confidence[shown])]
    return [[float(value) for value in row] for row in zip(*sums, strict=True)]


def _probabilities(masks: Path, case: str) -> NDArray[np.floating[Any]]:
    """Return a case's class probabilities [class, x, y, z] in the order of its file, as either side saves them."""
    packed = masks / f"{case}.npz"
    if packed.is_file():
        with np.load(packed) as file:
            return np.asarray(file["probabilities"], np.float32).transpose(0, 3, 2, 1)
    from siccs_net.io.probabilities import open_probabilities

    saved = open_probabilities(masks, case)
    canonical = np.asarray(saved.array[:], np.float32) / saved.record.levels
    native = [saved.orientation.to_native(one) for one in canonical]
    return np.stack(native)


def summarise(scores: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return the means over cases; the cases' bins of calibration are used up."""
    names = next(iter(scores.values()))["dice"]
    dice = {name: _mean([one["dice"][name] for one in scores.values()]) for name in names}
    small = np.sum([one["small_lesions"] for one in scores.values()], axis=0)
    volumes = {name: np.sum([one["volume"][name] for one in scores.values()], axis=0) for name in names}
    return {
        "dice": dice,
        "small_lesion_recall": float(small[0] / small[1]) if small[1] else None,
        "small_lesions": int(small[1]),
        "volume_bias": {name: float(own / wanted - 1) if wanted else None for name, (own, wanted) in volumes.items()},
        "calibration_error": _expected_error(np.sum([one.pop("calibration") for one in scores.values()], axis=0)),
    }


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _expected_error(bins: NDArray[np.floating[Any]]) -> float:
    """Expected calibration error (Guo et al., "On Calibration of Modern Neural Networks", ICML 2017)."""
    voxels, correct, confidence = bins.T
    return float(np.abs(correct - confidence).sum() / max(voxels.sum(), 1))


def paired_difference(
    own: Sequence[dict[str, dict[str, Any]]], peer: Sequence[dict[str, dict[str, Any]]], name: str
) -> tuple[float, tuple[float, float] | None]:
    """Return the mean difference of Dice, own minus peer, over cases and seeds, and its 95 % bootstrap interval.

    Each case counts once: its Dice is the mean over seeds. Cases without the class on either side are left out.
    """
    from siccs_net.evaluation.bootstrap import bca_interval

    differences = []
    for case in own[0]:
        pairs = [(a[case]["dice"][name], b[case]["dice"][name]) for a, b in zip(own, peer, strict=True)]
        if all(value is not None for pair in pairs for value in pair):
            differences.append(np.mean([a - b for a, b in pairs]))
    values = np.array(differences)

    def mean(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        result: NDArray[np.float64] = weights @ values / weights.sum(1)
        return result

    return float(values.mean()), bca_interval(mean, [len(values)], seed=0)
