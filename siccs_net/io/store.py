"""Prepared cases on disk: CASE.b2nd, CASE_seg.b2nd and CASE.json, hashed; patches are read without the whole.

CASE_seg.voxels says where the classes lie; it can be made again from CASE_seg.b2nd at any time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import blosc2
import numpy as np
from numpy.typing import NDArray

from siccs_net.errors import MissingPathError, StoreError
from siccs_net.io import files, locations
from siccs_net.io.locations import LabelLocations
from siccs_net.parallel import run_parts
from siccs_net.records.case import PreparedRecord

_BLOCK_EDGE = {2: (1, 128, 128), 3: (32, 32, 32)}
_CHUNK_FACTOR = 2
_WORTH_THREADS = 4 << 20
"""Bytes of an image below which starting threads takes longer than packing it."""
_FOR_IMAGES = blosc2.Codec.LZ4, 9, blosc2.Filter.BITSHUFFLE
_FOR_LABELS = blosc2.Codec.ZSTD, 1, blosc2.Filter.NOFILTER
"""What stores a chest CT small and reads patches of it fast (`python -m benchmarks.compare loader`)."""


@dataclass(frozen=True)
class PreparedCase:
    """A case in memory: `image` [c, *plan axes] in the plan's storage type, `label` [*plan axes] or None.

    `previous` [*plan axes] is the previous stage's segmentation, for the second stage of a cascade.
    """

    image: NDArray[Any]
    label: NDArray[np.uint8] | None
    record: PreparedRecord
    previous: NDArray[np.uint8] | None = None


@dataclass(frozen=True)
class _Layout:
    """How an array [c, z, y, x] or [z, y, x] is cut: into chunks, and those into blocks, which are read apart."""

    chunks: tuple[int, ...]
    blocks: tuple[int, ...]
    codec: tuple[blosc2.Codec, int, blosc2.Filter]

    def settings(self) -> dict[str, Any]:
        """Return blosc2's settings of an array."""
        codec, level, shuffle = self.codec
        packing = blosc2.CParams(codec=codec, clevel=level, nthreads=1, filters=[shuffle])
        return {"chunks": self.chunks, "blocks": self.blocks, "cparams": packing}

    def pack(self, array: NDArray[Any]) -> Any:
        """Return the array packed by one thread."""
        return blosc2.asarray(np.ascontiguousarray(array), **self.settings())

    def rows(self, array: NDArray[Any]) -> list[NDArray[Any]]:
        """Return the parts of an array that hold the chunks of one z (and channel), in the order of chunks."""
        step = self.chunks[-3]
        channels = [array[number : number + 1] for number in range(len(array))] if array.ndim == 4 else [array]
        firsts = range(0, array.shape[-3], step)
        return [channel[..., first : first + step, :, :] for channel in channels for first in firsts]


def _chunks(packed: Any) -> Iterator[bytes]:
    return (packed.schunk.get_chunk(number) for number in range(packed.schunk.nchunks))


def _frame(packed: Any) -> bytes:
    frame: bytes = packed.to_cframe()
    return frame


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
        parts = (self._save_image, self._save_label)
        run: Any = run_parts if prepared.image.nbytes >= _WORTH_THREADS else map
        image_hash, label_hash = run(lambda save: save(prepared), parts)
        record = prepared.record.model_copy(update={"image_sha256": image_hash, "label_sha256": label_hash})
        files.write_record(self.record_path(prepared.record.case), record)
        return record

    def _save_image(self, prepared: PreparedCase) -> str:
        return files.write_cache(self._image_path(prepared.record.case), [self.pack(prepared.image)])

    def _save_label(self, prepared: PreparedCase) -> str | None:
        if prepared.label is None:
            return None
        case = prepared.record.case
        label_hash = files.write_cache(self._label_path(case), [self.pack(prepared.label)])
        locations.write_locations(self._locations_path(case), prepared.label, label_hash)
        return label_hash

    def pack(self, array: NDArray[Any]) -> bytes:
        """Return the array as a blosc2 frame in chunks that suit patches, a chunk by one thread.

        blosc2's own threads put a chunk's blocks down in the order in which they are done. So that bytes are equal,
        rows of whole chunks are packed side by side where processors are spare, and put together in their order.
        """
        edge = _BLOCK_EDGE[self.dimension]
        spatial = array.shape[-3:]
        blocks = [min(size, limit) for size, limit in zip(spatial, edge, strict=True)]
        factor = (1, _CHUNK_FACTOR, _CHUNK_FACTOR) if self.dimension == 2 else (_CHUNK_FACTOR,) * 3
        chunks = [min(size, block * times) for size, block, times in zip(spatial, blocks, factor, strict=True)]
        leading = (1,) * (array.ndim - 3)
        codec = _FOR_LABELS if array.dtype == np.uint8 else _FOR_IMAGES
        layout = _Layout((*leading, *chunks), (*leading, *blocks), codec)
        if array.nbytes < _WORTH_THREADS:
            return _frame(layout.pack(array))
        whole = blosc2.empty(array.shape, dtype=array.dtype, **layout.settings())
        rows = run_parts(layout.pack, layout.rows(array))
        for number, chunk in enumerate(chunk for row in rows for chunk in _chunks(row)):
            whole.schunk.update_chunk(number, chunk)
        return _frame(whole)

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
