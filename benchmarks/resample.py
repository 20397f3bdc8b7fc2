"""Resampling a whole chest CT: ours against what nnU-Net calls, seconds and peak memory in one run.

    python benchmarks/resample.py [--repeats 3] [--peer-repeats 1] [--scan SCAN.nii.gz]

Three stages, as in preprocessing and export of one case: the image with cubic splines to 1 mm (scikit-image on
float64), a label map of four classes to 1 mm (batchgenerators' resize_segmentation), and the logits of four classes
back to the scan's grid and their largest class (scikit-image for every class, then argmax). The labels are drawn from
the scan by thresholds: they are for timing only. Memory is the peak above the start, from Linux's /proc/self.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from batchgenerators.augmentations.utils import resize_segmentation
from numpy.typing import NDArray
from scipy import ndimage
from skimage.transform import resize

from siccs_net.preprocessing.export import argmax_to_shape
from siccs_net.preprocessing.resample import resample_image, resampled_shape
from siccs_net.preprocessing.resample_labels import resample_labels

SHARED = Path(__file__).resolve().parents[1].parent / "shared" / "data" / "ct3d"
CLASSES = 4
SLAB = 16


@dataclass(frozen=True)
class Run:
    """What one way of doing a stage took, and its result."""

    seconds: float
    peak_mib: float
    result: NDArray[Any]


def main() -> None:
    arguments = _arguments()
    scan = nib.load(arguments.scan)
    image = np.asanyarray(scan.dataobj).T
    spacing = [float(zoom) for zoom in scan.header.get_zooms()[::-1]]
    small = resampled_shape(image.shape, spacing, (1.0, 1.0, 1.0))
    labels = draw_labels(image)
    logits = draw_logits(resample_labels(labels, small))
    print(f"{arguments.scan.name}: {image.shape} to {small} and back; median of {arguments.repeats} runs of ours")
    print(f"{'stage':<24}{'peer s':>9}{'ours s':>9}{'ratio':>8}{'peer MiB':>10}{'ours MiB':>10}  agreement")
    stages: list[tuple[str, Callable[[], Any], Callable[[], Any]]] = [
        ("image, order 3", lambda: peer_image(image, small), lambda: resample_image(image, small, order=3)),
        ("labels", lambda: resize_segmentation(labels, small, order=1), lambda: resample_labels(labels, small)),
        ("export, argmax", lambda: peer_export(logits, image.shape), lambda: our_export(logits, image.shape)),
    ]
    for name, peer, ours in stages:
        report(name, measure(peer, arguments.peer_repeats), measure(ours, arguments.repeats))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scan", type=Path, default=SHARED / "ricord1a_001012_fullres_0000.nii.gz")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--peer-repeats", type=int, default=1)
    return parser.parse_args()


def draw_labels(image: NDArray[Any]) -> NDArray[np.uint8]:
    """Three classes of lung by density, in a lung that is the air inside the body's slices."""
    smooth = ndimage.gaussian_filter(image.astype(np.float32), 1.5)
    tissue, _ = ndimage.label(smooth > -300)
    body = tissue == np.bincount(tissue.ravel())[1:].argmax() + 1
    lung = np.stack([ndimage.binary_fill_holes(plane) for plane in body]) & (smooth < -300)
    labels = np.zeros(image.shape, dtype=np.uint8)
    labels[lung] = 1
    labels[lung & (smooth > -780)] = 3
    labels[lung & (smooth > -550)] = 2
    return labels


def draw_logits(labels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Blurred classes with noise, [classes, z, y, x]."""
    rng = np.random.default_rng(0)
    blurred = [ndimage.gaussian_filter((labels == number).astype(np.float32) * 8, 1) for number in range(CLASSES)]
    return np.stack([plane + 0.3 * rng.standard_normal(plane.shape, dtype=np.float32) for plane in blurred])


def peer_image(image: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    return resize(image.astype(float), shape, order=3, mode="edge", anti_aliasing=False, clip=True).astype(np.float32)


def peer_export(logits: NDArray[np.float32], shape: tuple[int, ...]) -> NDArray[Any]:
    resized = np.empty((CLASSES, *shape), dtype=np.float32)
    for own, out in zip(logits, resized, strict=True):
        out[...] = resize(own.astype(float), shape, order=1, mode="edge", anti_aliasing=False)
    return resized.argmax(axis=0)


def our_export(logits: NDArray[np.float32], shape: tuple[int, ...]) -> NDArray[Any]:
    return argmax_to_shape(_slabs(logits), logits.shape[1:], CLASSES, shape)


def _slabs(logits: NDArray[np.float32]) -> Iterator[tuple[int, NDArray[np.float32]]]:
    for start in range(0, logits.shape[1], SLAB):
        yield start, logits[:, start : start + SLAB]


def measure(function: Callable[[], NDArray[Any]], repeats: int) -> Run:
    seconds, peaks = [], []
    for _ in range(repeats):
        Path("/proc/self/clear_refs").write_text("5")  # sets the peak back to the present
        before = _status_mib("VmRSS")
        start = time.perf_counter()
        result = function()
        seconds.append(time.perf_counter() - start)
        peaks.append(_status_mib("VmHWM") - before)
    return Run(statistics.median(seconds), max(peaks), result)


def _status_mib(key: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(key))


def report(name: str, peer: Run, ours: Run) -> None:
    if ours.result.dtype.kind == "f":
        agreement = f"max {np.abs(ours.result - peer.result).max():.1e} HU"
    else:
        agreement = f"{np.count_nonzero(ours.result != peer.result)} of {ours.result.size} voxels differ"
    print(
        f"{name:<24}{peer.seconds:9.2f}{ours.seconds:9.3f}{peer.seconds / ours.seconds:8.1f}"
        f"{peer.peak_mib:10.0f}{ours.peak_mib:10.0f}  {agreement}"
    )


if __name__ == "__main__":
    main()
