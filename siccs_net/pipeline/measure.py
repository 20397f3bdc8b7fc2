"""Measure: what one training iteration of a plan costs here, in seconds and memory, by taking a few."""

from __future__ import annotations

import multiprocessing
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import TYPE_CHECKING

from siccs_net.errors import EnvironmentProblem, UsageError
from siccs_net.records.dataset import LabelScheme
from siccs_net.records.plan import MeasuredStep, Plan

if TYPE_CHECKING:
    from siccs_net.trainers.base import Trainer

# The first step allocates the optimizer's state and lets kernels be chosen: it counts for memory, not for time.
STEPS = 3


def measure_plan(
    plan: Plan,
    labels: LabelScheme,
    configurations: Sequence[str] = (),
    *,
    device: str = "auto",
    prepare: Callable[[], None] | None = None,
) -> Plan:
    """Return the plan with the cost of an iteration of each configuration (default: all), measured on `device`.

    Each is measured by the plan's trainer on random images in a process of its own, which calls `prepare` first.
    Raises EnvironmentProblem when the memory does not suffice.
    """
    chosen = list(configurations) or list(plan.configurations)
    measured = {name: _in_own_process(plan, labels, name, device, prepare) for name in chosen}
    return plan.model_copy(update={"measured": {**plan.measured, **measured}})


def _in_own_process(
    plan: Plan, labels: LabelScheme, name: str, device: str, prepare: Callable[[], None] | None
) -> MeasuredStep:
    """A process that was not used before has no earlier peak, and one that is killed for memory takes nobody along."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn, initializer=prepare) as pool:
        try:
            return pool.submit(_measure, plan.to_json(), labels, name, device).result()
        except (BrokenProcessPool, MemoryError) as error:
            raise EnvironmentProblem(
                f"one iteration of {name} does not fit the memory of this machine",
                hint="Try --set training.checkpointing=true, a smaller patch_size or batch_size=1",
            ) from error


def _measure(plan_json: str, labels: LabelScheme, name: str, device: str) -> MeasuredStep:
    import torch

    trainer = _trainer(Plan.from_json(plan_json), labels, name, device)
    before, seconds, started = _resident_bytes("VmRSS"), [], time.monotonic()
    for _ in trainer.rehearse(STEPS):
        seconds.append(time.monotonic() - started)
        started = time.monotonic()
    on_gpu = trainer.task.device.type == "cuda"
    peak = torch.cuda.max_memory_allocated(trainer.task.device) if on_gpu else _resident_bytes("VmHWM") - before
    return MeasuredStep(
        device=torch.cuda.get_device_name(trainer.task.device) if on_gpu else trainer.task.device.type,
        precision=trainer.numerics.precision,
        threads=trainer.numerics.threads,
        batch_size=trainer.config.batch_size or 1,
        checkpointing=trainer.config.checkpointing,
        gradient_accumulation=trainer.config.gradient_accumulation,
        seconds=statistics.median(seconds[1:]),
        peak_bytes=peak,
    )


def _trainer(plan: Plan, labels: LabelScheme, name: str, device: str) -> Trainer:
    """Return the plan's trainer with a task without data."""
    from siccs_net.io.store import PreparedStore
    from siccs_net.networks.numerics import choose_device
    from siccs_net.records.statistics import Normalisation
    from siccs_net.trainers.base import find_trainer
    from siccs_net.trainers.config import resolve_config
    from siccs_net.trainers.task import TrainTask
    from siccs_net.workspace import RunFolder

    kind, configuration = find_trainer(plan.trainer), plan.configurations[name]
    nowhere = Path("measured")
    task = TrainTask(
        plan=plan,
        configuration_name=name,
        configuration=configuration,
        config=resolve_config(kind.config_class, kind.defaults, plan, {}),
        fold="0",
        training_cases=(),
        validation_cases=(),
        store=PreparedStore(nowhere, configuration.dimension),
        labels=labels,
        normalisation=Normalisation(channels=()),
        device=choose_device(device),
        run=RunFolder(nowhere),
        show_progress=False,
    )
    return kind(task)


def _resident_bytes(field: str) -> int:
    """Return this process's resident memory (VmRSS) or its peak (VmHWM)."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError as error:
        raise UsageError("memory can be measured on Linux only", hint="Leave out --measure") from error
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))
