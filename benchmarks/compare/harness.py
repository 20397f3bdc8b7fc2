"""Measure two ways of doing a stage in turns, in a process of its own, and what came of it."""

from __future__ import annotations

import multiprocessing
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

RESET_PEAK = "5"


@dataclass(frozen=True)
class Pair:
    """Two ways of doing one thing, and how far their answers agree, in words."""

    ours: Callable[[], Any]
    peer: Callable[[], Any]
    agree: Callable[[Any, Any], str]


@dataclass(frozen=True)
class Stage:
    """A stage by name: whom it is compared with, and what prepares the two ways (in the measuring process)."""

    name: str
    peer: str
    prepare: Callable[[], Pair]
    repeats: int = 5


@dataclass(frozen=True)
class Row:
    """What was measured: medians of seconds, peak memory above the start in MiB, the ratio of the medians."""

    stage: str
    peer: str
    ours_s: float
    peer_s: float
    ratio: float
    agreement: str
    ours_mib: float
    peer_mib: float

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Measured:
    """A row, and the lowest and highest ratio of two runs that followed one another."""

    row: Row
    lowest: float
    highest: float


def measure(stage: Stage, repeats: int | None = None) -> Measured:
    """Measure a stage in a fresh process. Raises RuntimeError with the process's error."""
    spawn = multiprocessing.get_context("spawn")
    receive, send = spawn.Pipe(duplex=False)
    process = spawn.Process(target=_measure_here, args=(stage, repeats or stage.repeats, send))
    process.start()
    send.close()
    try:
        found = receive.recv()
    except EOFError as error:
        raise RuntimeError(f"stage {stage.name}: the process ended without a result") from error
    process.join()
    if isinstance(found, str):
        raise RuntimeError(f"stage {stage.name}: {found}")
    measured: Measured = found
    return measured


def _measure_here(stage: Stage, repeats: int, answer: Connection) -> None:
    try:
        answer.send(_take_turns(stage, repeats))
    except Exception as error:  # noqa: BLE001 (the parent raises it)
        answer.send(f"{type(error).__name__}: {error}")


def _take_turns(stage: Stage, repeats: int) -> Measured:
    """Both once to warm up and for the agreement, then alternately."""
    pair = stage.prepare()
    agreement = pair.agree(pair.ours(), pair.peer())
    ours, peer = [], []
    for _ in range(repeats):
        ours.append(_run(pair.ours))
        peer.append(_run(pair.peer))
    ours_s, peer_s = (statistics.median(seconds for seconds, _ in runs) for runs in (ours, peer))
    ratios = [theirs[0] / own[0] for own, theirs in zip(ours, peer, strict=True)]
    row = Row(
        stage.name,
        stage.peer,
        round(ours_s, 4),
        round(peer_s, 4),
        round(peer_s / ours_s, 2),
        agreement,
        round(max(mib for _, mib in ours), 1),
        round(max(mib for _, mib in peer), 1),
    )
    return Measured(row, min(ratios), max(ratios))


def _run(function: Callable[[], Any]) -> tuple[float, float]:
    """Return seconds, and peak memory above the start in MiB: this process's, or its children's where that is more."""
    Path("/proc/self/clear_refs").write_text(RESET_PEAK)
    before = status_mib("VmRSS")
    started = time.perf_counter()
    result = function()
    seconds = time.perf_counter() - started
    peak = status_mib("VmHWM") - before
    return seconds, max(peak, result.peak_mib if isinstance(result, ChildRun) else 0.0)


@dataclass(frozen=True)
class ChildRun:
    """What a command in a process of its own left: its peak memory and whatever the agreement needs."""

    peak_mib: float
    result: Any = None


def status_mib(key: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{key}:"))
