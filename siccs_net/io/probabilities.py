"""Saved class probabilities: CASE.probabilities.b2nd, packed in chunks of planes, with a JSON beside it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import blosc2
import numpy as np
from numpy.typing import NDArray

from siccs_net.errors import MissingPathError, StoreError
from siccs_net.geometry import Orientation
from siccs_net.io import files
from siccs_net.records.dataset import LabelScheme
from siccs_net.records.prediction import ProbabilityRecord

_ENDING = ".probabilities.b2nd"
_CHUNK_BYTES = 4 << 20


@dataclass(frozen=True)
class SavedProbabilities:
    """Probabilities of one case on disk: the record, and `array` [class, z, y, x], read by slicing."""

    record: ProbabilityRecord
    array: Any

    @property
    def orientation(self) -> Orientation:
        """The scan's grid."""
        return Orientation.of(self.record.native_shape, np.asarray(self.record.native_affine))

    @property
    def labels(self) -> LabelScheme:
        """The meaning of the classes or regions."""
        record = self.record
        return LabelScheme(
            plain=record.labels,
            regions=record.regions,
            groups=record.groups,
            regions_class_order=record.regions_class_order,
        )


def probabilities_path(folder: Path, case: str) -> Path:
    """Where the array of a case lies."""
    return folder / f"{case}{_ENDING}"


def _record_path(folder: Path, case: str) -> Path:
    return probabilities_path(folder, case).with_suffix(".json")


def cases_with_probabilities(folder: Path) -> list[str]:
    """Return the cases whose probabilities a folder holds, sorted. Raises MissingPathError without the folder."""
    if not folder.is_dir():
        raise MissingPathError("the folder does not exist", path=folder)
    names = [path.name.removesuffix(_ENDING) for path in folder.glob(f"*{_ENDING}") if not path.name.startswith(".")]
    return sorted(name for name in names if _record_path(folder, name).is_file())


def save_probabilities(
    folder: Path,
    case: str,
    array: NDArray[Any],
    levels: int,
    labels: LabelScheme,
    orientation: Orientation,
    sources_sha256: tuple[str, ...],
) -> ProbabilityRecord:
    """Write a case's levels [class or region, z, y, x], then their record: a record means a whole array."""
    digest = files.write_bytes(probabilities_path(folder, case), _pack(array), verify=False)
    affine = tuple((float(a), float(b), float(c), float(d)) for a, b, c, d in orientation.native_affine)
    record = ProbabilityRecord(
        case=case,
        array_sha256=digest,
        levels=levels,
        labels=labels.plain,
        regions=labels.regions,
        regions_class_order=labels.regions_class_order,
        groups=labels.groups,
        native_shape=orientation.native_shape,
        native_affine=affine,
        sources_sha256=sources_sha256,
    )
    files.write_record(_record_path(folder, case), record)
    return record


def _pack(array: NDArray[Any]) -> bytes:
    plane = max(array.shape[2] * array.shape[3] * array.itemsize, 1)
    depth = min(array.shape[1], max(_CHUNK_BYTES // plane, 1))
    packed = blosc2.asarray(
        np.ascontiguousarray(array),
        chunks=(1, depth, *array.shape[2:]),
        cparams=blosc2.CParams(codec=blosc2.Codec.ZSTD, clevel=5, nthreads=1, filters=[blosc2.Filter.NOFILTER]),
    )
    frame: bytes = packed.to_cframe()
    return frame


def open_probabilities(folder: Path, case: str) -> SavedProbabilities:
    """Open a case's probabilities for reading by planes; the file's hash is checked first.

    Raises MissingPathError for a case without them, StoreError for a damaged file.
    """
    record = files.read_record(_record_path(folder, case), ProbabilityRecord)
    path = probabilities_path(folder, case)
    if files.file_sha256(path) != record.array_sha256:
        raise StoreError(
            "the probabilities are damaged (their SHA-256 is not their record's)", path=path, hint="Make them again"
        )
    try:
        array = blosc2.open(str(path), mode="r", dparams=blosc2.DParams(nthreads=1))
    except (OSError, RuntimeError, ValueError) as error:
        raise StoreError("the probabilities cannot be opened", path=path, found=str(error)) from error
    return SavedProbabilities(record, array)
