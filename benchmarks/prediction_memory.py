"""Does prediction need more memory for more slices? python -m benchmarks.prediction_memory [--slices 1 4]

Predicts the full CT of ../shared/data, and the same with its slices repeated (every second copy upside down, so that
nothing jumps), from file to mask as siccs_predict does, with the network of the stage `predict` of benchmarks.compare;
each in a fresh process. Prints the peak above the start in MiB, what input, mask and one prepared copy (2 bytes a
voxel) take of it, and the rest, which is to stay the same: a slab of logits, and the tiles in work.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from benchmarks.compare.data import ONE_MM, SCAN
from benchmarks.compare.harness import Run, Stage
from benchmarks.compare.prediction import masks_agree, our_model
from benchmarks.compare.sides import SideProcess, run_apart
from benchmarks.compare.weights import share_weights
from siccs_net.preprocessing.resample import resampled_shape

MIB = 2**20
LIMIT_MIB = 64.0
"""How far the rest may differ: the allocator's granularity."""


@dataclass(frozen=True)
class Prediction:
    """Our side of a stage that predicts one file."""

    scan: Path

    def __call__(self, folder: Path) -> Run:
        from siccs_net.pipeline.predict import predict_scans
        from siccs_net.pipeline.scans import Scan

        model = our_model(folder)

        def run() -> None:
            (outcome,) = predict_scans(model, [Scan("scan", (self.scan,))], folder / "masks", overwrite=True)
            if outcome.error is not None:
                raise outcome.error

        return run


def main() -> int:
    """Print the table; exit code 1 when the rest grows with the slices."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slices", type=int, nargs="+", default=[1, 4], metavar="N", help="how many times (1 4)")
    args = parser.parse_args()
    print(f"{'scan':<22}{'peak':>10}{'input':>10}{'mask':>10}{'prepared':>10}{'rest MiB':>10}")
    rests = []
    with tempfile.TemporaryDirectory(prefix="siccs_memory_") as name:
        folder = Path(name)
        run_apart(share_weights, folder)
        for times in args.slices:
            scan = folder / f"repeated_{times}.nii.gz"
            input_mib, mask_mib, prepared_mib, shape = write_repeated(scan, times)
            peak = peak_mib(scan, folder)
            rests.append(peak - input_mib - mask_mib - prepared_mib)
            print(
                f"{'×'.join(map(str, shape)):<22}{peak:10.0f}{input_mib:10.0f}{mask_mib:10.0f}{prepared_mib:10.0f}"
                f"{rests[-1]:10.0f}",
                flush=True,
            )
    return 0 if max(rests) - min(rests) <= LIMIT_MIB else 1


def write_repeated(path: Path, times: int) -> tuple[float, float, float, tuple[int, ...]]:
    """Write the scan with its slices repeated; return MiB of input, mask and prepared copy, and its shape [z, y, x]."""
    scan = nib.load(SCAN)
    array = repeat_slices(np.asanyarray(scan.dataobj), times)
    nib.save(nib.Nifti1Image(array, scan.affine), path)
    spacing = [float(zoom) for zoom in scan.header.get_zooms()[::-1]]
    shape = array.shape[::-1]
    prepared = math.prod(resampled_shape(shape, spacing, ONE_MM))
    return array.nbytes / MIB, array.size / MIB, 2 * prepared / MIB, shape


def repeat_slices(array: NDArray[Any], times: int) -> NDArray[Any]:
    """Repeat an array along its last axis, every second copy reversed."""
    return np.concatenate([array[..., :: -1 if number % 2 else 1] for number in range(times)], axis=-1)


def peak_mib(scan: Path, folder: Path) -> float:
    """Return the peak above the start of predicting one file, in a fresh process."""
    predict = Prediction(scan)
    stage = Stage("prediction memory", "none", predict, predict, masks_agree)
    with SideProcess(stage, "ours", folder) as process:
        return process.memory(folder / "nothing.pickle")


if __name__ == "__main__":
    sys.exit(main())
