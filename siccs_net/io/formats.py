"""Which format reads a file: by its ending; plug-in readers come beside the built-in ones and before them."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from siccs_net.errors import ImageError, SiccsError, UnavailableError, UsageError
from siccs_net.geometry import Affine
from siccs_net.io import files
from siccs_net.io.metaimage import METAIMAGE
from siccs_net.io.nifti import NIFTI
from siccs_net.io.nrrd import NRRD
from siccs_net.io.picture import PICTURE
from siccs_net.io.tiff import TIFF
from siccs_net.io.volume import Files, Format, ImageReader, Volume, nothing_beside
from siccs_net.plugins import READERS, find_class, registered

logger = logging.getLogger(__name__)
_BUILT_IN = (NIFTI, NRRD, METAIMAGE, PICTURE, TIFF)
ENDINGS = tuple(ending for built_in in _BUILT_IN for ending in built_in.endings)
"""Endings of the files that are read without a plug-in."""
_OTHER_ENDINGS = (
    *(*ENDINGS, ".nii.bz2", ".nii.xz", ".nii.zst", ".nii.zip", ".hdr", ".img", ".gipl"),
    *(".mgh", ".mgz", ".dcm", ".dicom", ".ima", ".jpg", ".jpeg", ".gif", ".webp"),
)
NNUNET_READERS = (
    "SimpleITKIO",
    "SimpleITKIOWithReorient",
    "NibabelIO",
    "NibabelIOWithReorient",
    "NaturalImage2DIO",
    "Tiff3DIO",
)
"""nnU-Net's names of readers: here the ending and the file itself decide, and every file is reoriented."""
_plugged: dict[str, Format] = {}
_loaded: set[object] = set()


def endings() -> tuple[str, ...]:
    """Return the endings of all files that can be read: the built-in ones and those of plug-ins used so far."""
    return (*ENDINGS, *(ending for ending in _plugged if ending not in ENDINGS))


def use_installed_readers() -> None:
    """Use every reader registered under the entry-point group `siccs_net.readers`. Raises UsageError."""
    for name in registered(READERS):
        use_reader(name)


def use_reader(reader: str | type) -> None:
    """Read and write the endings of a plug-in reader with it, in this process, also where a built-in one has them.

    `reader` is a subclass of ImageReader, a registered name, `package.module:Class`, `path/file.py:Class`, or one of
    nnU-Net's names, which changes nothing. Raises UsageError for a name that is not found or a class that breaks the
    contract.
    """
    if reader in NNUNET_READERS or reader in _loaded:
        return
    found = find_class(reader, READERS)
    for ending, plug_in in _checked(found).items():
        if ending in ENDINGS:
            logger.info("files ending in %s are read by %s", ending, found.__qualname__)
        _plugged[ending] = plug_in
    _loaded.add(reader)


def use_reader_of_dataset(name: str | None) -> None:
    """Use the reader that a dataset.json names; a file of code is refused, as data never name one to run."""
    if name is None or name in NNUNET_READERS:
        return
    if ":" not in name and name not in registered(READERS):
        raise UsageError(
            f"overwrite_image_reader_writer names no reader that is known: {name!r}",
            expected=", ".join((*NNUNET_READERS, *registered(READERS))),
            hint="Leave the key out, or name your own reader as package.module:Class",
        )
    if name.partition(":")[0].endswith(".py"):
        raise UsageError(
            f"overwrite_image_reader_writer names a file of code, {name!r}",
            hint="Install it as a package and name it package.module:Class",
        )
    use_reader(name)


def _checked(found: type) -> dict[str, Format]:
    if not issubclass(found, ImageReader):
        raise UsageError(f"{found.__qualname__} is no reader", expected="a subclass of siccs_net.ImageReader")
    given = found.endings
    whole = isinstance(given, tuple) and given and all(isinstance(ending, str) for ending in given)
    if not whole or not all(ending.startswith(".") and ending == ending.lower() for ending in given):
        raise UsageError(
            f"the reader {found.__qualname__} has no usable endings",
            found=repr(given),
            expected='a tuple such as (".xyz",) in lower case',
        )
    plug_in = _adapted(found())
    return dict.fromkeys(given, plug_in)


def _adapted(reader: ImageReader) -> Format:
    name = type(reader).__qualname__

    def read(path: Path, data: bytes, assume_orientation: str | None) -> Volume:
        volume = _guarded(name, path, lambda: reader.read(path))
        voxels = getattr(volume, "voxels", None)
        if not isinstance(volume, Volume) or not isinstance(voxels, np.ndarray) or voxels.ndim != 4:
            raise UsageError(
                f"the reader {name} breaks its contract",
                path=path,
                found=f"{type(volume).__name__} of shape {getattr(voxels, 'shape', None)}",
                expected="a Volume with voxels [c, i, j, k]",
            )
        return volume

    def encode(path: Path, voxels: NDArray[Any], affine: Affine, header: Any) -> Files:
        return {path: _guarded(name, path, lambda: reader.encode(voxels, affine, header))}

    return Format(type(reader).endings, read, encode, several_channels=True)


def _guarded(name: str, path: Path, work: Any) -> Any:
    """Run a plug-in's code; whatever it raises becomes a named error."""
    try:
        return work()
    except SiccsError:
        raise
    except Exception as error:
        raise ImageError(f"the reader {name} failed", path=path, found=f"{type(error).__name__}: {error}") from error


def ending_of(path: Path) -> str | None:
    """Return the ending by which a file is read, or None for a file that is not."""
    return max((ending for ending in endings() if path.name.endswith(ending)), key=len, default=None)


def is_readable(path: Path) -> bool:
    """Say whether a file's name has an ending that can be read."""
    return ending_of(path) is not None


def is_other_image(path: Path) -> bool:
    """Say whether a file's name is that of an image in a format that this version does not read."""
    return path.name.lower().endswith(_OTHER_ENDINGS) and not is_readable(path)


def stem(path: Path) -> str:
    """Return a readable file's name without its ending."""
    return path.name.removesuffix(ending_of(path) or "")


def format_of(path: Path) -> Format:
    """Return the format of a file by its ending. Raises UnavailableError that lists those there are."""
    ending = ending_of(path)
    if ending is None:
        raise UnavailableError(
            "this file format is not read by this version", path=path, expected=" or ".join(endings())
        )
    if ending in _plugged:
        return _plugged[ending]
    return next(built_in for built_in in _BUILT_IN if ending in built_in.endings)


def image_sha256(path: Path) -> str:
    """Return the SHA-256 of an image: of its file and of what lies beside it, such as a detached .raw or a spacing.

    Raises MissingPathError or ImageError.
    """
    chosen = format_of(path)
    if chosen.beside is nothing_beside:
        return files.file_sha256(path)
    return digest_of(chosen, path, files.read_bytes(path))


def digest_of(chosen: Format, path: Path, data: bytes | memoryview) -> str:
    """Return `image_sha256` of a file whose bytes are in memory."""
    beside = chosen.beside(path, data)
    return files.sha256(files.sha256(data).encode() + files.sha256(beside).encode()) if beside else files.sha256(data)
