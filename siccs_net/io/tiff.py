"""TIFF (.tif, .tiff): 2-D grey or RGB pictures, and stacks of slices [z, y, x] with a spacing in a JSON file beside.

nnU-Net's Tiff3DIO looks for {"spacing": [z, y, x]} in CASE.json beside CASE_0000.tif or a label map CASE.tif.
"""

from __future__ import annotations

import io
import json
import logging
import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from siccs_net.errors import GeometryError, ImageError, MissingPathError
from siccs_net.geometry import Affine, Grid, Spacing, canonical_affine
from siccs_net.io import files
from siccs_net.io.picture import to_channels
from siccs_net.io.volume import Files, Format, Volume, needed_bytes, real_numbers

logger = logging.getLogger(__name__)
_MAGICS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_UNPACKED = (1, 8, 32946)
"""Compressions that tifffile reads by itself: none and deflate. Pillow reads LZW, PackBits and others."""
_MOST_INFLATION = 1100


def read(path: Path, data: bytes, assume_orientation: str | None) -> Volume:
    """Return a TIFF's content: [1 or 3, x, y, 1] for a picture, [1, x, y, z] for a stack. Raises ImageError."""
    if data[:4] not in _MAGICS:
        raise ImageError("is not a TIFF file", found=f"{data[:4]!r} at its start")
    array, axes = _decode(data)
    spacing = _spacing(path)
    if axes == "SYX":
        # tifffile stores a stack of three or four slices as planes of colours unless it is told otherwise.
        array, axes = (array, "ZYX") if spacing is not None else (np.moveaxis(array, 0, 2), "YXS")
    if axes in ("YX", "YXS"):
        if axes == "YXS" and array.shape[2] != 3:
            raise ImageError("has an alpha channel", found=f"{array.shape[2]} samples a voxel", expected="1 or 3 (RGB)")
        return Volume(to_channels(array), canonical_affine((1.0, 1.0, 1.0)))
    if array.ndim != 3 or "S" in axes:
        raise ImageError(
            "must have three axes", found=f"shape {array.shape}, axes {axes}", expected="one file a channel (_0000)"
        )
    if spacing is None:
        logger.warning("%s: no %s gives its spacing; 1 mm is taken", path, spacing_path(path).name)
    return Volume(real_numbers(array).transpose(2, 1, 0)[None], canonical_affine(spacing or (1.0, 1.0, 1.0)))


def _decode(data: bytes) -> tuple[NDArray[Any], str]:
    import tifffile

    try:
        with tifffile.TiffFile(io.BytesIO(data)) as content:
            if len(content.series) != 1:
                raise ImageError("holds several images of different kinds", found=f"{len(content.series)} series")
            series = content.series[0]
            if (needed := needed_bytes(series.shape, np.dtype(series.dtype))) > _MOST_INFLATION * len(data):
                raise ImageError("is truncated", found=f"{len(data)} bytes", expected=f"{needed} inflated")
            first = content.pages.first
            if first.photometric == 3:
                raise ImageError("has a palette of colours, whose numbers are no intensities", expected="grey or RGB")
            if first.compression not in _UNPACKED:
                return _decode_frames(data, series.axes)
            return _whole(series.asarray(), series.shape), _named_axes(series.axes)
    except ImageError:
        raise
    except Exception as error:
        raise ImageError("is not a readable TIFF file", found=f"{type(error).__name__}: {error}") from error


def _whole(array: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    if array.shape != tuple(shape):
        raise ImageError("is truncated", found=f"shape {array.shape}", expected=f"{tuple(shape)}")
    return array


def _named_axes(axes: str) -> str:
    """Return the axes with those that a writer did not name (I, Q) or called time or depth as slices."""
    return re.sub(r"^[IQTZC]YX$", "ZYX", axes)


def _decode_frames(data: bytes, axes: str) -> tuple[NDArray[Any], str]:
    from PIL import Image, ImageSequence

    with Image.open(io.BytesIO(data), formats=["TIFF"]) as picture:
        frames = [np.asarray(frame) for frame in ImageSequence.Iterator(picture)]
    return (frames[0] if len(frames) == 1 else np.stack(frames)), _named_axes(axes)


def spacing_path(path: Path) -> Path:
    """Return where the spacing of a stack lies: CASE.json beside CASE_0000.tif or CASE.tif."""
    return path.with_name(f"{re.sub(r'_[0-9]{4}$', '', path.stem)}.json")


def _spacing(path: Path) -> Spacing | None:
    """Return the spacing (z, y, x) in mm from the JSON file beside; None where there is none or it states none."""
    places = dict.fromkeys((path.with_suffix(".json"), spacing_path(path)))
    for place in places:
        try:
            body = json.loads(files.read_bytes(place))
            if not isinstance(body, dict) or body.get("spacing") is None:
                continue
            z, y, x = (float(number) for number in body["spacing"])
        except MissingPathError:
            continue
        except (ValueError, TypeError) as error:
            raise GeometryError(
                "gives no spacing", path=place, found=str(error), expected='{"spacing": [z, y, x]} in mm'
            ) from error
        return z, y, x
    return None


def encode(path: Path, voxels: NDArray[Any], affine: Affine, header: Any) -> Files:
    """Return a deflated TIFF with these labels [x, y, z] and, for a stack, the JSON file with its spacing."""
    import tifffile

    stack = np.ascontiguousarray(voxels.transpose(2, 1, 0))
    flat = stack.shape[0] == 1
    stream = io.BytesIO()
    axes = {"axes": "YX" if flat else "ZYX"}
    tifffile.imwrite(stream, stack[0] if flat else stack, compression="zlib", photometric="minisblack", metadata=axes)
    if flat:
        return {path: stream.getvalue()}
    spacing = Grid((stack.shape[0], stack.shape[1], stack.shape[2]), affine).spacing_mm
    return {path.with_suffix(".json"): (json.dumps({"spacing": spacing}) + "\n").encode(), path: stream.getvalue()}


def beside(path: Path, data: bytes) -> bytes:
    """Return the spacing that lies beside, if there is one: not the whole file, which may say more than that."""
    spacing = _spacing(path)
    return b"" if spacing is None else repr(spacing).encode()


TIFF = Format((".tif", ".tiff"), read, encode, beside, several_channels=True)
