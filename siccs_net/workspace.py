"""Where things live on disk: the only file that builds paths.

A workspace has three folders, `raw`, `preprocessed` and `results`, laid out as nnU-Net's users know them.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from siccs_net.errors import MissingPathError, UsageError

DEFAULT_FOLDER = "siccs_workspace"


@dataclass(frozen=True)
class Workspace:
    """The three roots. `raw` lists every folder in which datasets are looked for, first match wins."""

    raw: tuple[Path, ...]
    preprocessed: Path
    results: Path
    origin: str

    @classmethod
    def resolve(cls, folder: Path | str | None = None) -> Workspace:
        """Return the workspace: `folder`, else $SICCS_WORKSPACE, else ./siccs_workspace.

        Raw datasets are looked for in its `raw` folder and then in $nnUNet_raw, which is never written.
        """
        if folder is not None:
            root, origin = Path(folder), "--workspace"
        elif value := os.environ.get("SICCS_WORKSPACE"):
            root, origin = Path(value), "SICCS_WORKSPACE"
        else:
            root, origin = Path(DEFAULT_FOLDER), "the default"
        shared = os.environ.get("nnUNet_raw")  # noqa: SIM112 (nnU-Net spells it so)
        raw = (root / "raw", Path(shared)) if shared else (root / "raw",)
        return cls(raw, root / "preprocessed", root / "results", origin)

    def describe(self) -> str:
        """Say in one line which folders are used and why."""
        raw = " then ".join(str(folder) for folder in self.raw)
        return f"workspace ({self.origin}): raw {raw}, preprocessed {self.preprocessed}, results {self.results}"

    def find_dataset(self, dataset: str | int | Path) -> Path:
        """Return the folder of a raw dataset given by path, name (Dataset501_Name) or number.

        Raises MissingPathError that lists what was looked for and the nearest name.
        """
        as_path = Path(str(dataset))
        if (as_path / "dataset.json").is_file():
            return as_path.resolve()
        names = {folder.name: folder for root in reversed(self.raw) for folder in _datasets(root)}
        matching = _matching(str(dataset), list(names))
        if len(matching) > 1:
            raise UsageError(f"{dataset!r} names more than one dataset", found=", ".join(matching))
        if matching:
            return names[matching[0]]
        raise _no_dataset(str(dataset), sorted(names), [str(root) for root in self.raw])

    def dataset_name(self, dataset: str | int | Path) -> str:
        """Return the name of a dataset that was preprocessed, or that exists as raw data."""
        prepared = _matching(str(dataset), [folder.name for folder in _datasets(self.preprocessed, "fingerprint.json")])
        return prepared[0] if len(prepared) == 1 else self.find_dataset(dataset).name

    def prepared_dataset(self, name: str) -> DatasetFolder:
        """Return the paths of a dataset's fingerprint, splits, plans and prepared cases."""
        return DatasetFolder(self.preprocessed / name)

    def model_folder(self, dataset_name: str, trainer: str, plan: str, configuration: str) -> ModelFolder:
        """Return the paths of the models that one trainer makes from one configuration of one plan."""
        return ModelFolder(self.results / dataset_name / f"{trainer}__{plan}__{configuration}")

    def model_folders(self, dataset_name: str) -> list[ModelFolder]:
        """Return every model folder of a dataset, by name."""
        return [ModelFolder(path.parent) for path in sorted((self.results / dataset_name).glob("*/model.json"))]

    def comparison(self, dataset_name: str) -> ComparisonFolder:
        """Return the paths of what a comparison of a dataset's models leaves."""
        return ComparisonFolder(self.results / dataset_name)


@dataclass(frozen=True)
class DatasetFolder:
    """preprocessed/DatasetX."""

    root: Path

    @property
    def fingerprint(self) -> Path:
        return self.root / "fingerprint.json"

    @property
    def description(self) -> Path:
        return self.root / "dataset.json"

    @property
    def splits(self) -> Path:
        return self.root / "splits_final.json"

    @property
    def plans(self) -> Path:
        return self.root / "plans"

    def plan(self, name: str) -> Path:
        return self.plans / f"{name}.json"

    def prepared(self, plan: str, configuration: str) -> Path:
        return self.root / f"{plan}_{configuration}"

    def stage(self, plan: str, configuration: str, identity: str) -> Path:
        """Where the previous stage's segmentations for a second stage lie, by the hash of its weights."""
        return self.root / f"{plan}_{configuration}_previous_{identity[:16]}"


@dataclass(frozen=True)
class ModelFolder:
    """results/DatasetX/TRAINER__PLAN__CONFIG: what `-m` takes."""

    root: Path

    @property
    def model(self) -> Path:
        return self.root / "model.json"

    @property
    def plan(self) -> Path:
        return self.root / "plan.json"

    @property
    def description(self) -> Path:
        return self.root / "dataset.json"

    @property
    def summary(self) -> Path:
        return self.root / "crossval_summary.json"

    @property
    def postprocessing(self) -> Path:
        return self.root / "postprocessing.json"

    def fold(self, fold: int | str) -> RunFolder:
        return RunFolder(self.root / f"fold_{fold}")

    def folds(self) -> list[str]:
        """Return the names of the folds that have final weights, numbers first."""
        names = [path.parent.name.removeprefix("fold_") for path in self.root.glob("fold_*/final.safetensors")]
        return sorted(names, key=lambda name: (not name.isdigit(), int(name) if name.isdigit() else 0, name))


@dataclass(frozen=True)
class ComparisonFolder:
    """results/DatasetX: the instructions, and a folder for every ensemble of models that was tried."""

    root: Path

    @property
    def instructions(self) -> Path:
        return self.root / "inference_instructions.json"

    def ensemble(self, models: Sequence[str]) -> EnsembleFolder:
        return EnsembleFolder(self.root / "ensembles" / "___".join(models))


@dataclass(frozen=True)
class EnsembleFolder:
    """An ensemble's masks of the out-of-fold cases, their summary and its post-processing."""

    root: Path

    @property
    def validation(self) -> Path:
        return self.root / "validation"

    @property
    def postprocessing(self) -> Path:
        return self.root / "postprocessing.json"


@dataclass(frozen=True)
class RunFolder:
    """One fold's run."""

    root: Path

    @property
    def weights(self) -> Path:
        return self.root / "final.safetensors"

    @property
    def record(self) -> Path:
        return self.root / "final.json"

    @property
    def log(self) -> Path:
        return self.root / "log.jsonl"

    @property
    def progress(self) -> Path:
        return self.root / "progress.png"

    @property
    def validation(self) -> Path:
        return self.root / "validation"

    @property
    def stamp(self) -> Path:
        """Holds the SHA-256 of the weights whose masks are in `validation`."""
        return self.validation / ".weights"

    @property
    def stop(self) -> Path:
        return self.root / "STOP"

    @property
    def pretrained(self) -> Path:
        return self.root / "pretrained.json"

    def state(self, number: int) -> Path:
        return self.root / f"state-{number:09d}.safetensors"

    def states(self) -> list[Path]:
        """Return the training states on disk, newest first."""
        return sorted(self.root.glob("state-*.safetensors"), reverse=True)


def _datasets(root: Path, marker: str = "dataset.json") -> list[Path]:
    return sorted(path.parent for path in root.glob(f"*/{marker}")) if root.is_dir() else []


def _matching(dataset: str, names: list[str]) -> list[str]:
    wanted = Path(dataset).name
    exact = [name for name in names if name == wanted]
    if exact or not re.fullmatch(r"(Dataset_?)?\d+", dataset):
        return exact
    number = int(re.sub(r"\D", "", dataset))
    return [name for name in names if (match := re.match(r"Dataset(\d+)(_|$)", name)) and int(match[1]) == number]


def _no_dataset(dataset: str, names: list[str], roots: list[str]) -> MissingPathError:
    near = difflib.get_close_matches(dataset, names, n=1, cutoff=0.4)
    hint = f"Did you mean {near[0]}?" if near else "Give a dataset's number, name or folder (the one with dataset.json)"
    found = ", ".join(names) if names else "no dataset there"
    return MissingPathError(f"no dataset {dataset!r} in {' or '.join(roots)}", found=found, hint=hint)
