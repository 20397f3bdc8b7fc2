"""Training states: written after every epoch (and on a signal), the last two kept, restored bit by bit."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from siccs_net.errors import ModelError, RecordError, TrainingError, UsageError
from siccs_net.io import files
from siccs_net.io.checkpoint import read_tensors, write_tensors
from siccs_net.preprocessing.preprocess import recipe_sha256
from siccs_net.records.checkpoint import Numerics, StateRecord
from siccs_net.records.plan import Configuration
from siccs_net.trainers.config import TrainerConfig
from siccs_net.trainers.task import TrainTask
from siccs_net.workspace import RunFolder

KEPT_STATES = 2
AVERAGE = "average."
logger = logging.getLogger(__name__)


@dataclass
class Progress:
    """Where a training stands: finished epochs, iterations done of the next one, and its sums so far."""

    epoch: int = 0
    iteration: int = 0
    running: dict[str, float | torch.Tensor] = field(default_factory=dict)
    log_bytes: int = 0

    def add(self, values: Mapping[str, torch.Tensor]) -> None:
        """Count one more iteration and add its scalars to the sums (kept on their device until they are read)."""
        self.iteration += 1
        for name, value in values.items():
            if value.numel() == 1:
                self.running[name] = self.running.get(name, 0.0) + value

    def mean(self, name: str) -> float:
        """Return the mean of a scalar over the iterations of this epoch so far."""
        return float(self.running[name]) / max(self.iteration, 1)


def training_sha256(task: TrainTask, config: TrainerConfig, configuration: Configuration, trainer: str) -> str:
    """Return the hash of what must not change on resume.

    That is the trainer, its settings (but `workers`), the plan's configuration, the labels, the cases on both sides,
    the normalisation made of them and the previous stage's weights.
    """
    parts = (
        trainer,
        config.model_copy(update={"workers": None}).to_json(),
        configuration.model_copy(update={"memory": None}).to_json(),
        recipe_sha256(configuration, task.labels),
        json.dumps([task.fold, task.training_cases, task.validation_cases]),
        task.normalisation.to_json(),
        *([json.dumps([task.labels.regions, task.labels.regions_class_order])] if task.labels.regions else []),
        *([] if task.previous is None else [task.previous.identity]),
    )
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def save_state(
    run: RunFolder,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    progress: Progress,
    numerics: Numerics,
    config_hash: str,
    *,
    number: int,
    seconds: float,
    average: Mapping[str, torch.Tensor],
) -> None:
    """Write a state, tensors first and its record last, and remove all but the last two."""
    groups, scalars, tensors = split_optimizer(optimizer)
    tensors |= {f"network.{name}": value for name, value in network.state_dict().items()}
    tensors |= {f"{AVERAGE}{name}": value for name, value in average.items()}
    digest = write_tensors(run.state(number), tensors)
    record = StateRecord(
        weights_sha256=digest,
        config_sha256=config_hash,
        epoch=progress.epoch,
        iteration=progress.iteration,
        optimizer_groups=tuple(groups),
        optimizer_scalars=scalars,
        scaler=scaler.state_dict() if scaler.is_enabled() else {},
        running={name: float(value) for name, value in progress.running.items()},
        seconds=seconds,
        log_bytes=progress.log_bytes,
        numerics=numerics,
    )
    files.write_record(run.state(number).with_suffix(".json"), record)
    for old in run.states()[KEPT_STATES:]:
        _remove_state(old)


def _remove_state(path: Path) -> None:
    path.with_suffix(".json").unlink(missing_ok=True)
    path.unlink(missing_ok=True)


def read_newest_state(run: RunFolder) -> tuple[StateRecord, dict[str, torch.Tensor]] | None:
    """Return the newest whole state, saying so when a newer one is damaged; None when there is none.

    Tensors without a record are what a killed run was writing, and are passed over. Raises ModelError when states
    are there but none is whole.
    """
    damaged = []
    for path in run.states():
        record_path = path.with_suffix(".json")
        if not record_path.is_file():
            continue
        try:
            record = files.read_record(record_path, StateRecord)
            return record, read_tensors(path, record.weights_sha256)
        except (ModelError, RecordError) as error:
            logger.warning("a training state is damaged, trying the one before it: %s", error)
            damaged.append(path.name)
    if damaged:
        raise ModelError(
            "no training state can be read", path=run.root, found=", ".join(damaged), hint="--overwrite starts anew"
        )
    return None


def restore(
    record: StateRecord,
    tensors: dict[str, torch.Tensor],
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
) -> Progress:
    """Put a state back into network, optimizer and scaler; return where it stood."""
    try:
        network.load_state_dict(with_prefix(tensors, "network."))
        optimizer.load_state_dict(_computed_as(optimizer, join_optimizer(record, tensors)))
    except (RuntimeError, ValueError, KeyError) as error:
        raise TrainingError(
            "the saved state does not fit this trainer's network or optimizer",
            found=str(error).splitlines()[0],
            hint="Resume with the trainer that began, or start anew with --overwrite",
        ) from error
    if record.scaler:
        scaler.load_state_dict(record.scaler)
    return Progress(record.epoch, record.iteration, dict(record.running), record.log_bytes)


def _computed_as(optimizer: torch.optim.Optimizer, saved: dict[str, Any]) -> dict[str, Any]:
    """Return a saved state for an optimizer as it is now: fused or not is how it computes, not what it has learnt."""
    for group, own in zip(saved["param_groups"], optimizer.param_groups, strict=False):
        if "fused" in own:
            group["fused"] = own["fused"]
    return saved


def with_prefix(tensors: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """Return the tensors whose names begin so, without that beginning."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def split_optimizer(
    optimizer: torch.optim.Optimizer,
) -> tuple[list[dict[str, Any]], dict[str, Any], dict[str, torch.Tensor]]:
    """Return an optimizer's state as JSON-able groups and scalars, and tensors named optimizer.INDEX.KEY."""
    state = optimizer.state_dict()
    tensors, scalars = {}, {}
    for index, entries in state["state"].items():
        for key, value in entries.items():
            name = f"optimizer.{index}.{key}"
            if isinstance(value, torch.Tensor):
                tensors[name] = value
            else:
                scalars[name] = value
    return state["param_groups"], scalars, tensors


def join_optimizer(record: StateRecord, tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
    """Return the optimizer's state_dict again."""
    state: dict[int, dict[str, Any]] = {}
    for name, value in {**record.optimizer_scalars, **tensors}.items():
        kind, _, rest = name.partition(".")
        if kind == "optimizer":
            index, _, key = rest.partition(".")
            state.setdefault(int(index), {})[key] = value
    return {"state": state, "param_groups": [dict(group) for group in record.optimizer_groups]}


def is_started(run: RunFolder) -> bool:
    """Say whether a training has begun in a folder."""
    return any(path.is_file() for path in (run.weights, run.log, *run.states()))


def check_may_start(run: RunFolder, *, resume: bool) -> None:
    """Raise UsageError when a run is there that is neither to be resumed nor to be overwritten (contracts 14)."""
    if is_started(run) and not resume:
        raise UsageError(
            "a run is already there", path=run.root, hint="--resume goes on with it, --overwrite starts it anew"
        )


def begin(run: RunFolder, *, resume: bool) -> tuple[StateRecord, dict[str, torch.Tensor]] | None:
    """Decide how a run starts: None for anew, else the state to go on from (contracts 14).

    Removes what a killed run left half-written, and a STOP file of an earlier run. Raises UsageError when a run is
    there and `resume` is off, or weights are there without a readable state.
    """
    check_may_start(run, resume=resume)
    for leftover in (*run.root.glob(".*.tmp"), run.stop):
        leftover.unlink(missing_ok=True)
    if not resume:
        return None
    found = read_newest_state(run)
    if found is None and run.weights.is_file():
        raise UsageError("has weights but no state to resume from", path=run.root, hint="--overwrite starts anew")
    if found is None:
        logger.info("no training state in %s: starting at epoch 0", run.root)
    return found


def check_same_training(record: StateRecord, training_hash: str, task: TrainTask) -> None:
    """Raise UsageError when settings, plan, cases, prepared data or device are not those the run began with."""
    if record.config_sha256 != training_hash:
        raise UsageError(
            "the run began with other settings, another plan, other folds or other prepared data",
            path=task.run.root,
            hint="Give the same as then, or start anew with --overwrite",
        )
    if record.numerics.device != task.device.type:
        raise UsageError(
            "the run began on another device",
            path=task.run.root,
            found=task.device.type,
            expected=record.numerics.device,
            hint="Resume there, or start anew with --overwrite",
        )
