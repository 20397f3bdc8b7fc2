"""The datasets of the study, with one split that every side uses."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from benchmarks.compare.data import DATASET501

FOLD = "0"
EVERY = 4
"""Every fourth case is a validation case."""


@dataclass(frozen=True)
class Task:
    """A dataset, the configuration to train, the classes to score (name to label value), and which are lesions."""

    dataset: str
    configuration: str
    classes: dict[str, int]
    lesions: tuple[int, ...]

    @property
    def number(self) -> str:
        """The dataset's number."""
        return str(int(self.dataset[7:10]))


TASKS = {
    "covid2d": Task("Dataset501_CovidSlices2D", "2d", {"consolidation": 1, "ground_glass": 2}, (1, 2)),
    "phantoms3d": Task("Dataset602_LearnPhantoms", "3d_fullres", {"normal_lung": 1, "EF": 2, "GGO": 3}, (2, 3)),
}
PHANTOMS, IN_PLANE, THICKNESS_MM = 24, 96, 5.0


def make_raw(task: Task, root: Path) -> Path:
    """Return the raw dataset in a folder, made or copied once, with the split that all sides use."""
    folder = root / task.dataset
    if not (folder / "dataset.json").is_file():
        half = folder.with_name(f"half_{folder.name}")
        shutil.rmtree(half, ignore_errors=True)
        if task.dataset.startswith("Dataset501"):
            shutil.copytree(DATASET501, half)
        else:
            _write_phantoms(half)
        half.rename(folder)
    _write_splits(folder)
    return folder


def validation_cases(raw: Path) -> list[str]:
    """Return the cases that no side trains on."""
    cases: list[str] = json.loads((raw / "splits_final.json").read_text())[int(FOLD)]["val"]
    return cases


def _write_phantoms(folder: Path) -> None:
    from siccs_net.testing.phantom import make_patient, write_dataset

    made = (make_patient(index, in_plane_size=IN_PLANE, slice_thickness_mm=THICKNESS_MM) for index in range(PHANTOMS))
    write_dataset(folder, made, name="LearnPhantoms")


def _write_splits(folder: Path) -> None:
    """Two folds, because a cross-validation has two at least; the study trains the first."""
    cases = sorted(path.name.removesuffix(".nii.gz") for path in (folder / "labelsTr").glob("*.nii.gz"))
    folds = []
    for first in range(2):
        held = cases[first::EVERY]
        folds.append({"train": [case for case in cases if case not in held], "val": held})
    (folder / "splits_final.json").write_text(json.dumps(folds, indent=1))
