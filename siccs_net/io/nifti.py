"""NIfTI files: damaged ones refused by name, masks written back with the scan's own header."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from nibabel.volumeutils import apply_read_scaling
from numpy.typing import NDArray

from siccs_net.errors import GeometryError, ImageError
from siccs_net.geometry import Affine
from siccs_net.io.gunzip import MAX_DECODED_BYTES, gunzip, gunzip_start, gzip, is_gzip
from siccs_net.io.volume import SLACK_BYTES, Files, Format, Volume, needed_bytes, real_numbers

ENDINGS = (".nii.gz", ".nii")
# What nibabel raises for a header it cannot read; a data type code it does not know is a KeyError.
_UNREADABLE = (HeaderDataError, ImageFileError, ValueError, OSError, OverflowError, KeyError)


def read(path: Path, data: bytes | memoryview, assume_orientation: str | None) -> Volume:
    """Return a NIfTI file's content. Raises ImageError or GeometryError."""
    content = _inflate(data) if is_gzip(data) else memoryview(data)
    try:
        header = _header(content)
        shape = tuple(map(int, header.get_data_shape()))
        _check_size(header, shape, content)
        voxels = _three_axes(_scaled(header, shape, content))
        affine = _affine(header, voxels.shape, assume_orientation)
    except _UNREADABLE as error:
        raise ImageError("is not a readable NIfTI file", found=repr(error)) from error
    return Volume(voxels[None], affine, header)


def stated_voxels(path: Path) -> int:
    """Return how many voxels the first three axes of a file's header hold. Raises ImageError."""
    try:
        return math.prod(nib.load(path).shape[:3])
    except _UNREADABLE as error:
        raise ImageError("is not a readable NIfTI file", path=path, found=repr(error)) from error


def encode(path: Path, voxels: NDArray[Any], affine: Affine, header: Any) -> Files:
    """Return a NIfTI file with these voxels [i, j, k]; a NIfTI header's affine, order and codes are kept exactly."""
    own = header if isinstance(header, nib.Nifti1Header) else None
    content = _nifti_bytes(_as_in_file(np.asfortranarray(voxels), own), affine, own)
    return {path: gzip(content) if path.name.endswith(".gz") else content}


def _header(content: memoryview) -> Any:
    """Return the checked header with its extensions. Of nibabel no more is used: its images copy voxels and headers."""
    kind = _nifti_class(content).header_class
    offset = int(kind(bytes(content[: kind.sizeof_hdr]), check=False)["vox_offset"])
    return kind.from_fileobj(io.BytesIO(content[: max(offset, 0)] or content))


def _scaled(header: Any, shape: tuple[int, ...], content: memoryview) -> NDArray[Any]:
    """Return the voxels as real numbers, with the header's slope and intercept applied.

    They are scaled in float64 as nibabel does, but plane by plane.
    """
    voxels = np.ndarray(shape, header.get_data_dtype(), content, int(header.get_data_offset()), order="F")
    slope, intercept = header.get_slope_inter()
    if voxels.dtype.kind not in "iuf" or (slope in (None, 1) and intercept in (None, 0)):
        return real_numbers(voxels)
    scaled = np.empty(voxels.shape, np.float32, order="F")
    for plane in range(voxels.shape[-1]):
        scaled[..., plane] = real_numbers(apply_read_scaling(voxels[..., plane], slope, intercept))
    return scaled


def _inflate(data: bytes | memoryview) -> memoryview:
    """Inflate no more than the file's own header asks for, so that a small file cannot fill the memory."""
    start = memoryview(gunzip_start(data, nib.Nifti2Header.sizeof_hdr))
    limit = SLACK_BYTES
    if len(start) >= nib.Nifti1Header.sizeof_hdr:
        kind = _nifti_class(start).header_class
        try:
            header = kind(bytes(start[: kind.sizeof_hdr]), check=False)
            limit += needed_bytes(header.get_data_shape(), header.get_data_dtype(), int(header["vox_offset"]))
        except _UNREADABLE as error:
            raise ImageError("is not a readable NIfTI file", found=repr(error)) from error
    return gunzip(data, limit=min(limit, MAX_DECODED_BYTES))


def _nifti_class(content: memoryview) -> Any:
    if len(content) < 348:
        raise ImageError("is too short for a NIfTI file", found=f"{len(content)} bytes", expected="at least 348")
    magic = (bytes(content[344:348]), bytes(content[4:8]))
    if magic[0] == b"n+1\0":
        return nib.Nifti1Image
    if magic[1] == b"n+2\0":
        return nib.Nifti2Image
    raise ImageError("is not a NIfTI file", found="no NIfTI magic string in its header")


def _check_size(header: Any, shape: tuple[int, ...], content: memoryview) -> None:
    needed = needed_bytes(shape, header.get_data_dtype(), int(header.get_data_offset()))
    if len(content) < needed:
        raise ImageError("is truncated", found=f"{len(content)} bytes", expected=f"{needed} for shape {shape}")


def _three_axes(voxels: NDArray[Any]) -> NDArray[Any]:
    shape = voxels.shape
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) == 2:
        shape = (*shape, 1)
    if len(shape) != 3:
        raise ImageError(
            "must have three axes",
            found=f"shape {voxels.shape}",
            expected="one file a channel (_0000, _0001)",
        )
    return voxels.reshape(shape)


def _affine(header: Any, shape: tuple[int, ...], assume_orientation: str | None) -> NDArray[np.float64]:
    """The contract's rule: sform if its code is above 0, else qform; with neither, only what the user says."""
    sform, sform_code = header.get_sform(coded=True)
    if sform_code > 0:
        return np.asarray(sform, dtype=np.float64)
    qform, qform_code = header.get_qform(coded=True)
    if qform_code > 0:
        return np.asarray(qform, dtype=np.float64)
    if assume_orientation is None:
        raise GeometryError(
            "has no orientation: its sform and qform codes are both 0",
            hint="If you know it, say so with --assume-orientation, such as LPS or RAS",
        )
    return _assumed_affine(header, shape, assume_orientation)


def _assumed_affine(header: Any, shape: tuple[int, ...], axes: str) -> NDArray[np.float64]:
    try:
        wanted = nib.orientations.axcodes2ornt(tuple(axes.upper()))
    except ValueError:
        wanted = np.full((3, 2), np.nan)
    if wanted.shape != (3, 2) or len(set(wanted[:, 0])) != 3 or not np.all(np.isfinite(wanted)):
        raise GeometryError("not an orientation", found=repr(axes), expected="three letters such as LPS or RAS")
    affine = np.zeros((4, 4))
    affine[3, 3] = 1
    zooms = [*header.get_zooms()[:3], 1.0, 1.0][:3]
    for axis, (ras, sign) in enumerate(wanted):
        affine[int(ras), axis] = sign * float(zooms[axis])
    return affine


def _as_in_file(native: NDArray[Any], header: Any) -> NDArray[Any]:
    """Give the array the header's own axes back: (8, 9, 10, 1) and (8, 9) are read as three axes."""
    shape = native.shape if header is None else tuple(map(int, header.get_data_shape()))
    return native.reshape(shape, order="F") if math.prod(shape) == native.size else native


def _nifti_bytes(native: NDArray[Any], affine: Affine, header: Any) -> bytes:
    if header is None:
        image = nib.Nifti1Image(native, affine)
        image.set_qform(affine, code=1)
        image.set_sform(affine, code=1)
    else:
        kind = nib.Nifti2Image if int(header["sizeof_hdr"]) == 540 else nib.Nifti1Image
        image = kind(native, None, header=header.copy())
        if int(header["sform_code"]) == 0 and int(header["qform_code"]) == 0:
            image.set_sform(affine, code=1)
    image.set_data_dtype(native.dtype)
    image.header.set_slope_inter(1, 0)
    image.header["cal_min"] = image.header["cal_max"] = 0
    stream = io.BytesIO()
    image.file_map["image"].fileobj = stream
    image.to_file_map()
    return stream.getvalue()


NIFTI = Format(ENDINGS, read, encode, any_buffer=True)
