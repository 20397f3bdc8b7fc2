"""Cases held between two readings: a command that plans and then prepares reads each small dataset's files once."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from siccs_net.io.image import Image

    Pair = tuple[Image, Image]
    Key = tuple[object, ...]

LIMIT_BYTES = 256 * 2**20
"""What is held at most: a dataset of slices, or a few whole scans."""


class _Held:
    """Images and labels by their files, as these are now; each is given back once and then forgotten."""

    def __init__(self, limit: int) -> None:
        self._lock = threading.Lock()
        self._free = limit
        self._cases: dict[Key, Pair] = {}

    def take(self, key: Key) -> Pair | None:
        with self._lock:
            pair = self._cases.pop(key, None)
            if pair is not None:
                self._free += _size(pair)
            return pair

    def put(self, key: Key, pair: Pair) -> None:
        with self._lock:
            if key not in self._cases and _size(pair) <= self._free:
                self._cases[key] = pair
                self._free -= _size(pair)


_held: _Held | None = None


@contextlib.contextmanager
def cases_held(limit_bytes: int = LIMIT_BYTES) -> Iterator[None]:
    """Inside, a case that is read a second time comes from memory, if its files are as they were and there was room."""
    global _held
    before, _held = _held, _Held(limit_bytes)
    try:
        yield
    finally:
        _held = before


def read_once(paths: Sequence[Path], more: object, read: Callable[[], Pair]) -> Pair:
    """Return what was held for these files, or what `read` returns, which is then held; `more` tells readings apart."""
    if _held is None:
        return read()
    key = (more, *((path, *_state(path)) for path in paths))
    pair = _held.take(key)
    if pair is None:
        pair = read()
        _held.put(key, pair)
    return pair


def _state(path: Path) -> tuple[int, int, int]:
    if not path.is_file():
        return (0, 0, 0)
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns


def _size(pair: Pair) -> int:
    return sum(image.array.nbytes for image in pair)
