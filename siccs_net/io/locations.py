"""Where the classes of a prepared case lie: a flat file beside it that is mapped into memory, never read as a whole."""

from __future__ import annotations

import mmap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from siccs_net.io import files

_MAGIC = b"SICCSLO2"
_NOT_ANNOTATED = 255
_HEADER = np.dtype(
    [
        ("magic", "S8"),
        ("label_sha256", "S64"),
        ("body_sha256", "S64"),
        ("shape", "<u8", (3,)),
        ("ignored", "<u8"),
        ("counts", "<u8", (256,)),
        ("entries", "<u8", (256,)),
    ]
)
_ENTRY = np.dtype([("gap", "u1"), ("length", "u1")])
"""A run of voxels after a gap, both counted from the run before; of length 0: only a gap, in pages of 256 voxels."""

_ANCHOR = np.dtype([("voxel", "<u4"), ("number", "<u4")])
"""Before some entries: the flat index at which they begin, and how many voxels of the class come before."""

_ENTRIES_AN_ANCHOR, _PAGE, _LONGEST = 64, 256, 255
_VOXELS_TOGETHER = 1 << 20


@dataclass(frozen=True)
class LabelLocations:
    """The voxels of each class of one case, whose label map has `shape` (plan axes).

    `counts` has the exact number of voxels of each class that can be looked up: the foreground classes, and the
    background where the case is annotated in part only (`ignored` voxels are not). `entries` says how many each class
    has in the file, which is mapped anew at each look, so that an object costs nothing to keep, to fork or to send to
    another process.
    """

    path: Path
    shape: tuple[int, int, int]
    counts: dict[int, int]
    entries: dict[int, int]
    ignored: int

    def voxel(self, value: int, number: int) -> tuple[int, int, int]:
        """Return the `number`-th voxel of a class in C order, counted from 0. Few pages of the file are read."""
        if not 0 <= number < self.counts.get(value, 0):
            raise IndexError(f"class {value} has {self.counts.get(value, 0)} voxels, so none of number {number}")
        start = _HEADER.itemsize + sum(_bytes_of(count) for other, count in self.entries.items() if other < value)
        with open(self.path, "rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            flat = _look_up(mapped, start, self.entries[value], number)
        _, rows, columns = self.shape
        return flat // (rows * columns), flat // columns % rows, flat % columns


def _bytes_of(entries: int) -> int:
    return _anchors_of(entries) * _ANCHOR.itemsize + entries * _ENTRY.itemsize


def _anchors_of(entries: int) -> int:
    return -(-entries // _ENTRIES_AN_ANCHOR)


def _look_up(mapped: mmap.mmap, start: int, entries: int, number: int) -> int:
    """Return the flat index of a class's voxel by its number; the class's anchors begin at `start`."""
    lower, upper = 0, _anchors_of(entries) - 1
    while lower < upper:  # the last anchor with no more voxels before it than `number`
        middle = (lower + upper + 1) // 2
        lower, upper = (middle, upper) if _anchor(mapped, start, middle)[1] <= number else (lower, middle - 1)
    voxel, before = _anchor(mapped, start, lower)
    first = lower * _ENTRIES_AN_ANCHOR
    here = start + _anchors_of(entries) * _ANCHOR.itemsize + first * _ENTRY.itemsize
    count = min(_ENTRIES_AN_ANCHOR, entries - first)
    found = np.frombuffer(mapped[here : here + count * _ENTRY.itemsize], _ENTRY)
    numbers, ends = before + np.cumsum(found["length"], dtype=np.int64), voxel + np.cumsum(_extents(found))
    run = int(np.searchsorted(numbers, number, side="right"))
    return int(ends[run] - (numbers[run] - number))


def _anchor(mapped: mmap.mmap, start: int, index: int) -> tuple[int, int]:
    here = start + index * _ANCHOR.itemsize
    voxel, number = np.frombuffer(mapped[here : here + _ANCHOR.itemsize], _ANCHOR)[0].tolist()
    return voxel, number


def _extents(entries: NDArray[Any]) -> NDArray[np.int64]:
    """Return how many voxels each entry goes on: gap and run."""
    gaps, lengths = entries["gap"].astype(np.int64), entries["length"]
    return np.where(lengths > 0, gaps + lengths, gaps * _PAGE)


def write_locations(path: Path, label: NDArray[np.uint8], label_sha256: str) -> None:
    """Write where the classes of a label map [*plan axes] lie; `label_sha256` is the hash of its own file.

    After a header come, class by class, anchors and then entries for the runs of its voxels in C order. Background is
    left out, unless voxels of 255 (not annotated) make it worth finding; those are always left out.
    """
    starts, lengths, values = _runs(np.ascontiguousarray(label).reshape(-1))
    header = np.zeros((), _HEADER)
    header["ignored"] = lengths[values == _NOT_ANNOTATED].sum()
    left_out = (_NOT_ANNOTATED,) if header["ignored"] else (0, _NOT_ANNOTATED)
    parts = []
    for value in sorted(set(np.flatnonzero(np.bincount(values)).tolist()).difference(left_out)):
        own = values == value
        entries = _entries(starts[own], lengths[own])
        header["counts"][value], header["entries"][value] = lengths[own].sum(), len(entries)
        parts += [_anchors(entries).tobytes(), entries.tobytes()]
    body = b"".join(parts)
    header["magic"], header["shape"] = _MAGIC, label.shape
    header["label_sha256"], header["body_sha256"] = label_sha256.encode(), files.sha256(body).encode()
    files.write_cache(path, [header.tobytes(), body])


def _runs(flat: NDArray[np.uint8]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.uint8]]:
    """Return start, length and value of each run of equal voxels, looked through in pieces that fit the cache."""
    changes = [np.zeros(1, np.int64)]
    for first in range(0, flat.size - 1, _VOXELS_TOGETHER):
        part = flat[first : first + _VOXELS_TOGETHER + 1]
        changes.append(np.flatnonzero(part[1:] != part[:-1]) + (first + 1))
    starts = np.concatenate(changes)
    return starts, np.diff(starts, append=flat.size), flat[starts]


def _entries(starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[Any]:
    """Return the entries of a class's runs: pages of a long gap first, then what is left and pieces of the run."""
    ends = starts + lengths
    gaps = starts - np.concatenate([[0], ends[:-1]])
    pages, gaps = np.divmod(gaps, _PAGE)
    skips, pieces = -(-pages // _LONGEST), -(-lengths // _LONGEST)
    last = np.cumsum(skips + pieces)
    found = np.zeros(int(last[-1]), _ENTRY)
    found["length"] = _LONGEST
    found["length"][last - 1] = lengths - (pieces - 1) * _LONGEST
    found["gap"][last - pieces] = gaps
    long = np.flatnonzero(skips)
    begin = last - pieces - skips
    of_skips = np.repeat(begin[long], skips[long]) + _counted(skips[long])
    found["length"][of_skips], found["gap"][of_skips] = 0, _LONGEST
    found["gap"][begin[long]] = pages[long] - (skips[long] - 1) * _LONGEST
    return found


def _counted(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return 0, 1, … up to each count, one after another."""
    return np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)


def _anchors(entries: NDArray[Any]) -> NDArray[Any]:
    anchors = np.zeros(_anchors_of(len(entries)), _ANCHOR)
    for name, passed in (("voxel", _extents(entries)), ("number", entries["length"].astype(np.int64))):
        anchors[name] = (np.cumsum(passed) - passed)[::_ENTRIES_AN_ANCHOR]
    return anchors


def read_locations(path: Path, label_sha256: str) -> LabelLocations | None:
    """Return the locations that a file holds; None when it is missing, cut off, or of another label map."""
    header = _read_header(path)
    if header is None or header["label_sha256"] != label_sha256.encode():
        return None
    counts, entries = (
        {value: int(count) for value, count in enumerate(header[name]) if count} for name in ("counts", "entries")
    )
    if path.stat().st_size != _HEADER.itemsize + sum(map(_bytes_of, entries.values())):
        return None
    z, y, x = (int(size) for size in header["shape"])
    return LabelLocations(path, (z, y, x), counts, entries, int(header["ignored"]))


def are_whole(path: Path) -> bool:
    """Say whether the body of a file has the hash that its header names. Reads the whole file."""
    header = _read_header(path)
    if header is None:
        return False
    body = files.read_bytes(path)[_HEADER.itemsize :]
    return bool(header["body_sha256"] == files.sha256(body).encode())


def _read_header(path: Path) -> Any:
    if not path.is_file() or path.stat().st_size < _HEADER.itemsize:
        return None
    header = np.fromfile(path, _HEADER, count=1)[0]
    return header if header["magic"] == _MAGIC else None
