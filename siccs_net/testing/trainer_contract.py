"""The contract that a trainer must meet, as a function that any author can run in under a minute."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from siccs_net.errors import SiccsError, TrainerContractError
from siccs_net.inference.load_model import NetworkFactory, load_model
from siccs_net.io.dataset import Dataset, open_dataset
from siccs_net.io.image import Image
from siccs_net.pipeline.plan import plan
from siccs_net.pipeline.preprocess import preprocess
from siccs_net.pipeline.train import train
from siccs_net.records.plan import Plan
from siccs_net.testing.tiny import make_tiny_case, write_tiny_dataset
from siccs_net.trainers.base import Trainer
from siccs_net.workspace import ModelFolder, RunFolder, Workspace

CONFIGURATION = "3d_fullres"
_PLAN_SETTINGS = {"network.widths": [8, 12, 16, 24], "patch_size": [16, 32, 48], "batch_size": 2}
_SETTINGS = {"epochs": 2, "iterations_per_epoch": 3, "validation_patches": 2, "workers": 0, "deterministic": True}


@dataclass(frozen=True)
class _Bench:
    """A tiny prepared dataset, and where this check's runs go."""

    trainer: type[Trainer]
    dataset: Dataset
    plan: Plan
    root: Path
    settings: Mapping[str, Any]

    def run(self, name: str, *, resume: bool = False, **settings: Any) -> RunFolder:
        """Train fold 0 in a results folder of its own."""
        train(
            self.dataset,
            self.plan,
            CONFIGURATION,
            0,
            trainer=self.trainer,
            settings={**_SETTINGS, **self.settings, **settings},
            resume=resume,
            device="cpu",
            workspace=self._workspace(name),
        )
        return self.model(name).fold(0)

    def _workspace(self, name: str) -> Workspace:
        whole = Workspace.resolve(self.root)
        return Workspace(whole.raw, whole.preprocessed, self.root / name, "check_trainer")

    def model(self, name: str) -> ModelFolder:
        """Return the model folder of one of this bench's runs."""
        return self._workspace(name).model_folder(
            self.dataset.name, self.trainer.__name__, self.plan.name, CONFIGURATION
        )


def check_trainer(trainer: type[Trainer], *, network: str | NetworkFactory | None = None, **settings: Any) -> list[str]:
    """Train, repeat, resume and predict with a trainer on a tiny dataset; return what was checked.

    `network` is the class of the trainer's own network, if it has one; `settings` are training settings. Raises
    TrainerContractError naming the first check that fails, with what happened.
    """
    if not isinstance(trainer, type) or not issubclass(trainer, Trainer):
        raise TrainerContractError("not a trainer", found=repr(trainer), expected="a subclass of siccs_net.Trainer")
    checks: list[tuple[str, Callable[[_Bench], None]]] = [
        ("trains and writes a whole model", _trains),
        ("logs a finite loss and a Dice per class in every epoch", _logs),
        ("gives the same weights again", _repeats),
        ("resumes to the same weights", _resumes),
        ("predicts without the trainer", lambda bench: _predicts(bench, network)),
    ]
    with tempfile.TemporaryDirectory(prefix="siccs_check_") as folder:
        bench = _make_bench(trainer, Path(folder), settings)
        for name, check in checks:
            try:
                check(bench)
            except TrainerContractError:
                raise
            except Exception as error:
                detail = str(error) if isinstance(error, SiccsError) else f"{type(error).__name__}: {error}"
                raise TrainerContractError(f"{trainer.__name__} fails the check '{name}'", found=detail) from error
    return [name for name, _ in checks]


def _make_bench(trainer: type[Trainer], root: Path, settings: Mapping[str, Any]) -> _Bench:
    workspace = Workspace.resolve(root)
    dataset = open_dataset(write_tiny_dataset(workspace.raw[0] / "Dataset999_Tiny", cases=4))
    made = plan(dataset, preset="demo", settings=_PLAN_SETTINGS, folds=2, workspace=workspace)
    preprocess(dataset, made, CONFIGURATION, workspace=workspace)
    return _Bench(trainer, dataset, made, root, settings)


def _trains(bench: _Bench) -> None:
    run = bench.run("first")
    for path in (run.weights, run.record, run.log, run.progress):
        if not path.is_file():
            raise TrainerContractError(f"{bench.trainer.__name__} wrote no {path.name}")


def _logs(bench: _Bench) -> None:
    lines = [json.loads(line) for line in bench.model("first").fold(0).log.read_text().splitlines()]
    for line in lines:
        if not math.isfinite(line["loss"]):
            raise TrainerContractError(f"{bench.trainer.__name__} has a loss that is not finite", found=line["loss"])
    names = set(bench.dataset.labels.reported)
    if not lines or set(lines[-1].get("dice", {})) != names:
        raise TrainerContractError(
            f"{bench.trainer.__name__}.score must name every label and group", found=lines[-1:], expected=sorted(names)
        )


def _weights(run: RunFolder) -> bytes:
    return run.weights.read_bytes()


def _repeats(bench: _Bench) -> None:
    if _weights(bench.run("second")) != _weights(bench.model("first").fold(0)):
        raise TrainerContractError(
            f"{bench.trainer.__name__} gives other weights the second time",
            hint="Draw random numbers from torch (seeded every step) or from the sample's generator only",
        )


def _resumes(bench: _Bench) -> None:
    """End after the first epoch with a STOP file's means, take the model away, and resume."""
    run = bench.model("third").fold(0)
    bench.run("third")
    newest = run.states()[0]
    for path in (run.weights, run.record, newest, newest.with_suffix(".json")):
        path.unlink()
    bench.run("third", resume=True)
    if _weights(run) != _weights(bench.model("first").fold(0)):
        raise TrainerContractError(
            f"{bench.trainer.__name__} resumes to other weights",
            hint="What changes during training belongs into the network, the optimizer or a function of the epoch",
        )


def _predicts(bench: _Bench, network: str | NetworkFactory | None) -> None:
    model = load_model(bench.model("first").root, device="cpu", network=network)
    image, _ = make_tiny_case(99)
    segmentation = model.predict(Image.from_array(image, spacing_mm=(5.0, 4.0, 4.0)))
    if segmentation.array.shape[1:] != image.shape or int(np.max(segmentation.array)) > 3:
        raise TrainerContractError(f"{bench.trainer.__name__}'s model predicts something else than a label map")
