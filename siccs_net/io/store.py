"""Prepared cases on disk: CASE.b2nd, CASE_seg.b2nd and CASE.json, hashed; patches are read without the whole.

CASE_seg.voxels says where the classes lie; it can be made again from CASE_seg.b2nd at any time.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import blosc2
import numpy as np
from numpy.typing import NDArray

from siccs_net.errors import MissingPathError, StoreError
from siccs_net.io import files, locations
from siccs_net.io.locations import LabelLocations
from siccs_net.records.case import PreparedRecord

_BLOCK_EDGE = {2: (1, 128, 128), 3: (32, 32, 32)}
_CHUNK_FACTOR = 2
_FOR_IMAGES = blosc2.Codec.LZ4, 9, blosc2.Filter.BITSHUFFLE
_FOR_LABELS = blosc2.Codec.ZSTD, 1, blosc2.Filter.NOFILTER
"""The scan of benchmarks at 1 mm: 23 and 0.4 MB; a patch of 96³ is read in 2.1 and 1.1 ms."""


@dataclass(frozen=True)
class PreparedCase:
    """A case in memory: `image` [c, *plan axes] in the plan's storage type, `label` [*plan axes] or None.

    `previous` [*plan axes] is the previous stage's segmentation, for the second stage of a cascade.
    """

    image: NDArray[Any]
    label: NDArray[np.uint8] | None
    record: PreparedRecord
    previous: NDArray[np.uint8] | None = None


class PreparedStore:
    """A folder of prepared cases of one configuration. Reading is safe from several threads and after a fork."""

    def __init__(self, folder: Path, dimension: int) -> None:
        self.folder = folder
        self.dimension = dimension

    def record_path(self, case: str) -> Path:
        """Where the sidecar of a case lies."""
        return self.folder / f"{case}.json"

    def _image_path(self, case: str) -> Path:
        return self.folder / f"{case}.b2nd"

    def _label_path(self, case: str) -> Path:
        return self.folder / f"{case}_seg.b2nd"

    def _locations_path(self, case: str) -> Path:
        return self.folder / f"{case}_seg.voxels"

    def save(self, prepared: PreparedCase) -> PreparedRecord:
        """Write a case: arrays first, the sidecar with their hashes last, so that a sidecar means a whole case."""
        case = prepared.record.case
        image_hash = files.write_bytes(self._image_path(case), self.pack(prepared.image), verify=False)
        label_hash = None
        if prepared.label is not None:
            label_hash = files.write_bytes(self._label_path(case), self.pack(prepared.label), verify=False)
            locations.write_locations(self._locations_path(case), prepared.label, label_hash)
        record = prepared.record.model_copy(update={"image_sha256": image_hash, "label_sha256": label_hash})
        files.write_record(self.record_path(case), record)
        return record

    def pack(self, array: NDArray[Any]) -> bytes:
        """Return the array as a blosc2 frame in chunks that suit patches; one thread, so bytes are equal."""
        edge = _BLOCK_EDGE[self.dimension]
        spatial = array.shape[-3:]
        blocks = [min(size, limit) for size, limit in zip(spatial, edge, strict=True)]
        factor = (1, _CHUNK_FACTOR, _CHUNK_FACTOR) if self.dimension == 2 else (_CHUNK_FACTOR,) * 3
        chunks = [min(size, block * times) for size, block, times in zip(spatial, blocks, factor, strict=True)]
        leading = [1] * (array.ndim - 3)
        codec, level, shuffle = _FOR_LABELS if array.dtype == np.uint8 else _FOR_IMAGES
        packed = blosc2.asarray(
            np.ascontiguousarray(array),
            chunks=(*leading, *chunks),
            blocks=(*leading, *blocks),
            cparams=blosc2.CParams(codec=codec, clevel=level, nthreads=1, filters=[shuffle]),
        )
        frame: bytes = packed.to_cframe()
        return frame

    def read_record(self, case: str) -> PreparedRecord:
        """Read a sidecar. Raises StoreError when the case was never prepared, RecordError when damaged."""
        try:
            return files.read_record(self.record_path(case), PreparedRecord)
        except MissingPathError as error:
            raise StoreError(
                f"case {case!r} is not prepared", path=self.folder, hint="Run siccs_plan_and_preprocess first"
            ) from error

    def verify(self, case: str, recipe_sha256: str | None = None) -> PreparedRecord:
        """Check a case's arrays against the hashes of its sidecar, and its recipe; return the sidecar.

        Raises StoreError naming the file: missing, damaged, or made by another plan.
        """
        record = self.read_record(case)
        if recipe_sha256 is not None and record.recipe_sha256 != recipe_sha256:
            raise StoreError(
                "was prepared by another plan", path=self.record_path(case), hint="Run siccs_plan_and_preprocess again"
            )
        hashes = [(self._image_path(case), record.image_sha256), (self._label_path(case), record.label_sha256)]
        for path, wanted in hashes:
            if wanted is None:
                continue
            if not path.is_file():
                raise StoreError("the prepared array is missing", path=path, hint="Run siccs_plan_and_preprocess again")
            if files.file_sha256(path) != wanted:
                raise StoreError(
                    "the prepared array is damaged (its SHA-256 is not its sidecar's)",
                    path=path,
                    hint="Run siccs_plan_and_preprocess again; only this case will be made anew",
                )
        if record.label_sha256 is not None and not locations.are_whole(self._locations_path(case)):
            self._write_locations(case, record.label_sha256)
        return record

    def locations(self, case: str) -> LabelLocations:
        """Open where the classes of a case lie; made first where the file is missing or of another label map.

        Raises StoreError when the case was never prepared, or without a label.
        """
        digest = self.read_record(case).label_sha256
        if digest is None:
            raise StoreError(f"case {case!r} was prepared without a label", path=self.folder)
        path = self._locations_path(case)
        found = locations.read_locations(path, digest)
        if found is None:
            self._write_locations(case, digest)
            found = locations.read_locations(path, digest)
        if found is None:
            raise StoreError("changed while it was read", path=path, hint="Is another process preparing this case?")
        return found

    def _write_locations(self, case: str, label_sha256: str) -> None:
        locations.write_locations(self._locations_path(case), np.asarray(self.label(case)[:]), label_sha256)

    def image(self, case: str) -> Any:
        """Open the image [c, *plan axes] for reading parts of it by slicing."""
        return self._open(self._image_path(case))

    def label(self, case: str) -> Any:
        """Open the label map [*plan axes] for reading parts of it by slicing."""
        return self._open(self._label_path(case))

    def _open(self, path: Path) -> Any:
        try:
            return blosc2.open(str(path), mode="r", dparams=blosc2.DParams(nthreads=1))
        except (OSError, RuntimeError, ValueError) as error:
            raise StoreError("the prepared array cannot be opened", path=path, found=str(error)) from error
