"""Measure two ways of doing a stage, each in processes of its own, and what came of it.

1. `share`, where a stage has it, writes what both sides read (a dataset, weights) into a folder.
2. Each side prepares and runs once in a fresh process: that gives its peak memory, and its result for the agreement.
3. Each side prepares in a second process and warms up; then the two run alternately while the other waits: seconds.

So neither side's allocator settings, caches or imports help or harm the other.
"""

from __future__ import annotations

import pickle
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.compare.agreement import Agreement
from benchmarks.compare.sides import SIDES, SideProcess, run_apart

SETTLE_S = 0.2
"""Pause before each turn, so that threads of the other side that wait actively have gone to sleep."""
Run = Callable[[], Any]


@dataclass(frozen=True)
class Stage:
    """A stage by name and whom it is compared with.

    `ours` and `theirs` prepare (read, build, import, with the folder of `share`) and return what is measured; all are
    functions of a module, because they are sent to other processes. `agree` takes both results.
    """

    name: str
    peer: str
    ours: Callable[[Path], Run]
    theirs: Callable[[Path], Run]
    agree: Callable[[Any, Any], Agreement]
    share: Callable[[Path], None] | None = None
    repeats: int = 5

    def prepare(self, side: str, folder: Path) -> Run:
        """Prepare one side; return what is measured."""
        return (self.ours if side == "ours" else self.theirs)(folder)


@dataclass(frozen=True)
class Row:
    """What was measured: medians of seconds, their ratio, peak memory above the start in MiB."""

    stage: str
    peer: str
    ours_s: float
    peer_s: float
    ratio: float
    agreement: str
    ours_mib: float
    peer_mib: float

    def as_dict(self) -> dict[str, Any]:
        """Return the row as it stands in the JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Measured:
    """A row, whether the answers agree as they must, the turns, and the lowest and highest ratio of a turn."""

    row: Row
    agrees: bool
    turns: int
    lowest: float
    highest: float


def measure(stage: Stage, repeats: int | None = None) -> Measured:
    """Measure a stage. Raises RuntimeError with the error of the process that failed."""
    turns = repeats or stage.repeats
    try:
        with tempfile.TemporaryDirectory(prefix="siccs_compare_") as name:
            folder = Path(name)
            if stage.share is not None:
                run_apart(stage.share, folder)
            mib, results = _run_once(stage, folder)
            agreement = stage.agree(results["ours"], results["peer"])
            del results
            seconds = _take_turns(stage, folder, turns)
    except RuntimeError as error:
        raise RuntimeError(f"stage {stage.name}: {error}") from error
    return _summary(stage, agreement, mib, seconds)


def _run_once(stage: Stage, folder: Path) -> tuple[dict[str, float], dict[str, Any]]:
    """Return each side's peak memory above its start in MiB, and its result, from a fresh process."""
    mib, results = {}, {}
    for side in SIDES:
        kept = folder / f"result_{side}.pickle"
        with SideProcess(stage, side, folder) as process:
            mib[side] = process.memory(kept)
        results[side] = pickle.loads(kept.read_bytes())
        kept.unlink()
    return mib, results


def _take_turns(stage: Stage, folder: Path, turns: int) -> dict[str, list[float]]:
    """Return each side's seconds, turn by turn, after one run of each to warm up."""
    with SideProcess(stage, "ours", folder) as ours, SideProcess(stage, "peer", folder) as peer:
        seconds: dict[str, list[float]] = {"ours": [], "peer": []}
        for turn in range(turns + 1):
            for side, process in (("ours", ours), ("peer", peer)):
                time.sleep(SETTLE_S)
                took = process.seconds()
                if turn:
                    seconds[side].append(took)
    return seconds


def _summary(stage: Stage, agreement: Agreement, mib: dict[str, float], seconds: dict[str, list[float]]) -> Measured:
    ours_s, peer_s = (statistics.median(seconds[side]) for side in SIDES)
    ratios = [theirs / own for own, theirs in zip(seconds["ours"], seconds["peer"], strict=True)]
    row = Row(
        stage=stage.name,
        peer=stage.peer,
        ours_s=round(ours_s, 4),
        peer_s=round(peer_s, 4),
        ratio=round(peer_s / ours_s, 2),
        agreement=agreement.text,
        ours_mib=round(mib["ours"], 1),
        peer_mib=round(mib["peer"], 1),
    )
    return Measured(row, agreement.holds, len(ratios), round(min(ratios), 2), round(max(ratios), 2))
