"""The one executor: threads, because the work is numpy, inflate and disk, which release the GIL.

Nothing is pickled, no child can die silently, and the first exception arrives whole
(docs/decisions/0001-threads-not-processes.md).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def available_cpus() -> int:
    """Return how many processors this process may use (affinity and cgroup limits respected)."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
    except (OSError, ValueError):
        return cpus
    return cpus if quota == "max" else max(1, min(cpus, int(quota) // int(period)))


def run_all(
    function: Callable[[Item], Result], items: Iterable[Item], *, workers: int | None = None
) -> Iterator[tuple[Item, Result]]:
    """Yield (item, function(item)) as each finishes; at most twice as many as `workers` are in flight.

    `workers=0` runs in the calling thread. The first exception ends the run: nothing new is started and it is
    raised as it was.
    """
    count = available_cpus() if workers is None else workers
    if count == 0:
        for item in items:
            yield item, function(item)
        return
    pool = ThreadPoolExecutor(count, thread_name_prefix="siccs")
    waiting = iter(items)
    running: dict[Future[Result], Item] = {}
    try:
        while True:
            for item in waiting:
                running[pool.submit(function, item)] = item
                if len(running) >= 2 * count:
                    break
            if not running:
                return
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                yield running.pop(future), future.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
