"""MetaImage (.mha, and .mhd with a detached file): ITK's own format, read and written byte by byte with every check.

The header is lines of `Key = Value`; see the MetaIO documentation of the Kitware Insight Toolkit. Index to space:
TransformMatrix lists the unit direction of each axis, Offset the first voxel's centre, both in LPS.
"""

from __future__ import annotations

import re
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from siccs_net.errors import ImageError
from siccs_net.geometry import Affine
from siccs_net.io import files
from siccs_net.io.gunzip import gunzip, is_gzip
from siccs_net.io.volume import (
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

_MAX_HEADER = 1 << 16
_TYPES = {
    "MET_CHAR": "i1",
    "MET_UCHAR": "u1",
    "MET_SHORT": "i2",
    "MET_USHORT": "u2",
    "MET_INT": "i4",
    "MET_UINT": "u4",
    "MET_LONG": "i4",
    "MET_ULONG": "u4",
    "MET_LONG_LONG": "i8",
    "MET_ULONG_LONG": "u8",
    "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}
_GEOMETRY = ("Offset", "TransformMatrix", "CenterOfRotation", "AnatomicalOrientation", "ElementSpacing")
_SAME_AS = {
    "Position": "Offset",
    "Origin": "Offset",
    "Orientation": "TransformMatrix",
    "Rotation": "TransformMatrix",
    "ElementByteOrderMSB": "BinaryDataByteOrderMSB",
}


class MetaHeader(WrittenGeometry):
    """The header of a MetaImage."""


def read(path: Path, data: bytes, assume_orientation: str | None) -> Volume:
    """Return a MetaImage's content. Raises ImageError, GeometryError, or MissingPathError for a detached file."""
    fields, offset = _fields(data)
    sizes = whole_numbers(fields.get("DimSize", ""), "DimSize")
    if len(sizes) != int(numbers(fields.get("NDims", ""), 1, "NDims")[0]):
        raise ImageError("contradicts itself", found=f"NDims {fields['NDims']}, DimSize {fields['DimSize']}")
    shape = three_sizes(sizes)
    voxels = voxels_from(_content(path, data, offset, fields, shape), shape, _dtype(fields))
    geometry = tuple((key, fields[key]) for key in _GEOMETRY if key in fields)
    return Volume(voxels, _affine(fields, len(sizes)), MetaHeader(tuple(sizes), geometry))


def _fields(data: bytes) -> tuple[dict[str, str], int]:
    """Return the header's fields under their first names and where the voxels begin."""
    match = re.search(rb"^ElementDataFile *= *[^\r\n]*\r?\n?", data[:_MAX_HEADER], re.MULTILINE)
    if match is None:
        raise ImageError("is not a readable MetaImage file", found="no ElementDataFile in its header")
    fields = {}
    for line in data[: match.end()].decode("latin-1").splitlines():
        key, equals, value = line.partition("=")
        if equals:
            fields[_SAME_AS.get(key.strip(), key.strip())] = value.strip()
    if "ElementSpacing" not in fields and "ElementSize" in fields:
        fields["ElementSpacing"] = fields["ElementSize"]
    return fields, match.end()


def _dtype(fields: dict[str, str]) -> np.dtype[Any]:
    name = fields.get("ElementType", "")
    if name not in _TYPES:
        raise ImageError("has an ElementType that is not read", found=repr(name), expected=", ".join(_TYPES))
    if fields.get("ElementNumberOfChannels", "1") != "1":
        raise ImageError(
            "holds several channels",
            found=f"ElementNumberOfChannels {fields['ElementNumberOfChannels']}",
            expected="one file a channel (_0000, _0001)",
        )
    return np.dtype(_TYPES[name]).newbyteorder(">" if _says(fields, "BinaryDataByteOrderMSB") else "<")


def _says(fields: dict[str, str], key: str) -> bool:
    text = fields.get(key, "False").lower()
    if text not in ("true", "false", "1", "0"):
        raise ImageError(f"has a damaged {key} in its header", found=repr(text), expected="True or False")
    return text in ("true", "1")


def _content(path: Path, data: bytes, offset: int, fields: dict[str, str], shape: tuple[int, int, int]) -> Any:
    """Return the voxels' bytes, inflated and skipped to; checked to be neither fewer nor (inflated) more."""
    needed = needed_bytes(shape, _dtype(fields))
    if fields.get("BinaryData", "True").lower() in ("false", "0"):
        raise ImageError("holds its voxels as text", expected="BinaryData = True", hint="Save it anew, in binary form")
    packed = memoryview(data)[offset:]
    if (beside := _data_path(path, fields)) is not None:
        packed = memoryview(files.read_bytes(beside))
    skip = int(numbers(fields.get("HeaderSize", "0"), 1, "HeaderSize")[0])
    if _says(fields, "CompressedData"):
        return _inflate(packed, needed)
    return packed[len(packed) - needed if skip == -1 and len(packed) > needed else max(skip, 0) :]


def _data_path(path: Path, fields: dict[str, str]) -> Path | None:
    """Return the detached file, a name in the header's own folder; None for voxels that follow the header."""
    name = fields["ElementDataFile"]
    if name.upper() == "LOCAL":
        return None
    if name.upper().startswith("LIST") or "%" in name:
        raise ImageError("is split over several files", found=name[:100], hint="Save it as one .mha file")
    if not name.isprintable() or not name or Path(name).name != name:
        raise ImageError("names voxels outside its own folder", found=name[:100], expected="a file's name alone")
    return path.with_name(name)


def _inflate(packed: memoryview, needed: int) -> bytes | memoryview:
    if is_gzip(bytes(packed[:2])):
        return gunzip(bytes(packed), limit=needed)
    inflater = zlib.decompressobj()
    try:
        content = inflater.decompress(packed, needed + 1)
    except zlib.error as error:
        raise ImageError("holds damaged compressed voxels", found=str(error), hint="Copy it again") from error
    if len(content) > needed:
        raise ImageError("inflates to more bytes than its header allows", expected=f"at most {needed}")
    if not inflater.eof:
        found = f"{len(content)} of {needed} bytes before its end"
        raise ImageError("holds truncated compressed voxels", found=found, hint="Copy it again")
    return content


def _affine(fields: dict[str, str], axes: int) -> Affine:
    spacing = numbers(fields.get("ElementSpacing", " ".join("1" * axes)), axes, "ElementSpacing")
    origin = numbers(fields.get("Offset", " ".join("0" * axes)), axes, "Offset")
    identity = " ".join(map(str, np.eye(axes).ravel().tolist()))
    matrix = numbers(fields.get("TransformMatrix", identity), axes * axes, "TransformMatrix")
    return affine_from_lps(np.array(matrix).reshape(axes, axes).T, spacing, origin)


def encode(path: Path, voxels: NDArray[Any], affine: Affine, header: Any) -> Files:
    """Return a compressed .mha, or an .mhd and its .zraw, with these voxels [i, j, k].

    The geometry of a MetaImage's header is written as it was read, to the last digit.
    """
    own = header if isinstance(header, MetaHeader) else _new_header(voxels.shape, affine)
    packed = zlib.compress(np.asfortranarray(voxels).tobytes(order="F"), level=2)
    beside = path.with_name(f"{path.name.removesuffix('.mhd')}.zraw") if path.name.endswith(".mhd") else None
    names = {np.dtype(code): name for name, code in reversed(_TYPES.items())}
    lines = {
        "ObjectType": "Image",
        "NDims": len(own.sizes),
        "BinaryData": "True",
        "BinaryDataByteOrderMSB": "False",
        "CompressedData": "True",
        "CompressedDataSize": len(packed),
        **dict(own.geometry),
        "DimSize": " ".join(map(str, own.sizes)),
        "ElementType": names[voxels.dtype],
        "ElementDataFile": "LOCAL" if beside is None else beside.name,
    }
    text = "".join(f"{key} = {value}\n" for key, value in lines.items()).encode("latin-1")
    return {path: text + packed} if beside is None else {beside: packed, path: text}


def _new_header(shape: tuple[int, ...], affine: Affine) -> MetaHeader:
    directions, spacing, origin = lps_geometry(affine)
    written = {"TransformMatrix": directions.T.ravel().tolist(), "Offset": origin, "ElementSpacing": spacing}
    return MetaHeader(shape, tuple((key, " ".join(map(repr, value))) for key, value in written.items()))


def beside(path: Path, data: bytes) -> bytes:
    """Return the bytes of the detached file, if there is one."""
    found = _data_path(path, _fields(data)[0])
    return b"" if found is None else files.read_bytes(found)


METAIMAGE = Format((".mha", ".mhd"), read, encode, beside)
