"""Images and label maps: files in, canonical arrays out, and back onto the file's exact grid."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from siccs_net.errors import DataError, GeometryError, ImageError
from siccs_net.geometry import Grid, Orientation, canonical_affine
from siccs_net.io import files
from siccs_net.io.formats import ENDINGS, digest_of, format_of, image_sha256
from siccs_net.io.held import read_once
from siccs_net.io.nifti import NIFTI, stated_voxels
from siccs_net.io.volume import Format, Volume, check_finite
from siccs_net.parallel import run_parts

__all__ = [
    "ENDINGS",
    "Image",
    "Segmentation",
    "check_same_grid",
    "count_voxels",
    "estimate_voxels",
    "read_case",
    "read_image",
    "read_label",
    "write_image",
    "write_label",
]
TOLERANCE_MM = 1e-2
"""Corner voxels of grids that count as equal may lie this far apart: headers store rounded numbers."""
_WORTH_THREADS = 4 << 20
"""Bytes of a file below which starting threads takes longer than what they would do beside its inflating."""


@dataclass(frozen=True)
class Image:
    """One scan: `array` [c, z, y, x] in canonical orientation, its grid, and how its file was laid out.

    `header` is what the first file's format needs to write a mask beside it (None for an array given in memory);
    `sha256` has one entry a file.
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
        check_finite(channels)
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


def read_image(paths: Sequence[Path], *, assume_orientation: str | None = None, channels: int | None = None) -> Image:
    """Read one scan from one file a channel, or from one that holds several (a colour picture).

    Returns an Image with integer arrays as stored and floating ones as float32. `assume_orientation` (such as
    "LPS" or "RAS") is used only for a NIfTI file that has neither sform nor qform. Raises MissingPathError,
    UnavailableError, ImageError or GeometryError naming the file: a format that is not read, damaged, not finite,
    more than three axes, no orientation, another grid than the first channel, other than `channels` channels.
    """
    parts = [_read(Path(path), assume_orientation) for path in paths]
    first = parts[0]
    for path, part in zip(paths[1:], parts[1:], strict=True):
        check_same_grid(part.orientation, first.orientation, path=path, other="the first channel")
    array = first.array if len(parts) == 1 else np.concatenate([part.array for part in parts])
    if channels is not None and len(array) != channels:
        raise ImageError(
            "has another number of channels than its dataset.json or model",
            path=paths[0],
            found=len(array),
            expected=channels,
        )
    return Image(array, first.orientation, first.header, tuple(part.sha256[0] for part in parts))


def read_label(path: Path, *, assume_orientation: str | None = None) -> Image:
    """Read a label map as an Image of one integer channel.

    Values stored as floating point are accepted when each lies within 1e-3 of an integer; otherwise ImageError
    says how many do not and shows one.
    """
    image = _read(path, assume_orientation)
    if len(image.array) != 1:
        raise ImageError("a label map must have one channel", path=path, found=f"{len(image.array)}, such as RGB")
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


def read_case(images: Sequence[Path], label: Path | None, *, channels: int | None = None) -> tuple[Image, Image]:
    """Read one scan and its label map, at a time where processors are spare; inside `cases_held` once for two calls.

    Raises the readers' errors, GeometryError for a label map on another grid, DataError for a case without one.
    """
    if label is None:
        raise DataError("the case has no label", path=images[0])
    return read_once([*images, label], channels, lambda: _read_case(images, label, channels))


def _read_case(images: Sequence[Path], label: Path, channels: int | None) -> tuple[Image, Image]:
    readers = (lambda: read_image(images, channels=channels), lambda: read_label(label))
    large = sum(path.stat().st_size for path in images if path.is_file()) >= _WORTH_THREADS
    image, segmentation = run_parts(_call, readers) if large else map(_call, readers)
    check_same_grid(segmentation.orientation, image.orientation, path=label, other="its image")
    return image, segmentation


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


def _read(path: Path, assume_orientation: str | None) -> Image:
    chosen = format_of(path)
    data = files.read_buffer(path) if chosen.any_buffer else files.read_bytes(path)
    try:
        volume, digest = _read_and_hash(chosen, path, data, assume_orientation)
        del data
        check_finite(volume.voxels)
        shape = (volume.voxels.shape[1], volume.voxels.shape[2], volume.voxels.shape[3])
        orientation = Orientation.of(shape, volume.affine)
    except (ImageError, GeometryError) as error:
        place = path if error.path is None else error.path
        raise type(error)(
            error.message, path=place, found=error.found, expected=error.expected, hint=error.hint
        ) from error
    return Image(_canonical(volume, orientation), orientation, volume.header, (digest,))


def _read_and_hash(
    chosen: Format, path: Path, data: bytes | memoryview, assume_orientation: str | None
) -> tuple[Volume, str]:
    """Return a file's content and its hash; both are made of a large file at a time where processors are spare."""

    def read() -> Volume:
        return chosen.read(path, data, assume_orientation)

    def digest() -> str:
        return digest_of(chosen, path, data)

    if len(data) < _WORTH_THREADS:
        return read(), digest()
    volume, sha256 = run_parts(_call, (read, digest))
    return volume, sha256


def _call(step: Callable[[], Any]) -> Any:
    return step()


def _canonical(volume: Volume, orientation: Orientation) -> NDArray[Any]:
    channels = [orientation.to_canonical(channel) for channel in volume.voxels]
    return channels[0][None] if len(channels) == 1 else np.stack(channels)


def count_voxels(path: Path) -> int:
    """Return the number of voxels of one channel; of NIfTI only the header is read. Raises the reader's errors."""
    if format_of(path) is NIFTI:
        return stated_voxels(path)
    return int(_read(path, None).array[0].size)


def estimate_voxels(path: Path) -> int:
    """Return the number of voxels of one channel without reading them: of NIfTI its header's, else one a byte.

    Voxels of two bytes deflate to about half. Raises the header reader's errors.
    """
    return stated_voxels(path) if format_of(path) is NIFTI else path.stat().st_size


def write_label(path: Path, labels: NDArray[Any], orientation: Orientation, header: Any = None) -> str:
    """Write a canonical label map [z, y, x] onto its scan's native grid; return the file's SHA-256.

    The format follows from the path's ending. A `header` of the same format keeps its geometry to the last digit
    (NIfTI: sform and qform codes too). Written atomically and verified. Raises UnavailableError, or ImageError for
    labels that the format cannot hold.
    """
    return _write(path, labels, orientation, header)


def write_image(path: Path, array: NDArray[Any], orientation: Orientation, header: Any = None) -> str:
    """Write one canonical channel [z, y, x] onto the native grid; return the file's SHA-256."""
    return _write(path, array, orientation, header)


def _write(path: Path, array: NDArray[Any], orientation: Orientation, header: Any) -> str:
    contents = format_of(path).encode(path, orientation.to_native(array), orientation.native_affine, header)
    digests = [files.write_bytes(place, content) for place, content in contents.items()]
    return digests[0] if len(digests) == 1 else image_sha256(path)
