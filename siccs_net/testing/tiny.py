"""A dataset small enough for tests: bright balls in a body of soft tissue, in nnU-Net's layout."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from siccs_net.geometry import Orientation, Spacing, canonical_affine
from siccs_net.io import files
from siccs_net.io.image import write_image, write_label

LABELS = {"background": 0, "normal_lung": 1, "EF": 2, "GGO": 3}
GROUPS = {"lung": [1, 2, 3], "EF": [2], "GGO": [3], "EF+GGO": [2, 3]}


def make_tiny_case(
    seed: int, shape: tuple[int, int, int] = (16, 40, 48), spacing_mm: Spacing = (5.0, 4.0, 4.0)
) -> tuple[NDArray[np.int16], NDArray[np.uint8]]:
    """Return an image in HU and its labels [z, y, x]: an elliptic body with two lungs, EF low and GGO behind."""
    rng = np.random.default_rng(seed)
    z, y, x = (np.linspace(-1, 1, size) for size in shape)
    across, behind, up = x[None, None], y[None, :, None], z[:, None, None]
    body = (across / 0.9) ** 2 + (behind / 0.8) ** 2 + 0 * up < 1
    lung = ((np.abs(across) - 0.42) / 0.3) ** 2 + (behind / 0.6) ** 2 + (up / 0.9) ** 2 < 1
    shift = rng.uniform(-0.1, 0.1, 2)
    label = np.zeros(shape, np.uint8)
    label[lung] = 1
    label[lung & (behind + 0 * up > 0.05 + shift[0])] = 3
    label[lung & (up + 0 * behind < -0.35 + shift[1]) & (behind > 0.2)] = 2
    hu = np.where(body, 40.0, -1000.0)
    for value, level in ((1, -850.0), (2, -250.0), (3, -580.0)):
        hu[label == value] = level
    return np.rint(hu + rng.normal(0, 20, shape)).astype(np.int16), label


def write_tiny_dataset(
    folder: Path, *, cases: int = 8, shape: tuple[int, int, int] = (16, 40, 48), spacing_mm: Spacing = (5.0, 4.0, 4.0)
) -> Path:
    """Write a tiny dataset of so many cases; return its folder."""
    z, y, x = shape
    orientation = Orientation.of((x, y, z), canonical_affine(spacing_mm))
    for number in range(cases):
        image, label = make_tiny_case(number, shape, spacing_mm)
        write_image(folder / "imagesTr" / f"tiny_{number:03d}_0000.nii.gz", image, orientation)
        write_label(folder / "labelsTr" / f"tiny_{number:03d}.nii.gz", label, orientation)
    description = {
        "channel_names": {"0": "CT"},
        "labels": LABELS,
        "numTraining": cases,
        "file_ending": ".nii.gz",
        "siccs_groups": GROUPS,
    }
    files.write_bytes(folder / "dataset.json", (json.dumps(description, indent=1) + "\n").encode())
    return folder
