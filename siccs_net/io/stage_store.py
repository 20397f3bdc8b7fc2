"""Segmentations of a cascade's previous stage on prepared grids: CASE_seg.b2nd and CASE.json in their own folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from siccs_net.errors import MissingPathError, RecordError
from siccs_net.io import files
from siccs_net.io.store import PreparedStore
from siccs_net.records.case import StageRecord


class StageStore:
    """A folder of one previous model's segmentations. `identity` is the hash of that model's weights.

    Reading is safe from several threads and after a fork.
    """

    def __init__(self, folder: Path, dimension: int, identity: str) -> None:
        self.folder = folder
        self.identity = identity
        self._arrays = PreparedStore(folder, dimension)

    def save(self, record: StageRecord, stage: NDArray[np.uint8]) -> None:
        """Write a case: the array first, the record with its hash last."""
        digest = files.write_bytes(self._path(record.case), self._arrays.pack(stage), verify=False)
        files.write_record(self._arrays.record_path(record.case), record.model_copy(update={"array_sha256": digest}))

    def holds(self, record: StageRecord) -> bool:
        """Say whether a case is there whole and made of what `record` says (its `array_sha256` is not looked at)."""
        try:
            found = files.read_record(self._arrays.record_path(record.case), StageRecord)
            same = found.model_copy(update={"array_sha256": ""}) == record.model_copy(update={"array_sha256": ""})
            return same and files.file_sha256(self._path(record.case)) == found.array_sha256
        except (MissingPathError, RecordError):
            return False

    def stage(self, case: str) -> Any:
        """Open a case's segmentation [*plan axes] for reading parts of it by slicing."""
        return self._arrays.label(case)

    def _path(self, case: str) -> Path:
        return self.folder / f"{case}_seg.b2nd"
