"""Images and label maps: files in, canonical arrays out, and back onto the file's exact grid."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

from siccs_net.errors import GeometryError, ImageError, UnavailableError
from siccs_net.geometry import Grid, Orientation, canonical_affine
from siccs_net.io import files
from siccs_net.io.gunzip import MAX_DECODED_BYTES, gunzip, gunzip_start, gzip, is_gzip

ENDINGS = (".nii.gz", ".nii")
_SLACK_BYTES = 1 << 20
# What nibabel raises for a header it cannot read; a data type code it does not know is a KeyError.
_UNREADABLE = (HeaderDataError, ImageFileError, ValueError, OSError, OverflowError, KeyError)
"""A file may hold this much more than its header asks for."""
TOLERANCE_MM = 1e-2
"""Corner voxels of grids that count as equal may lie this far apart: headers store rounded numbers."""


@dataclass(frozen=True)
class Image:
    """One scan: `array` [c, z, y, x] in canonical orientation, its grid, and how its file was laid out.

    `header` is the first file's NIfTI header (None for an array given in memory); `sha256` has one entry a file.
    """

    array: NDArray[Any]
    orientation: Orientation
    header: Any = None
    sha256: tuple[str, ...] = ()

    @property
    def grid(self) -> Grid:
        """The canonical grid of the array."""
        return self.orientation.grid

    @classmethod
    def from_array(
        cls, array: NDArray[Any], grid: Grid | None = None, *, spacing_mm: Sequence[float] | None = None
    ) -> Image:
        """Wrap a canonical array [z, y, x] or [c, z, y, x] with its grid, or with a spacing (z, y, x) in mm.

        Raises ImageError for another number of axes or values that are not finite, GeometryError without a grid.
        """
        channels = array[None] if array.ndim == 3 else array
        if channels.ndim != 4:
            raise ImageError("an image array has the axes [z, y, x] or [c, z, y, x]", found=f"shape {array.shape}")
        _check_finite(channels)
        if grid is None and spacing_mm is None:
            raise GeometryError("an array needs grid= or spacing_mm=", hint="Give spacing_mm=(z, y, x) in millimetres")
        if grid is None:
            z, y, x = (float(number) for number in spacing_mm or ())
            grid = Grid((channels.shape[1], channels.shape[2], channels.shape[3]), canonical_affine((z, y, x)))
        if grid.shape != channels.shape[1:]:
            raise GeometryError("the grid is not the array's", found=f"grid {grid.shape}, array {channels.shape[1:]}")
        z, y, x = grid.shape
        orientation = Orientation.of((x, y, z), grid.affine)
        if orientation.axes != (0, 1, 2) or any(orientation.flips):
            raise GeometryError(
                "an array in memory must be in canonical LPS orientation", hint="Save it as NIfTI instead"
            )
        return cls(channels, orientation)


@dataclass(frozen=True)
class Segmentation:
    """A label map [1, z, y, x] on the canonical version of its scan's grid, with the meaning of its values."""

    array: NDArray[Any]
    orientation: Orientation
    labels: Mapping[str, Sequence[int]]
    header: Any = None

    @property
    def grid(self) -> Grid:
        """The canonical grid of the array."""
        return self.orientation.grid

    def volumes_ml(self) -> dict[str, float]:
        """Return the volume of every label and group in millilitres."""
        present = {value for values in self.labels.values() for value in values}
        counts = {value: int(np.count_nonzero(self.array == value)) for value in present}
        volume = self.grid.voxel_volume_mm3 / 1000
        return {name: sum(counts[value] for value in values) * volume for name, values in self.labels.items()}

    def save(self, path: Path | str) -> str:
        """Write the label map on its scan's exact native grid; return the file's SHA-256."""
        return write_label(Path(path), self.array[0], self.orientation, self.header)


def read_image(paths: Sequence[Path], *, assume_orientation: str | None = None) -> Image:
    """Read one scan from one file a channel.

    Returns an Image with integer arrays as stored and floating ones as float32. `assume_orientation` (such as
    "LPS" or "RAS") is used only for a file that has neither sform nor qform. Raises MissingPathError, ImageError
    or GeometryError naming the file: damaged, not finite, more than three axes, no orientation, another grid than
    the first channel.
    """
    first = _read_nifti(paths[0], assume_orientation)
    channels = [first]
    for path in paths[1:]:
        channel = _read_nifti(path, assume_orientation)
        check_same_grid(channel.orientation, first.orientation, path=path, other="the first channel")
        channels.append(channel)
    array = first.array if len(channels) == 1 else np.concatenate([channel.array for channel in channels])
    return Image(array, first.orientation, first.header, tuple(channel.sha256[0] for channel in channels))


def read_label(path: Path, *, assume_orientation: str | None = None) -> Image:
    """Read a label map as an Image of one integer channel.

    Values stored as floating point are accepted when each lies within 1e-3 of an integer; otherwise ImageError
    says how many do not and shows one.
    """
    image = _read_nifti(path, assume_orientation)
    if np.issubdtype(image.array.dtype, np.integer):
        return image
    rounded = np.rint(image.array)
    wrong = np.abs(image.array - rounded) > 1e-3
    if wrong.any():
        raise ImageError(
            "a label map must hold whole numbers",
            path=path,
            found=f"{int(wrong.sum())} voxels such as {float(image.array[wrong][0]):g}",
            hint="It may have been resampled with linear interpolation; use nearest neighbour",
        )
    return Image(rounded.astype(np.int32), image.orientation, image.header, image.sha256)


def check_same_grid(grid: Orientation, reference: Orientation, *, path: Path | None, other: str) -> None:
    """Raise GeometryError unless both files have the same shape, voxel order and place in space (0.01 mm)."""
    if grid.native_shape != reference.native_shape:
        raise GeometryError(
            f"has another shape than {other}",
            path=path,
            found=f"{grid.native_shape} voxels (x, y, z)",
            expected=str(reference.native_shape),
        )
    distance = Grid(grid.native_shape[::-1], grid.native_affine).corner_distance_mm(
        Grid(reference.native_shape[::-1], reference.native_affine)
    )
    if distance > TOLERANCE_MM:
        raise GeometryError(
            f"lies elsewhere in space than {other}",
            path=path,
            found=f"corner voxels {distance:.3f} mm apart",
            expected=f"at most {TOLERANCE_MM} mm",
            hint="Compare the affines: a flipped axis, another spacing or another origin",
        )


def _read_nifti(path: Path, assume_orientation: str | None) -> Image:
    if not path.name.endswith(ENDINGS):
        raise UnavailableError("this file format is not read by this version", path=path, expected=" or ".join(ENDINGS))
    data = files.read_bytes(path)
    digest = files.sha256(data)
    try:
        native, header = _decode(data)
        del data
        affine = _affine(header, native.shape, assume_orientation)
        _check_finite(native)
        shape = (native.shape[0], native.shape[1], native.shape[2])
        orientation = Orientation.of(shape, affine)
    except (ImageError, GeometryError) as error:
        raise type(error)(
            error.message, path=path, found=error.found, expected=error.expected, hint=error.hint
        ) from error
    return Image(orientation.to_canonical(native)[None], orientation, header, (digest,))


def _decode(data: bytes) -> tuple[NDArray[Any], Any]:
    """Return the voxels [i, j, k] in file order and the header."""
    content = _inflate(data) if is_gzip(data) else data
    kind = _nifti_class(content)
    try:
        image = kind.from_bytes(content)
        _check_size(image, content)
        voxels = np.asanyarray(image.dataobj)
    except _UNREADABLE as error:
        raise ImageError("is not a readable NIfTI file", found=repr(error)) from error
    return _three_axes(_real_numbers(voxels)), image.header


def _inflate(data: bytes) -> bytes:
    """Inflate no more than the file's own header asks for, so that a small file cannot fill the memory."""
    start = gunzip_start(data, nib.Nifti2Header.sizeof_hdr)
    limit = _SLACK_BYTES
    if len(start) >= nib.Nifti1Header.sizeof_hdr:
        kind = _nifti_class(start).header_class
        try:
            header = kind(start[: kind.sizeof_hdr], check=False)
            limit += _needed_bytes(header.get_data_shape(), header.get_data_dtype(), int(header["vox_offset"]))
        except _UNREADABLE as error:
            raise ImageError("is not a readable NIfTI file", found=repr(error)) from error
    return gunzip(data, limit=min(limit, MAX_DECODED_BYTES))


def _needed_bytes(shape: Sequence[int], dtype: np.dtype[Any], offset: int) -> int:
    if min(shape, default=0) < 1:
        raise ImageError("has no voxels", found=f"shape {tuple(shape)}")
    return max(offset, 0) + math.prod(map(int, shape)) * dtype.itemsize


def _nifti_class(content: bytes) -> Any:
    if len(content) < 348:
        raise ImageError("is too short for a NIfTI file", found=f"{len(content)} bytes", expected="at least 348")
    magic = (content[344:348], content[4:8])
    if magic[0] == b"n+1\0":
        return nib.Nifti1Image
    if magic[1] == b"n+2\0":
        return nib.Nifti2Image
    raise ImageError("is not a NIfTI file", found="no NIfTI magic string in its header")


def _check_size(image: Any, content: bytes) -> None:
    needed = _needed_bytes(image.shape, image.get_data_dtype(), int(image.dataobj.offset))
    if len(content) < needed:
        raise ImageError("is truncated", found=f"{len(content)} bytes", expected=f"{needed} for shape {image.shape}")


def _real_numbers(voxels: NDArray[Any]) -> NDArray[Any]:
    if voxels.dtype.kind in "iu":
        return voxels.astype(voxels.dtype.newbyteorder("="), copy=False)
    if voxels.dtype.kind == "f":
        with np.errstate(over="ignore"):
            return voxels.astype(np.float32, copy=False)
    raise ImageError("has a data type that is not a real number", found=str(voxels.dtype))


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


def _check_finite(array: NDArray[Any]) -> None:
    if array.dtype.kind != "f" or np.isfinite(array.sum(dtype=np.float64)):
        return
    wrong = int(array.size - np.count_nonzero(np.isfinite(array)))
    if wrong:
        raise ImageError("holds values that are not finite (NaN or infinite)", found=f"{wrong} of {array.size} voxels")


def write_label(path: Path, labels: NDArray[Any], orientation: Orientation, header: Any = None) -> str:
    """Write a canonical label map [z, y, x] onto its scan's native grid; return the file's SHA-256.

    The affine, voxel order and sform/qform codes of `header` are kept exactly. Written atomically and verified.
    """
    return _write(path, labels, orientation, header)


def write_image(path: Path, array: NDArray[Any], orientation: Orientation, header: Any = None) -> str:
    """Write one canonical channel [z, y, x] onto the native grid; return the file's SHA-256."""
    return _write(path, array, orientation, header)


def _write(path: Path, array: NDArray[Any], orientation: Orientation, header: Any) -> str:
    native = _as_in_file(np.asfortranarray(orientation.to_native(array)), header)
    content = _nifti_bytes(native, orientation, header)
    return files.write_bytes(path, gzip(content) if path.name.endswith(".gz") else content)


def _as_in_file(native: NDArray[Any], header: Any) -> NDArray[Any]:
    """Give the array the header's own axes back: (8, 9, 10, 1) and (8, 9) are read as three axes."""
    shape = native.shape if header is None else tuple(map(int, header.get_data_shape()))
    return native.reshape(shape, order="F") if math.prod(shape) == native.size else native


def _nifti_bytes(native: NDArray[Any], orientation: Orientation, header: Any) -> bytes:
    if header is None:
        image = nib.Nifti1Image(native, orientation.native_affine)
        image.set_qform(orientation.native_affine, code=1)
        image.set_sform(orientation.native_affine, code=1)
    else:
        kind = nib.Nifti2Image if int(header["sizeof_hdr"]) == 540 else nib.Nifti1Image
        image = kind(native, None, header=header.copy())
        if int(header["sform_code"]) == 0 and int(header["qform_code"]) == 0:
            image.set_sform(orientation.native_affine, code=1)
    image.set_data_dtype(native.dtype)
    image.header.set_slope_inter(1, 0)
    image.header["cal_min"] = image.header["cal_max"] = 0
    stream = io.BytesIO()
    image.file_map["image"].fileobj = stream
    image.to_file_map()
    return stream.getvalue()
