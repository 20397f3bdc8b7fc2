"""One run: a side trains on the given cores for the given minutes, and leaves masks of the validation cases."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.learn.candidates import NNUNET, Candidate
from benchmarks.learn.data import FOLD, Task

BIN = Path(sys.executable).parent


@dataclass(frozen=True)
class Place:
    """Where a study keeps its files, and the cores that a run may use."""

    root: Path
    cores: tuple[int, ...]

    @property
    def raw(self) -> Path:
        """The raw datasets, which both sides read."""
        return self.root / "raw"

    def run(self, task: Task, minutes: float, seed: int, candidate: str) -> Path:
        """The folder of one run."""
        return self.root / "runs" / task.dataset / f"{minutes:g}min_{len(self.cores)}cores" / f"seed{seed}" / candidate


@dataclass(frozen=True)
class Trained:
    """What a run left: masks and, where there are some, probabilities of the validation cases, and its figures."""

    masks: Path
    figures: dict[str, Any]


def train(place: Place, task: Task, candidate: Candidate, minutes: float, seed: int) -> Trained:
    """Train one candidate. Raises RuntimeError with the end of what a command printed when it failed."""
    folder = place.run(task, minutes, seed, candidate.name)
    folder.mkdir(parents=True, exist_ok=True)
    side = _train_peer if candidate.name == NNUNET else _train_ours
    return side(place, task, candidate, minutes, seed, folder)


def _train_ours(place: Place, task: Task, candidate: Candidate, minutes: float, seed: int, folder: Path) -> Trained:
    workspace = place.root / "siccs"
    given = {"nnUNet_raw": str(place.raw)}
    plan = f"{candidate.name}_{minutes:g}min"
    command = ["siccs_plan_and_preprocess", "-d", task.number, "-c", task.configuration, "--plan-name", plan]
    command += ["--budget", f"{minutes:g}min", "--device", "cpu"]
    _call(place, [*command, *_set(candidate.plan), "--workspace", str(workspace)], folder / "plan.log", given)
    own = folder / "workspace"
    own.mkdir(exist_ok=True)
    if not (own / "preprocessed").exists():
        (own / "preprocessed").symlink_to((workspace / "preprocessed").resolve())
    command = ["siccs_train", task.number, task.configuration, FOLD, "-p", plan, "--budget", f"{minutes:g}min"]
    command += ["--seed", str(seed), "--overwrite", "--save-probabilities", "--device", "cpu"]
    command += ["--workspace", str(own)]
    command += ["-tr", candidate.trainer] if candidate.trainer else []
    seconds = _call(place, [*command, *_set(candidate.training)], folder / "train.log", given)
    (run,) = (own / "results" / task.dataset).glob(f"*__{plan}__{task.configuration}/fold_{FOLD}")
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    final = json.loads((run / "final.json").read_text())
    iterations = sum(line["iterations"] for line in lines)
    curve = [[round(line["elapsed"] / 60, 2), round(line["loss"], 4)] for line in lines]
    trained = lines[-1]["elapsed"]
    figures = {
        "seconds": trained,
        "seconds_with_validation": seconds,
        "iterations": iterations,
        "samples": iterations * final["config"]["batch_size"],
        "precision": final["numerics"]["precision"],
        "step_s": trained / iterations,
        "patch": [*final["configuration"]["patch_size"], final["config"]["batch_size"]],
        "spacing_mm": final["configuration"]["spacing_mm"],
        "curve": curve,
    }
    return Trained(run / "validation", figures)


def _train_peer(place: Place, task: Task, candidate: Candidate, minutes: float, seed: int, folder: Path) -> Trained:
    prepared = place.root / "nnunet" / "preprocessed"
    given = {
        "nnUNet_raw": str(place.raw),
        "nnUNet_preprocessed": str(prepared),
        "nnUNet_results": str(folder / "results"),
        "nnUNet_n_proc_DA": str(len(place.cores)),
        "nnUNet_def_n_proc": str(len(place.cores)),
        "OMP_NUM_THREADS": str(len(place.cores)),
    }
    program = [sys.executable, "-m", "benchmarks.learn.peer"]
    done = prepared / task.dataset / f"{task.configuration}.done"
    if not done.is_file():
        _call(place, [*program, "prepare", task.number, task.configuration], folder / "plan.log", given)
        done.touch()
    splits = place.raw / task.dataset / "splits_final.json"
    (prepared / task.dataset / "splits_final.json").write_bytes(splits.read_bytes())
    asked = [task.dataset, task.configuration, f"{minutes:g}", str(seed), str(folder / "peer.json")]
    seconds = _call(place, [*program, "train", *asked], folder / "train.log", given)
    (run,) = (folder / "results" / task.dataset).glob(f"*__{task.configuration}/fold_{FOLD}")
    figures = json.loads((folder / "peer.json").read_text())
    return Trained(run / "validation", {**figures, "seconds_with_validation": seconds})


def _set(settings: Sequence[str]) -> list[str]:
    return ["--set", *settings] if settings else []


def _call(place: Place, command: list[str], log: Path, given: dict[str, str]) -> float:
    """Run a command on the run's cores and return its seconds."""
    if not Path(command[0]).is_absolute():
        command = [str(BIN / command[0]), *command[1:]]
    started = time.monotonic()
    with open(log, "w", encoding="utf-8") as stream:
        done = subprocess.run(
            command,
            stdout=stream,
            stderr=subprocess.STDOUT,
            env={**os.environ, **given},
            preexec_fn=_on(place.cores),
            check=False,
        )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{log.read_text(errors='replace')[-1500:]}")
    return time.monotonic() - started


def _on(cores: tuple[int, ...]) -> Callable[[], None]:
    return lambda: os.sched_setaffinity(0, cores)
