"""One command as several processes: what torchrun does, with one line an error and the right exit code."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any

_POLL_S = 0.1
_STOPPED = (130, 143)
_GRACE_S = {True: 60.0, False: 5.0}
"""So long the other processes have to end by themselves after one was stopped by a signal (True) or failed."""


def is_one_of_several() -> bool:
    """Say whether this process was started beside others, by torchrun or `run_processes`."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def is_first() -> bool:
    """Say whether this process is the one that writes and reports."""
    return int(os.environ.get("RANK", "0")) == 0


def run_processes(module: str, arguments: Sequence[str], count: int) -> int:
    """Run `python -m module` in `count` processes with torchrun's environment; return the first failure's exit code.

    Signals are passed on, so that each process can save and end. When one process fails the others are ended.
    """
    shared = {
        "TORCH_CPP_LOG_LEVEL": "ERROR",  # torch guesses in a warning that weights without a gradient may be a mistake
        **os.environ,
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()),
    }
    command = [sys.executable, "-m", module, *arguments]
    processes = [
        subprocess.Popen(command, env={**shared, "RANK": str(number), "LOCAL_RANK": str(number)})
        for number in range(count)
    ]
    before = {number: signal.signal(number, _pass_on(processes)) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        return _wait(processes)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _pass_on(processes: Sequence[subprocess.Popen[bytes]]) -> Callable[[int, FrameType | None], Any]:
    def pass_on(number: int, frame: FrameType | None) -> None:
        # The terminal sends Ctrl-C to the whole group itself; a second one ends a process at once.
        if number != signal.SIGINT or not sys.stdin.isatty():
            _send(processes, number)

    return pass_on


def _send(processes: Sequence[subprocess.Popen[bytes]], number: int) -> None:
    for process in processes:
        if process.poll() is None:
            process.send_signal(number)


def _wait(processes: Sequence[subprocess.Popen[bytes]]) -> int:
    """Wait for all; after a failure end those that do not end by themselves."""
    first_failure, since = 0, 0.0
    while any(process.poll() is None for process in processes):
        failed = [process.returncode for process in processes if process.poll()]
        if failed and not first_failure:
            first_failure, since = failed[0], time.monotonic()
            # One that was stopped by a signal agreed with the others to end; else they wait for it in vain.
            if first_failure not in _STOPPED:
                _send(processes, signal.SIGTERM)
        elif failed and time.monotonic() - since > _GRACE_S[first_failure in _STOPPED]:
            _send(processes, signal.SIGKILL)
        time.sleep(_POLL_S)
    codes = [process.returncode for process in processes]
    code = first_failure or next((code for code in codes if code), 0)
    return code if code >= 0 else 128 - code
