"""Three stages for many scans: the next one is read, and the last one written, while this one is computed.

One thread reads, one writes, and the caller's computes; what it yields is in the order of the items, as it would be
one after another. There is never more than one item read ahead and one left to write.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

Item = TypeVar("Item")
Read = TypeVar("Read")
Computed = TypeVar("Computed")
Written = TypeVar("Written")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Stages(Generic[Item, Read, Computed, Written]):
    """What is done with each item. Any of `errors` in any stage is that item's, and the next one is taken.

    `may_read_ahead` is asked before an item is read while another one, that was read already, is computed.
    `is_memory` says of an error that the memory ran out: then the item is tried once more with nothing else at work,
    so that reading ahead never costs a scan.
    """

    read: Callable[[Item], Read]
    compute: Callable[[Item, Read], Computed]
    write: Callable[[Item, Computed], Written]
    may_read_ahead: Callable[[Read, Item, Item], bool]
    is_memory: Callable[[Exception], bool]
    errors: tuple[type[Exception], ...]

    def run(self, items: Sequence[Item]) -> Generator[tuple[Item, Written | Exception], None, None]:
        """Yield each item with what its last stage returned, or the error of the stage that failed."""
        reader = ThreadPoolExecutor(1, thread_name_prefix="siccs-read")
        writer = ThreadPoolExecutor(1, thread_name_prefix="siccs-write")
        writing: tuple[Item, Computed, Future[Written]] | None = None
        ahead: Future[Read] | None = None
        try:
            for number, item in enumerate(items):
                following = items[number + 1] if number + 1 < len(items) else None
                computed, ahead = self._read_and_compute(reader, item, ahead, following)
                if writing is not None:
                    yield writing[0], self._written(*writing)
                    writing = None
                if isinstance(computed, Exception):
                    yield item, computed
                else:
                    writing = item, computed, writer.submit(self.write, item, computed)
                del computed
            if writing is not None:
                yield writing[0], self._written(*writing)
        finally:
            reader.shutdown(wait=True, cancel_futures=True)
            writer.shutdown(wait=True)

    def _read_and_compute(
        self, reader: ThreadPoolExecutor, item: Item, ahead: Future[Read] | None, following: Item | None
    ) -> tuple[Computed | Exception, Future[Read] | None]:
        """Compute an item, which may have been read ahead, and meanwhile read the following one."""
        was_ahead = ahead is not None
        read = self._attempt((ahead or reader.submit(self.read, item)).result)
        if was_ahead and isinstance(read, Exception) and self.is_memory(read):
            del read  # its frames hold arrays
            read = self._attempt(reader.submit(self.read, item).result)
        if isinstance(read, Exception):
            return read, None
        ahead = None
        if following is not None and self.may_read_ahead(read, item, following):
            ahead = reader.submit(self.read, following)
        computed = self._attempt(partial(self.compute, item, read))
        if ahead is not None and isinstance(computed, Exception) and self.is_memory(computed):
            ahead.exception()
            del computed, ahead  # what was read ahead, and frames that hold arrays
            ahead = None
            computed = self._attempt(partial(self.compute, item, read))
        return computed, ahead

    def _written(self, item: Item, computed: Computed, writing: Future[Written]) -> Written | Exception:
        written = self._attempt(writing.result)
        if isinstance(written, Exception) and self.is_memory(written):
            written = self._attempt(partial(self.write, item, computed))
        return written

    def _attempt(self, stage: Callable[[], Result]) -> Result | Exception:
        try:
            return stage()
        except self.errors as error:
            return error
