"""The scan that stages work on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"
SCAN = SHARED / "ct3d" / "ricord1a_001012_fullres_0000.nii.gz"
DATASET501 = SHARED / "Dataset501_CovidSlices2D"
ONE_MM = (1.0, 1.0, 1.0)


def full_ct() -> tuple[NDArray[Any], tuple[float, float, float]]:
    """Return the full chest CT [z, y, x] and its spacing in mm."""
    scan = nib.load(SCAN)
    z, y, x = (float(zoom) for zoom in scan.header.get_zooms()[::-1])
    return np.ascontiguousarray(np.asanyarray(scan.dataobj).T), (z, y, x)
