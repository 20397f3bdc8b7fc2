"""NSD at 2 and 5 mm and HD95 of every class: siccs_net against MONAI, seconds and peak memory above the start.

    python -m benchmarks.surface_metrics

Each figure comes from a process of its own: median of three runs, peak of the first. MONAI is called class by class
on binary masks, the way that needs the least memory: its three public calls, and its distances computed once and
shared by the three metrics, which its public calls do not offer.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

SHARED_DATA = Path(__file__).resolve().parents[1].parent / "shared" / "data"
Pair = tuple[NDArray[Any], NDArray[Any], tuple[float, float, float], dict[str, tuple[int, ...]]]
Figures = dict[str, tuple[float, float, float]]
RUNS = 3


def real_pair() -> Pair:
    """The lung mask of the 64-pixel chest CT, and the same mask eroded and shifted by one voxel."""
    import nibabel
    from scipy import ndimage

    image = nibabel.load(SHARED_DATA / "ct3d" / "cip_ct64_label_lung.nii.gz")
    lung = np.ascontiguousarray(np.asarray(image.dataobj).astype(np.uint8).T)
    moved = np.roll(ndimage.binary_erosion(lung), 1, axis=1).astype(np.uint8)
    z, y, x = (float(step) for step in image.header.get_zooms()[::-1])
    return moved, lung, (z, y, x), {"lung": (1,)}


def synthetic_pair() -> Pair:
    """Two ellipsoids with blobs of two lesions, 160 x 320 x 400 at 1.25 x 0.8 x 0.8 mm; the prediction is perturbed."""
    from scipy import ndimage

    shape, generator = (160, 320, 400), np.random.default_rng(0)
    z, y, x = np.ogrid[tuple(slice(-1, 1, size * 1j) for size in shape)]
    lungs = np.minimum((x - 0.45) ** 2, (x + 0.45) ** 2) / 0.14 + y**2 / 0.5 + z**2 / 0.85

    def draw(texture: NDArray[Any], edge: NDArray[Any]) -> NDArray[Any]:
        inside = lungs + 0.03 * edge < 1
        return np.where(inside, 1 + (texture > 1.3) + 2 * (texture < -1.2), 0).astype(np.uint8)

    def noise(sigma: float) -> NDArray[Any]:
        field = ndimage.gaussian_filter(generator.standard_normal(shape, dtype=np.float32), sigma)
        return field / field.std()

    texture = noise(6)
    prediction = draw(texture + 0.25 * noise(3), noise(4))
    classes = {"normal": (1,), "EF": (2,), "GGO": (3,), "EF+GGO": (2, 3), "lung": (1, 2, 3)}
    return prediction, draw(texture, noise(4)), (1.25, 0.8, 0.8), classes


def with_siccs(pair: Pair, workers: int) -> Figures:
    """NSD at 2 and 5 mm, HD95 of each class by siccs_net."""
    from siccs_net.evaluation.surface import surface_metrics

    found = surface_metrics(*pair, workers=workers)
    return {name: (one.nsd["2"] or 0.0, one.nsd["5"] or 0.0, one.hd95_mm or 0.0) for name, one in found.items()}


def _one_by_one(pair: Pair, measure: Callable[..., tuple[float, float, float]]) -> Figures:
    import torch

    prediction, reference, spacing, classes = pair
    return {
        name: measure(*(torch.from_numpy(np.isin(m, values)) for m in (prediction, reference)), spacing)
        for name, values in classes.items()
    }


def with_monai(pair: Pair, workers: int) -> Figures:
    """The same by MONAI's three public calls."""
    from monai.metrics import compute_hausdorff_distance, compute_surface_dice

    def measure(prediction: Any, reference: Any, spacing: Sequence[float]) -> tuple[float, float, float]:
        given: Mapping[str, Any] = {"include_background": True, "spacing": spacing}
        two, five = (compute_surface_dice(prediction[None, None], reference[None, None], [t], **given) for t in (2, 5))
        hd95 = compute_hausdorff_distance(prediction[None, None], reference[None, None], percentile=95, **given)
        return float(two), float(five), float(hd95)

    return _one_by_one(pair, measure)


def with_monai_once(pair: Pair, workers: int) -> Figures:
    """The same from MONAI's distances, computed once a class."""
    import torch
    from monai.metrics.utils import get_edge_surface_distance

    def measure(prediction: Any, reference: Any, spacing: Sequence[float]) -> tuple[float, float, float]:
        _, both, _ = get_edge_surface_distance(prediction, reference, spacing=spacing, symmetric=True)
        together = torch.cat(both)
        two, five = (float((together <= tolerance).float().mean()) for tolerance in (2, 5))
        return two, five, float(max(torch.quantile(directed, 0.95) for directed in both))

    return _one_by_one(pair, measure)


def with_monai_in_float64(pair: Pair, workers: int) -> Figures:
    """The same from MONAI's edges and distances without its rounding, which is of three kinds.

    It computes distances in float64, returns them as float32, takes `torch.quantile` of those in float32 (whose rank
    is float32 too), and stores results as float32. Here distances stay as computed and the quantile is float64's;
    tolerances are compared in float32, as MONAI compares them, and NSD is a share of whole numbers.
    """
    from unittest import mock

    import torch
    from monai.metrics import utils

    def kept(distances: NDArray[Any], like: Any, dtype: Any) -> tuple[Any, Any, Any]:
        return torch.from_numpy(np.asarray(distances, np.float64)), None, None

    def measure(prediction: Any, reference: Any, spacing: Sequence[float]) -> tuple[float, float, float]:
        with mock.patch.object(utils, "convert_to_dst_type", kept):
            _, both, _ = utils.get_edge_surface_distance(prediction, reference, spacing=spacing, symmetric=True)
        together = torch.cat(both)
        if together.dtype != torch.float64:
            raise RuntimeError("this MONAI rounds its distances elsewhere")
        two, five = (float((together.float() <= tolerance).double().mean()) for tolerance in (2, 5))
        return two, five, float(max(torch.quantile(directed, 0.95) for directed in both))

    return _one_by_one(pair, measure)


def largest_difference(found: Figures, expected: Figures) -> float:
    """Return the largest difference of any figure of any class."""
    return max(float(np.abs(np.subtract(found[name], expected[name])).max()) for name in expected)


PAIRS = {"cip_ct64 lung, 64x64x79": real_pair, "synthetic, 5 classes, 160x320x400": synthetic_pair}
WAYS = {
    "MONAI, public calls": (with_monai, 1),
    "MONAI, distances once": (with_monai_once, 1),
    "siccs_net, 1 thread": (with_siccs, 1),
    "siccs_net, 2 threads": (with_siccs, 2),
}


def _status_mib(key: str) -> float:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) / 1024


def _run(pair_name: str, way: str, answer: Connection) -> None:
    measure, workers = WAYS[way]
    measure(real_pair(), workers)  # imports and warms up
    pair = PAIRS[pair_name]()
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak (VmHWM)
    before, seconds = _status_mib("VmRSS"), []
    figures, peak = {}, 0.0
    for number in range(RUNS):
        start = time.perf_counter()
        figures = measure(pair, workers)
        seconds.append(time.perf_counter() - start)
        peak = peak if number else _status_mib("VmHWM") - before
    answer.send((statistics.median(seconds), peak, figures))


def _in_fresh_process(pair_name: str, way: str) -> tuple[float, float, Figures]:
    spawn = multiprocessing.get_context("spawn")
    receive, send = spawn.Pipe(duplex=False)
    process = spawn.Process(target=_run, args=(pair_name, way, send))
    process.start()
    send.close()
    result: tuple[float, float, Figures] = receive.recv()
    process.join()
    return result


def main() -> int:
    """Print the table; exit code 1 when the figures differ."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    worst = 0.0
    for pair_name in PAIRS:
        print(f"\n{pair_name}\n  {'':24}{'seconds':>10}{'peak MiB':>10}{'largest difference to MONAI':>30}")
        expected: Figures = {}
        for way in WAYS:
            seconds, peak, figures = _in_fresh_process(pair_name, way)
            expected = expected or figures
            difference = largest_difference(figures, expected)
            worst = max(worst, difference)
            print(f"  {way:24}{seconds:10.3f}{peak:10.0f}{difference:30.1e}", flush=True)
    return int(worst > 1e-5)


if __name__ == "__main__":
    sys.exit(main())
