"""What a reader of an image format gives and takes: voxels in file order, where they lie, and the file's header."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from siccs_net.errors import GeometryError, ImageError
from siccs_net.geometry import Affine
from siccs_net.io.gunzip import MAX_DECODED_BYTES

SLACK_BYTES = 1 << 20
"""A file may hold this much more than its header asks for."""
_RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class Volume:
    """One file's content: `voxels` [c, i, j, k] in the file's order and `affine` from (i, j, k, 1) to RAS+ mm.

    `header` is whatever the reader needs to write a mask onto the same grid.
    """

    voxels: NDArray[Any]
    affine: Affine
    header: Any = None


@dataclass(frozen=True)
class WrittenGeometry:
    """What a mask needs of its scan's header: the sizes and the lines of its geometry, as they are written there."""

    sizes: tuple[int, ...]
    geometry: tuple[tuple[str, str], ...]


class ImageReader:
    """Base of a plug-in for one more file format: subclass it, register it as an entry point `siccs_net.readers`.

    `endings` are its files' endings in lower case with the dot. `read` returns a file's Volume (c above 1 where one
    file holds several channels). `encode` returns the bytes of a file with the label map [i, j, k] on the grid that
    `read` gave: same shape, affine and header, or header None for a grid of another format. Errors of our tree are
    passed on, any other is reported with the file's name.
    """

    endings: ClassVar[tuple[str, ...]] = ()

    def read(self, path: Path) -> Volume:
        """Return the content of a file."""
        raise NotImplementedError

    def encode(self, voxels: NDArray[Any], affine: Affine, header: Any) -> bytes:
        """Return the bytes of a file with these voxels [i, j, k] on this grid."""
        raise NotImplementedError


Files = Mapping[Path, bytes]
"""What is to be written where; the file that names the others comes last."""


def nothing_beside(path: Path, data: bytes | memoryview) -> bytes:
    """Return nothing: what most formats have outside their file."""
    return b""


@dataclass(frozen=True)
class Format:
    """A file format as functions.

    `read` takes a path, the file's bytes and an assumed orientation; `encode` a path, voxels [i, j, k], affine, header.
    `beside` returns the content outside the file that belongs to it (a detached .raw, a spacing), for its hash.
    `several_channels` says that one file may hold all channels, `any_buffer` that `read` also takes a memoryview.
    """

    endings: tuple[str, ...]
    read: Callable[[Path, Any, str | None], Volume]
    encode: Callable[[Path, NDArray[Any], Affine, Any], Files]
    beside: Callable[[Path, Any], bytes] = field(default=nothing_beside)
    several_channels: bool = False
    any_buffer: bool = False


def needed_bytes(shape: Sequence[int], dtype: np.dtype[Any], offset: int = 0) -> int:
    """Return how many bytes a header asks for. Raises ImageError for no voxels or more than any file may hold."""
    if min(shape, default=0) < 1:
        raise ImageError("has no voxels", found=f"shape {tuple(shape)}")
    needed = max(offset, 0) + math.prod(map(int, shape)) * dtype.itemsize
    if needed > MAX_DECODED_BYTES:
        raise ImageError(
            "asks for more bytes than this version allows",
            found=f"{needed} for shape {tuple(shape)}",
            expected=f"at most {MAX_DECODED_BYTES}",
            hint="The header may be damaged",
        )
    return needed


def check_finite(array: NDArray[Any]) -> None:
    """Raise ImageError for voxels that are NaN or infinite."""
    if array.dtype.kind != "f" or np.isfinite(array.sum(dtype=np.float64)):
        return
    wrong = int(array.size - np.count_nonzero(np.isfinite(array)))
    if wrong:
        raise ImageError("holds values that are not finite (NaN or infinite)", found=f"{wrong} of {array.size} voxels")


def real_numbers(voxels: NDArray[Any]) -> NDArray[Any]:
    """Return integers in the machine's byte order and floating point as float32; other types are an ImageError."""
    if voxels.dtype.kind == "b":
        return voxels.astype(np.uint8)
    if voxels.dtype.kind in "iu":
        return voxels.astype(voxels.dtype.newbyteorder("="), copy=False)
    if voxels.dtype.kind == "f":
        with np.errstate(over="ignore"):
            return voxels.astype(np.float32, copy=False)
    raise ImageError("has a data type that is not a real number", found=str(voxels.dtype))


def voxels_from(
    content: bytes | memoryview, shape: Sequence[int], dtype: np.dtype[Any], *, offset: int = 0
) -> NDArray[Any]:
    """Return a file's voxels [1, i, j, k], i fastest, as real numbers. Raises ImageError for too few bytes."""
    needed = needed_bytes(shape, dtype, offset)
    if len(content) < needed:
        raise ImageError("is truncated", found=f"{len(content)} bytes", expected=f"{needed} for shape {tuple(shape)}")
    flat = np.frombuffer(content, dtype, count=math.prod(shape), offset=offset)
    return real_numbers(flat.reshape(tuple(shape), order="F"))[None]


def affine_from_lps(
    directions: NDArray[np.float64], spacing_mm: Sequence[float], origin_mm: Sequence[float], *, space: str = "LPS"
) -> Affine:
    """Return the RAS+ affine from unit directions (columns), a spacing and an origin in LPS (or RAS, LAS) mm.

    A file of two axes gets a third at right angles, 1 mm thick.
    """
    axes = len(spacing_mm)
    affine = np.eye(4)
    affine[:axes, :axes] = np.asarray(directions, dtype=np.float64) * np.asarray(spacing_mm, dtype=np.float64)
    affine[:axes, 3] = origin_mm
    signs = {"LPS": _RAS_TO_LPS, "RAS": np.eye(4), "LAS": np.diag([-1.0, 1.0, 1.0, 1.0])}[space]
    result: Affine = signs @ affine
    return result


def lps_geometry(affine: Affine) -> tuple[NDArray[np.float64], list[float], list[float]]:
    """Return unit directions [3, 3] (columns), spacing and origin in LPS of a RAS+ affine."""
    lps = _RAS_TO_LPS @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    return lps[:3, :3] / spacing + 0.0, spacing.tolist(), (lps[:3, 3] + 0.0).tolist()


def three_sizes(sizes: Sequence[int]) -> tuple[int, int, int]:
    """Return a file's sizes as three: a second axis alone gets one slice. Raises ImageError for more axes."""
    if len(sizes) == 2:
        return sizes[0], sizes[1], 1
    if len(sizes) != 3:
        raise ImageError(
            "must have three axes", found=f"sizes {tuple(sizes)}", expected="one file a channel (_0000, _0001)"
        )
    return sizes[0], sizes[1], sizes[2]


def numbers(text: str, count: int, key: str) -> list[float]:
    """Return so many finite numbers of a header's field. Raises GeometryError that names the field."""
    try:
        found = [float(word) for word in text.split()]
    except ValueError:
        found = []
    if len(found) != count or not all(map(math.isfinite, found)):
        raise GeometryError(f"has a damaged {key} in its header", found=repr(text[:100]), expected=f"{count} numbers")
    return found


def whole_numbers(text: str, key: str) -> list[int]:
    """Return the whole numbers of a header's field. Raises ImageError that names the field."""
    try:
        found = [int(word) for word in text.split()]
    except ValueError:
        found = []
    if not found or len(found) > 16:
        raise ImageError(f"has a damaged {key} in its header", found=repr(text[:100]), expected="whole numbers")
    return found
