"""Where the classes of a prepared case lie: a flat file beside it that is mapped into memory, never read as a whole."""

from __future__ import annotations

import mmap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from siccs_net.io import files

_MAGIC = b"SICCSLO1"
_NOT_ANNOTATED = 255
_HEADER = np.dtype(
    [
        ("magic", "S8"),
        ("label_sha256", "S64"),
        ("voxels_sha256", "S64"),
        ("shape", "<u8", (3,)),
        ("ignored", "<u8"),
        ("counts", "<u8", (256,)),
    ]
)
_VOXEL = np.dtype("<u4")
_VOXELS_TOGETHER = 1 << 17
"""Voxels looked through at a time, so that they stay in the processor's cache."""


@dataclass(frozen=True)
class LabelLocations:
    """The voxels of each class of one case, whose label map has `shape` (plan axes).

    `counts` has the exact number of voxels of each class that can be looked up: the foreground classes, and the
    background where the case is annotated in part only (`ignored` voxels are not). The file is mapped anew at each
    look, so that an object costs nothing to keep, to fork or to send to another process.
    """

    path: Path
    shape: tuple[int, int, int]
    counts: dict[int, int]
    ignored: int

    def voxel(self, value: int, number: int) -> tuple[int, int, int]:
        """Return the `number`-th voxel of a class in C order, counted from 0. One page of the file is read."""
        if not 0 <= number < self.counts.get(value, 0):
            raise IndexError(f"class {value} has {self.counts.get(value, 0)} voxels, so none of number {number}")
        before = sum(count for other, count in self.counts.items() if other < value)
        start = _HEADER.itemsize + (before + number) * _VOXEL.itemsize
        with open(self.path, "rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            flat = int.from_bytes(mapped[start : start + _VOXEL.itemsize], "little")
        _, rows, columns = self.shape
        return flat // (rows * columns), flat // columns % rows, flat % columns


def write_locations(path: Path, label: NDArray[np.uint8], label_sha256: str) -> None:
    """Write where the classes of a label map [*plan axes] lie; `label_sha256` is the hash of its own file.

    After a header come the flat indices of the voxels as uint32, by class and within it in C order. Background is
    left out, unless voxels of 255 (not annotated) make it worth finding; those are always left out.
    """
    by_class, ignored = _find_classes(np.ascontiguousarray(label).ravel())
    voxels = np.concatenate([np.empty(0, _VOXEL), *(part for value in sorted(by_class) for part in by_class[value])])
    header = np.zeros((), _HEADER)
    for value, parts in by_class.items():
        header["counts"][value] = sum(map(len, parts))
    header["magic"], header["shape"], header["ignored"] = _MAGIC, label.shape, ignored
    header["label_sha256"], header["voxels_sha256"] = label_sha256.encode(), files.sha256(voxels.data).encode()
    files.write_cache(path, [header.tobytes(), voxels.data])


def _find_classes(flat: NDArray[np.uint8]) -> tuple[dict[int, list[NDArray[np.uint32]]], int]:
    """Return the flat indices of each class that can be looked up, in ascending pieces, and how many are ignored."""
    ignored = int(np.count_nonzero(flat == _NOT_ANNOTATED))
    left_out = _NOT_ANNOTATED if ignored else 0
    found: dict[int, list[NDArray[np.uint32]]] = {}
    for first in range(0, flat.size, _VOXELS_TOGETHER):
        part = flat[first : first + _VOXELS_TOGETHER]
        places = np.flatnonzero(part != left_out)
        values, places = part[places], (places + first).astype(_VOXEL)
        for value in np.flatnonzero(np.bincount(values)).tolist():
            found.setdefault(value, []).append(places[values == value])
    return found, ignored


def read_locations(path: Path, label_sha256: str) -> LabelLocations | None:
    """Return the locations that a file holds; None when it is missing, cut off, or of another label map."""
    header = _read_header(path)
    if header is None or header["label_sha256"] != label_sha256.encode():
        return None
    counts = {value: int(count) for value, count in enumerate(header["counts"]) if count}
    if path.stat().st_size != _HEADER.itemsize + sum(counts.values()) * _VOXEL.itemsize:
        return None
    z, y, x = (int(size) for size in header["shape"])
    return LabelLocations(path, (z, y, x), counts, int(header["ignored"]))


def are_whole(path: Path) -> bool:
    """Say whether the voxels in a file have the hash that its header names. Reads the whole file."""
    header = _read_header(path)
    if header is None:
        return False
    voxels = files.read_bytes(path)[_HEADER.itemsize :]
    return bool(header["voxels_sha256"] == files.sha256(voxels).encode())


def _read_header(path: Path) -> Any:
    if not path.is_file() or path.stat().st_size < _HEADER.itemsize:
        return None
    header = np.fromfile(path, _HEADER, count=1)[0]
    return header if header["magic"] == _MAGIC else None
