"""NRRD (.nrrd, and .nhdr with a detached file), read and written byte by byte with every check.

The header is lines of `field: value` up to an empty one; see the format's definition at
https://teem.sourceforge.net/nrrd/format.html. Space directions hold a step along each axis in `space`'s millimetres.
"""

from __future__ import annotations

import bz2
import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from siccs_net.errors import GeometryError, ImageError
from siccs_net.geometry import Affine
from siccs_net.io import files
from siccs_net.io.gunzip import gunzip, gzip
from siccs_net.io.volume import (
    SLACK_BYTES,
    Files,
    Format,
    Volume,
    WrittenGeometry,
    affine_from_lps,
    lps_geometry,
    needed_bytes,
    numbers,
    three_sizes,
    voxels_from,
    whole_numbers,
)

_MAX_HEADER = 1 << 20
_NAMES = {
    "i1": ("int8", "signed char", "int8_t"),
    "u1": ("uint8", "uchar", "unsigned char", "uint8_t"),
    "i2": ("int16", "short", "short int", "signed short", "signed short int", "int16_t"),
    "u2": ("uint16", "ushort", "unsigned short", "unsigned short int", "uint16_t"),
    "i4": ("int32", "int", "signed int", "int32_t"),
    "u4": ("uint32", "uint", "unsigned int", "uint32_t"),
    "i8": ("int64", "longlong", "long long", "long long int", "signed long long", "signed long long int", "int64_t"),
    "u8": ("uint64", "ulonglong", "unsigned long long", "unsigned long long int", "uint64_t"),
    "f4": ("float",),
    "f8": ("double",),
}
_TYPES = {name: code for code, names in _NAMES.items() for name in names}
_SPACES = {
    **dict.fromkeys(("left-posterior-superior", "lps"), "LPS"),
    **dict.fromkeys(("right-anterior-superior", "ras"), "RAS"),
    **dict.fromkeys(("left-anterior-superior", "las"), "LAS"),
}
_GEOMETRY = ("space", "space dimension", "space directions", "space origin", "spacings", "axis mins", "centerings")
_SPATIAL_KINDS = ("domain", "space", "none", "???")


class NrrdHeader(WrittenGeometry):
    """The header of a NRRD."""


def read(path: Path, data: bytes, assume_orientation: str | None) -> Volume:
    """Return a NRRD's content. Raises ImageError, GeometryError, or MissingPathError for a detached file."""
    fields, offset = _fields(data)
    sizes = whole_numbers(fields.get("sizes", ""), "sizes")
    if len(sizes) != whole_numbers(fields.get("dimension", ""), "dimension")[0]:
        raise ImageError("contradicts itself", found=f"dimension {fields['dimension']}, sizes {fields['sizes']}")
    _check_kinds(fields)
    shape = three_sizes(sizes)
    dtype = _dtype(fields)
    voxels = voxels_from(_content(path, data, offset, fields, needed_bytes(shape, dtype)), shape, dtype)
    geometry = tuple((key, fields[key]) for key in _GEOMETRY if key in fields)
    return Volume(voxels, _affine(fields, len(sizes)), NrrdHeader(tuple(sizes), geometry))


def _fields(data: bytes) -> tuple[dict[str, str], int]:
    """Return the header's fields, names in lower case, and where the voxels begin."""
    if not re.match(rb"NRRD000[1-6]\r?\n", data):
        raise ImageError("is not a NRRD file", found="no NRRD magic string in its first line")
    end = re.search(rb"\r?\n\r?\n", data[:_MAX_HEADER])
    text = data[:_MAX_HEADER] if end is None else data[: end.start()]
    fields: dict[str, str] = {}
    for line in text.decode("latin-1").splitlines()[1:]:
        name, colon, value = line.partition(":")
        if colon and not line.startswith("#") and not value.startswith("="):
            fields["data file" if name.lower() == "datafile" else name.lower()] = value.strip()
    if end is None and "data file" not in fields:
        raise ImageError("is truncated", found="no end of its header")
    return fields, len(data) if end is None else end.end()


def _check_kinds(fields: dict[str, str]) -> None:
    """Refuse colours and vectors: as a first axis of 3 they would pass for a very thin scan."""
    kinds = fields.get("kinds", "").lower().split()
    if odd := [kind for kind in kinds if kind not in _SPATIAL_KINDS]:
        raise ImageError(
            "has an axis that is not of space", found=f"kinds {', '.join(odd)}", expected="one file a channel (_0000)"
        )


def _dtype(fields: dict[str, str]) -> np.dtype[Any]:
    name = fields.get("type", "").lower()
    if name not in _TYPES:
        raise ImageError("has a type that is not read", found=repr(name), expected="int8 to uint64, float or double")
    endian = fields.get("endian", "little").lower()
    if endian not in ("little", "big"):
        raise ImageError("has a damaged endian in its header", found=repr(endian), expected="little or big")
    return np.dtype(_TYPES[name]).newbyteorder("<" if endian == "little" else ">")


def _content(path: Path, data: bytes, offset: int, fields: dict[str, str], needed: int) -> Any:
    beside_path = _data_path(path, fields)
    packed = memoryview(data)[offset:] if beside_path is None else memoryview(files.read_bytes(beside_path))
    for _ in range(whole_numbers(fields.get("line skip", fields.get("lineskip", "0")), "line skip")[0]):
        packed = packed[bytes(packed).find(b"\n") + 1 :]
    skip = whole_numbers(fields.get("byte skip", fields.get("byteskip", "0")), "byte skip")[0]
    encoding = fields.get("encoding", "").lower()
    if encoding == "raw":
        return packed[len(packed) - needed if skip == -1 and len(packed) > needed else max(skip, 0) :]
    if encoding in ("gzip", "gz"):
        return gunzip(bytes(packed), limit=needed + max(skip, 0) + SLACK_BYTES)[max(skip, 0) :]
    if encoding in ("bzip2", "bz2"):
        return _bunzip(packed, needed)
    raise ImageError("has an encoding that is not read", found=repr(encoding), expected="raw, gzip or bzip2")


def _bunzip(packed: memoryview, needed: int) -> bytes:
    inflater = bz2.BZ2Decompressor()
    try:
        content = inflater.decompress(bytes(packed), needed + 1)
    except (OSError, EOFError, ValueError) as error:
        raise ImageError("holds damaged compressed voxels", found=str(error), hint="Copy it again") from error
    if len(content) > needed or not inflater.eof:
        more = "more" if len(content) > needed else f"{len(content)} bytes before its end"
        raise ImageError("does not inflate to what its header says", found=more, expected=f"{needed} bytes")
    return content


def _data_path(path: Path, fields: dict[str, str]) -> Path | None:
    """Return the detached file, a name in the header's own folder; None for voxels that follow the header."""
    name = fields.get("data file")
    if name is None:
        return None
    if name.upper().startswith("LIST") or "%" in name or len(name.split()) > 2:
        raise ImageError("is split over several files", found=name[:100], hint="Save it as one .nrrd file")
    name = name.removeprefix("./")
    if not name.isprintable() or not name or Path(name).name != name:
        raise ImageError("names voxels outside its own folder", found=name[:100], expected="a file's name alone")
    return path.with_name(name)


def _affine(fields: dict[str, str], axes: int) -> Affine:
    space = fields.get("space", "").lower()
    if space and space not in _SPACES:
        raise GeometryError("has a space that is not the patient's", found=space[:60], expected=", ".join(_SPACES))
    if "space directions" in fields:
        steps = np.array([_vector(text, axes) for text in _vectors(fields["space directions"], axes)]).T
        origin = _vector(fields.get("space origin", f"({','.join('0' * axes)})"), axes)
        return affine_from_lps(steps, [1.0] * axes, origin, space=_SPACES.get(space, "LPS"))
    spacing = numbers(fields.get("spacings", " ".join("1" * axes)), axes, "spacings")
    origin = numbers(fields["axis mins"], axes, "axis mins") if "axis mins" in fields else [0.0] * axes
    return affine_from_lps(np.eye(axes), spacing, origin)


def _vectors(text: str, axes: int) -> list[str]:
    found = re.findall(r"\([^()]*\)|none", text)
    if len(found) != axes or "none" in found:
        raise GeometryError("has damaged space directions", found=repr(text[:100]), expected=f"{axes} vectors (x,y,z)")
    return found


def _vector(text: str, axes: int) -> list[float]:
    return numbers(text.strip().strip("()").replace(",", " "), axes, "space directions or space origin")


def encode(path: Path, voxels: NDArray[Any], affine: Affine, header: Any) -> Files:
    """Return a gzip-encoded .nrrd, or an .nhdr and its .raw.gz, with these voxels [i, j, k].

    The geometry of a NRRD's header is written as it was read, to the last digit.
    """
    own = header if isinstance(header, NrrdHeader) else _new_header(voxels.shape, affine)
    packed = gzip(np.asfortranarray(voxels).tobytes(order="F"))
    detached = path.with_name(f"{path.name.removesuffix('.nhdr')}.raw.gz") if path.name.endswith(".nhdr") else None
    lines = {
        "type": _NAMES[voxels.dtype.newbyteorder("=").str[1:]][0],
        "dimension": len(own.sizes),
        **dict(own.geometry),
        "sizes": " ".join(map(str, own.sizes)),
        "kinds": " ".join(["domain"] * len(own.sizes)),
        "endian": "little",
        "encoding": "gzip",
        **({} if detached is None else {"data file": detached.name}),
    }
    text = "NRRD0004\n" + "".join(f"{key}: {value}\n" for key, value in lines.items()) + "\n"
    if detached is not None:
        return {detached: packed, path: text.encode("latin-1")}
    return {path: text.encode("latin-1") + packed}


def _new_header(shape: tuple[int, ...], affine: Affine) -> NrrdHeader:
    directions, spacing, origin = lps_geometry(affine)
    steps = (directions * np.array(spacing)).T.tolist()
    geometry = (
        ("space", "left-posterior-superior"),
        ("space directions", " ".join(f"({','.join(map(repr, step))})" for step in steps)),
        ("space origin", f"({','.join(map(repr, origin))})"),
    )
    return NrrdHeader(shape, geometry)


def beside(path: Path, data: bytes) -> bytes:
    """Return the bytes of the detached file, if there is one."""
    found = _data_path(path, _fields(data)[0])
    return b"" if found is None else files.read_bytes(found)


NRRD = Format((".nrrd", ".nhdr"), read, encode, beside)
