"""CLAHE of a chest CT: ours against scikit-image, seconds and peak memory, side by side in one process.

    python -m benchmarks.clahe [--repeats 5] [--scan SCAN.nii.gz]

The scan is resized to the paper's 40 x 320 x 320 and to 160 x 320 x 320 and windowed to -1024..600 HU. The two take
turns; `wall` and `processor` are medians, the second without the time that other processes took. Memory is the peak
of what Python and numpy allocate during a call, result included, in a run that is not timed. Agreement is between
65535 times scikit-image's result, rounded, and ours.
"""

from __future__ import annotations

import argparse
import statistics
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from skimage.exposure import equalize_adapthist

from siccs_net.preprocessing.clahe import FULL_SCALE, clahe
from siccs_net.preprocessing.resample import resample_image

SHARED = Path(__file__).resolve().parents[1].parent / "shared" / "data" / "ct3d"
SHAPES = ((40, 320, 320), (160, 320, 320))
DIVISOR, CLIP_LIMIT, BINS = 8, 0.01, 256


def main() -> None:
    arguments = _arguments()
    scan = np.asanyarray(nib.load(arguments.scan).dataobj).T
    print(f"{arguments.scan.name}; medians of {arguments.repeats}; kernel = shape // {DIVISOR}, {BINS} bins")
    print(f"{'shape':<16}{'what':<14}{'wall s':>9}{'processor s':>13}{'peak MiB':>10}{'image MiB':>11}")
    for shape in SHAPES:
        windowed = (resample_image(scan, shape, order="area") + 1024) / 1624
        report(np.clip(windowed, 0, 1, dtype=np.float32), arguments.repeats)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scan", type=Path, default=SHARED / "ricord1a_001012_fullres_0000.nii.gz")
    parser.add_argument("--repeats", type=int, default=5)
    return parser.parse_args()


def scikit_image(image: NDArray[np.float32]) -> NDArray[np.float32]:
    kernel = [max(size // DIVISOR, 1) for size in image.shape]
    equalised: NDArray[np.float32] = equalize_adapthist(image, kernel_size=kernel, clip_limit=CLIP_LIMIT, nbins=BINS)
    return equalised


def ours(image: NDArray[np.float32]) -> NDArray[np.uint16]:
    return clahe(image, kernel_divisor=DIVISOR, clip_limit=CLIP_LIMIT, bins=BINS)


def report(image: NDArray[np.float32], repeats: int) -> None:
    ways: dict[str, Callable[[NDArray[np.float32]], Any]] = {"scikit-image": scikit_image, "siccs_net": ours}
    turns = [{name: seconds(way, image) for name, way in ways.items()} for _ in range(repeats + 1)][1:]
    peaks = {name: peak_mib(way, image) for name, way in ways.items()}
    wall = {name: statistics.median(turn[name][0] for turn in turns) for name in ways}
    processor = {name: statistics.median(turn[name][1] for turn in turns) for name in ways}
    for name in ways:
        print(
            f"{'x'.join(map(str, image.shape)):<16}{name:<14}{wall[name]:9.3f}{processor[name]:13.3f}"
            f"{peaks[name]:10.1f}{image.nbytes / 2**20:11.1f}"
        )
    ratios = [f"{kind['scikit-image'] / kind['siccs_net']:.1f}" for kind in (wall, processor, peaks)]
    print(f"{'':<16}{'ratio':<14}{ratios[0]:>9}{ratios[1]:>13}{ratios[2]:>10}")
    print(f"{'':<16}{agreement(scikit_image(image), ours(image))}")


def seconds(way: Callable[[NDArray[np.float32]], Any], image: NDArray[np.float32]) -> tuple[float, float]:
    """Return the wall and the processor time of one call."""
    wall, processor = time.perf_counter(), time.process_time()
    way(image)
    return time.perf_counter() - wall, time.process_time() - processor


def peak_mib(way: Callable[[NDArray[np.float32]], Any], image: NDArray[np.float32]) -> float:
    tracemalloc.start()
    way(image)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak / 2**20


def agreement(expected: NDArray[np.float32], found: NDArray[np.uint16]) -> str:
    difference = np.abs(np.rint(expected * np.float32(FULL_SCALE)) - found)
    return (
        f"{np.count_nonzero(difference)} of {found.size} voxels differ, at most by {difference.max() / FULL_SCALE:.1e} "
        f"(a level is {1 / (2**14 - 1):.1e})"
    )


if __name__ == "__main__":
    main()
