"""2-D pictures (.png, .bmp): grey levels are one channel, RGB three; rows run to the back, columns to the left.

A picture states no spacing; 1 mm is taken along every axis, as for every format without one.
"""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from siccs_net.errors import ImageError
from siccs_net.geometry import Affine, canonical_affine
from siccs_net.io.volume import Files, Format, Volume, needed_bytes, real_numbers

_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
_MAGICS = {".png": (_PNG_MAGIC, "PNG"), ".bmp": (b"BM", "BMP")}
_MOST_INFLATION = 1100
"""Deflate packs at most 1032 bytes into one."""
_SIZES = {"1": "u1", "L": "u1", "I;16": "u2", "I;16B": "u2", "I": "i4", "RGB": "u1"}


def read(path: Path, data: bytes, assume_orientation: str | None) -> Volume:
    """Return a picture's content [1 or 3, x, y, 1]. Raises ImageError."""
    magic, kind = _MAGICS[path.suffix]
    if not data.startswith(magic):
        raise ImageError(f"is not a {kind} file", found=f"{data[:8]!r} at its start")
    if kind == "PNG":
        _check_png(data)
    return Volume(to_channels(_decode(data, kind)), canonical_affine((1.0, 1.0, 1.0)))


def to_channels(picture: NDArray[Any]) -> NDArray[Any]:
    """Return a picture [y, x] or [y, x, colour] as channels [c, x, y, 1], axes in the order of a file."""
    colours = picture[..., None] if picture.ndim == 2 else picture
    return real_numbers(colours).transpose(2, 1, 0)[..., None]


def _check_png(data: bytes) -> None:
    """Check every chunk's CRC, which Pillow does not for the voxels, and what Pillow would silently change."""
    place, kind = len(_PNG_MAGIC), b""
    while kind != b"IEND":
        size, kind = struct.unpack(">I4s", data[place : place + 8]) if place + 8 <= len(data) else (0, b"")
        content, stored = data[place + 8 : place + 8 + size], data[place + 8 + size : place + 12 + size]
        if len(stored) < 4:
            raise ImageError("is a truncated PNG file", found=f"{len(data)} bytes", hint="Copy it again")
        if zlib.crc32(kind + content) != int.from_bytes(stored, "big"):
            raise ImageError("is a damaged PNG file", found=f"a wrong CRC of its part {kind!r}", hint="Copy it again")
        if kind == b"IHDR" and len(content) == 13 and content[8] == 16 and content[9] == 2:
            raise ImageError("has 16 bits a colour, which are not read", hint="Save one grey file a channel")
        if kind == b"tRNS":
            raise ImageError("has transparent colours", expected="grey levels or RGB", hint="Save it without alpha")
        place += 12 + size


def _decode(data: bytes, kind: str) -> NDArray[Any]:
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            picture = Image.open(io.BytesIO(data), formats=[kind])
        if picture.mode not in _SIZES:
            raise ImageError(
                _refusal(picture.mode), found=f"mode {picture.mode}", expected="8 or 16 bit grey levels, or 8 bit RGB"
            )
        needed = needed_bytes((*picture.size, 3 if picture.mode == "RGB" else 1), np.dtype(_SIZES[picture.mode]))
        if needed > _MOST_INFLATION * len(data):
            raise ImageError("is truncated", found=f"{len(data)} bytes", expected=f"more for size {picture.size}")
        return np.asarray(picture)
    except ImageError:
        raise
    except Exception as error:
        raise ImageError(f"is not a readable {kind} file", found=f"{type(error).__name__}: {error}") from error


def _refusal(mode: str) -> str:
    if mode == "P":
        return "has a palette of colours, whose numbers are no intensities"
    return "has an alpha channel" if mode.endswith(("A", "a")) else "has colours that are not read"


def check_picture_mask(voxels: NDArray[Any]) -> NDArray[Any]:
    """Return a label map [x, y, 1] as a picture [y, x]. Raises ImageError for more than one slice."""
    if voxels.ndim != 3 or voxels.shape[2] != 1:
        raise ImageError(
            "a picture holds one slice only", found=f"shape {voxels.shape} (x, y, z)", hint="Write it as .nii.gz"
        )
    return voxels[:, :, 0].T


def encode(path: Path, voxels: NDArray[Any], affine: Affine, header: Any) -> Files:
    """Return a grey picture with these labels [x, y, 1]: 8 bits, or 16 in a PNG."""
    from PIL import Image

    picture = np.ascontiguousarray(check_picture_mask(voxels))
    _, kind = _MAGICS[path.suffix]
    if picture.dtype != np.uint8 and not (kind == "PNG" and picture.dtype == np.uint16):
        raise ImageError(f"a {kind} file cannot hold {picture.dtype} voxels", path=path, hint="Write .png or .nii.gz")
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, format=kind)
    return {path: stream.getvalue()}


PICTURE = Format((".png", ".bmp"), read, encode, several_channels=True)
