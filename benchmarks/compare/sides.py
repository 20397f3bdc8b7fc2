"""One side of a stage in a process of its own: prepare, then run when told, and say seconds or peak memory.

Our side is set up as every command of ours sets itself up (`siccs_net.cli.process`): freed memory is kept, and threads
wait asleep. The peer runs as it is, with the default allocator.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import multiprocessing
import os
import pickle
import statistics
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchmarks.compare.harness import Stage

SIDES = ("ours", "peer")
RESET_PEAK = "5"
SAMPLE_S = 0.02
FILLED_S, MOST_RUNS = 1.0, 11
_OUR_ENVIRONMENT = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "10000"}
_SPAWN = multiprocessing.get_context("spawn")


class Failure(str):
    """What a process says of the error that ended it."""

    __slots__ = ()


class SideProcess:
    """A fresh process that has prepared one side of a stage. Raises RuntimeError with the process's own error."""

    def __init__(self, stage: Stage, side: str, folder: Path) -> None:
        self._pipe, child = _SPAWN.Pipe()
        # Pickled here, so that the child imports the stage after its environment is set.
        self._process = _SPAWN.Process(target=_serve, args=(pickle.dumps(stage), side, folder, child))
        with _environment(_OUR_ENVIRONMENT if side == "ours" else {}):
            self._process.start()
        child.close()
        self._answer()

    def __enter__(self) -> SideProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):
            self._pipe.send(None)
        self._process.join(10)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self._pipe.close()

    def seconds(self) -> float:
        """Run once; return the seconds."""
        self._pipe.send(("seconds", None))
        return float(self._answer())

    def memory(self, result: Path) -> float:
        """Run once; return the peak above the start in MiB, with processes that it starts; pickle what it returns."""
        self._pipe.send(("memory", result))
        below = 0.0
        while not self._pipe.poll(SAMPLE_S):
            below = max(below, sum(map(_pss_mib, descendants(self._process.pid or 0))))
        return float(self._answer()) + below

    def _answer(self) -> Any:
        try:
            found = self._pipe.recv()
        except EOFError as error:
            self._process.join()
            raise RuntimeError(f"the process ended (exit code {self._process.exitcode}) without a result") from error
        if isinstance(found, Failure):
            raise RuntimeError(str(found))
        return found


def run_apart(function: Callable[[Path], None], folder: Path) -> None:
    """Call a function in a process of its own. Raises RuntimeError with the process's own error."""
    receive, send = _SPAWN.Pipe(duplex=False)
    process = _SPAWN.Process(target=_call, args=(function, folder, send))
    process.start()
    send.close()
    try:
        failure = receive.recv()
    except EOFError as error:
        raise RuntimeError("the process that prepares what both sides read ended without an answer") from error
    process.join()
    if failure is not None:
        raise RuntimeError(str(failure))


def status_mib(key: str) -> float:
    """Return a figure of this process from Linux's /proc/self/status, such as VmRSS or VmHWM, in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{key}:"))


def descendants(pid: int) -> list[int]:
    """Return the processes that a process started, and those that they started."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parent = int(path.read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(path.parent.name))
    found, waiting = [], [pid]
    while waiting:
        below = children.get(waiting.pop(), [])
        found += below
        waiting += below
    return found


def _pss_mib(pid: int) -> float:
    """Return a process's memory, what it shares divided by how many share it; 0 when it has just ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("Pss:")), 0.0)


@contextlib.contextmanager
def _environment(added: dict[str, str]) -> Iterator[None]:
    """Add variables for the processes that start meanwhile."""
    before = {name: os.environ.get(name) for name in added}
    os.environ.update(added)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _call(function: Callable[[Path], None], folder: Path, answer: Connection) -> None:
    try:
        function(folder)
        answer.send(None)
    except Exception as error:  # noqa: BLE001 (the parent raises it)
        answer.send(_failure(error))


def _serve(pickled: bytes, side: str, folder: Path, pipe: Connection) -> None:
    """In the process: prepare, then run as often as told."""
    try:
        if side == "ours":
            from siccs_net.cli.process import keep_heap

            keep_heap()
        # As in a command: a spawned process would have its loaders' workers spawned too.
        multiprocessing.set_start_method("fork", force=True)
        run = pickle.loads(pickled).prepare(side, folder)
        pipe.send("ready")
        while (task := pipe.recv()) is not None:
            kind, result = task
            pipe.send(_seconds(run) if kind == "seconds" else _peak(run, result))
    except EOFError:
        return  # the parent has gone
    except Exception as error:  # noqa: BLE001 (the parent raises it)
        pipe.send(_failure(error))


def _failure(error: Exception) -> Failure:
    return Failure(f"{type(error).__name__}: {error}")


def _seconds(run: Callable[[], Any]) -> float:
    """Return the seconds of one run; the median of several where one is short.

    While the other side has its turn, caches and the processor's clock forget this one: a run of a tenth of a second
    would time their waking up.
    """
    runs: list[float] = []
    while sum(runs) < FILLED_S and len(runs) < MOST_RUNS:
        started = time.perf_counter()
        run()
        runs.append(time.perf_counter() - started)
    return statistics.median(runs)


def _peak(run: Callable[[], Any], result: Path) -> float:
    _release_heap()
    Path("/proc/self/clear_refs").write_text(RESET_PEAK)
    before = status_mib("VmRSS")
    returned = run()
    peak = status_mib("VmHWM") - before
    result.write_bytes(pickle.dumps(returned))
    return max(peak, 0.0)


def _release_heap() -> None:
    """Give back what preparing has freed: kept by the allocator, it would hide what the run takes."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
