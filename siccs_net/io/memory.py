"""How many cases may be worked on at a time: one a processor, and no more than the memory that is free can hold."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate
from pathlib import Path

from siccs_net.parallel import available_cpus

logger = logging.getLogger(__name__)
_SHARE = 0.8
"""Share of the free memory that cases may take."""
_LARGEST_GROWTH = 1000
"""A case needs fewer bytes of memory than so many times its compressed files': CT deflates to a half or a third, is
held in less than ten bytes a voxel, and resampled to at most some ten times as many voxels."""


def free_bytes() -> int | None:
    """Return how much memory this process may still take (cgroup limits respected), or None where Linux has no say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    free = next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)
    try:
        limit, used = (Path("/sys/fs/cgroup", name).read_text().strip() for name in ("memory.max", "memory.current"))
    except OSError:
        return free
    if limit == "max":
        return free
    left = max(int(limit) - int(used), 0)
    return left if free is None else min(free, left)


def workers_that_fit(
    workers: int | None, files: Iterable[Path], needed: Callable[[], Sequence[int]], *, free: int | None = None
) -> int:
    """Return `workers` (None: one a processor), or fewer where so many of the largest cases need more than is free.

    `needed` gives the bytes that each case takes at its peak. It is asked only where the cases' `files` are large
    enough for that to matter. `free` stands for the memory that is free, in a test. At least 1 is returned, but 0,
    the calling thread, stays 0. Fewer than `workers` are logged.
    """
    wanted = available_cpus() if workers is None else workers
    room = int((free_bytes() or 0) if free is None else free) * _SHARE
    largest_file = max((path.stat().st_size for path in files if path.is_file()), default=0)
    if wanted <= 1 or not room or largest_file * _LARGEST_GROWTH * wanted <= room:
        return wanted
    together = list(accumulate(sorted(needed(), reverse=True)[:wanted]))
    fitting = max(sum(size <= room for size in together), 1)
    if fitting == len(together):
        return wanted
    logger.warning(
        "%d cases at a time instead of %d: the largest need %.1f GiB together, and %.1f GiB of memory are free",
        *(fitting, len(together), together[-1] / 2**30, room / _SHARE / 2**30),
    )
    return fitting
