"""The scan that stages work on, and what is drawn from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"
SCAN = SHARED / "ct3d" / "ricord1a_001012_fullres_0000.nii.gz"
DATASET501 = SHARED / "Dataset501_CovidSlices2D"


def full_ct() -> tuple[NDArray[Any], tuple[float, float, float]]:
    """Return the full chest CT [z, y, x] and its spacing in mm."""
    scan = nib.load(SCAN)
    z, y, x = (float(zoom) for zoom in scan.header.get_zooms()[::-1])
    return np.ascontiguousarray(np.asanyarray(scan.dataobj).T), (z, y, x)


def voxels_that_differ(ours: NDArray[Any], peer: NDArray[Any]) -> str:
    """Say on which share of the voxels two label maps agree."""
    equal = np.count_nonzero(ours == peer)
    return f"{100 * equal / ours.size:.4f} % of voxels equal ({ours.size - equal} differ)"


def largest_difference(unit: str, digits: str = ".1e") -> Any:
    """Return a function that says how far two arrays differ at most."""

    def say(ours: NDArray[Any], peer: NDArray[Any]) -> str:
        return f"max difference {np.abs(np.asarray(ours, np.float64) - peer).max():{digits}} {unit}"

    return say
