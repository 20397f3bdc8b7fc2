"""The one executor: threads, because the work is numpy, inflate and disk, which release the GIL.

Nothing is pickled, no child can die silently, and the first exception arrives whole
(docs/decisions/0001-threads-not-processes.md).
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from threadpoolctl import ThreadpoolController

Item = TypeVar("Item")
Result = TypeVar("Result")


class _Working:
    """How many things are going on in all threads: what is done at the first one's start and at the last one's end."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._while_any = contextlib.ExitStack()
        self.count = 0

    @contextlib.contextmanager
    def one_more(self, during: Callable[[], contextlib.AbstractContextManager[Any]] | None = None) -> Iterator[None]:
        """Count one more inside; `during` is entered by the first and left by the last."""
        with self._lock:
            if self.count == 0 and during is not None:
                self._while_any.enter_context(during())
            self.count += 1
        try:
            yield
        finally:
            with self._lock:
                self.count -= 1
                if self.count == 0:
                    self._while_any.close()


_ITEMS, _PRODUCTS = _Working(), _Working()


def one_thread_a_product() -> contextlib.AbstractContextManager[None]:
    """Inside, numpy's matrix products run on the thread that asks for them, in every thread of the process.

    OpenBLAS splits a product over threads that wait for each other: much slower where the
    cores are busy with other cases, or with the other parts of this one.
    """
    return _PRODUCTS.one_more(lambda: _blas().limit(limits=1))


@lru_cache(maxsize=1)
def _blas() -> ThreadpoolController:
    return ThreadpoolController().select(user_api="blas")


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

    def work(item: Item) -> Result:
        with _ITEMS.one_more():
            return function(item)

    waiting = iter(items)
    running: dict[Future[Result], Item] = {}
    try:
        while True:
            for item in waiting:
                running[pool.submit(work, item)] = item
                if len(running) >= 2 * count:
                    break
            if not running:
                return
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                yield running.pop(future), future.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def run_parts(function: Callable[[Item], Result], parts: Sequence[Item]) -> list[Result]:
    """Return function(part) of every part of one item's work, in order, on the processors that are spare.

    Spare are those on which `run_all` works at no item: the last case of a dataset, or a case by itself, is worked on
    by all of them, and cases side by side by one thread each. The first exception is raised as it was.
    """
    helpers = min(len(parts) - 1, available_cpus() - max(_ITEMS.count, 1))
    if helpers < 1:
        return [function(part) for part in parts]
    results: dict[int, Result] = {}
    numbers = iter(range(len(parts)))

    def work() -> (
        None
    ):  # the calling thread is one of the workers; taking the next number is one step of the interpreter
        for number in numbers:
            results[number] = function(parts[number])

    with ThreadPoolExecutor(helpers, thread_name_prefix="siccs-part") as pool:
        others = [pool.submit(work) for _ in range(helpers)]
        work()
        for other in others:
            other.result()
    return [results[number] for number in range(len(parts))]


def split(count: int, *, most: int | None = None) -> list[slice]:
    """Cut `count` things into about equal consecutive slices, one a processor or at most `most`; none is empty."""
    parts = max(min(available_cpus() if most is None else most, count), 1)
    return [slice(count * part // parts, count * (part + 1) // parts) for part in range(parts)]
