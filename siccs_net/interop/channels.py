"""A four-axis NIfTI file taken apart into one file a channel, byte for byte: voxels, scaling, affines and all."""

from __future__ import annotations

import math
from typing import Any

import nibabel as nib
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError

from siccs_net.errors import ImageError
from siccs_net.io.gunzip import MAX_DECODED_BYTES, gunzip, gunzip_start, is_gzip

_LARGEST_HEADER = 540
_SLACK_BYTES = 1 << 20
"""A file may hold this much more than its header asks for."""


def split_channels(data: bytes) -> list[bytes]:
    """Return one uncompressed NIfTI file a channel from a file whose fourth axis is the channel.

    In a NIfTI file each channel's voxels follow one another, so a channel's file is the same header with three axes
    and a slice of the same bytes: data type, byte order, scaling, sform, qform and extensions stay as they are.
    Raises ImageError for a file that is damaged, truncated or has other axes.
    """
    start = gunzip_start(data, _LARGEST_HEADER) if is_gzip(data) else data[:_LARGEST_HEADER]
    header = _header(start)
    shape, offset = tuple(map(int, header.get_data_shape())), int(header["vox_offset"])
    if len(shape) < 4 or min(shape) < 1 or math.prod(shape[3:]) != max(shape[3:]):
        raise ImageError("must have four axes", found=f"shape {shape}", expected="(x, y, z, channels)")
    if offset < header.sizeof_hdr:
        raise ImageError("is not a readable NIfTI file", found=f"voxels at byte {offset}, inside its header")
    voxel_bytes = int(header.get_data_dtype().itemsize)
    size = math.prod(shape[:3]) * voxel_bytes
    needed = offset + size * max(shape[3:])
    content = gunzip(data, limit=min(needed + _SLACK_BYTES, MAX_DECODED_BYTES)) if is_gzip(data) else data
    if len(content) < needed:
        raise ImageError("is truncated", found=f"{len(content)} bytes", expected=f"{needed} for shape {shape}")
    head = _three_axes(header) + content[header.sizeof_hdr : offset]
    return [head + content[begin : begin + size] for begin in range(offset, needed, size)]


def _header(start: bytes) -> Any:
    if start[344:348] == b"n+1\0":
        kind = nib.Nifti1Header
    elif start[4:8] == b"n+2\0" and len(start) == _LARGEST_HEADER:
        kind = nib.Nifti2Header
    else:
        raise ImageError("is not a NIfTI file", found="no NIfTI magic string in its header")
    try:
        header = kind(start[: kind.sizeof_hdr], check=False)
        header.get_data_dtype()
    except (HeaderDataError, ImageFileError, ValueError, KeyError) as error:
        raise ImageError("is not a readable NIfTI file", found=repr(error)) from error
    return header


def _three_axes(header: Any) -> bytes:
    one = header.copy()
    sizes = one["dim"].copy()
    sizes[0], sizes[4:] = 3, 1
    one["dim"] = sizes
    return bytes(one.binaryblock)
