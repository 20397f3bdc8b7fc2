"""Batches for training: read the footprint, normalise, augment; in torch's DataLoader workers.

A batch is a pure function of (epoch, iteration), so the number of workers changes nothing but the speed.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from siccs_net.augment.intensity import apply_transforms
from siccs_net.augment.previous_stage import disturb, draw_disturbance
from siccs_net.augment.settings import AugmentationSettings
from siccs_net.augment.spatial import draw_spatial
from siccs_net.data.sampling import PatchSampler, Place, held_centre, read_box
from siccs_net.data.streams import stream
from siccs_net.errors import SiccsError, TrainingError
from siccs_net.io.stage_store import StageStore
from siccs_net.io.store import PreparedStore
from siccs_net.preprocessing.previous_stage import one_hot
from siccs_net.preprocessing.statistics import apply_normalisation, image_normalisation
from siccs_net.records.statistics import Normalisation

Step = tuple[int, int]


@dataclass(frozen=True)
class Batch:
    """`images` float32 [b, c, *patch] and `labels` uint8 [b, *patch], with the cases they came from."""

    images: torch.Tensor
    labels: torch.Tensor
    cases: tuple[str, ...]


@dataclass(frozen=True)
class PatchReader:
    """Reads one normalised patch of a prepared case; `previous` holds the previous stage's segmentations of a cascade,
    which have `stage_labels` foreground labels."""

    store: PreparedStore
    normalisation: Normalisation
    patch_size: tuple[int, ...]
    previous: StageStore | None = None
    stage_labels: int = 0
    _by_image: dict[str, Normalisation] = field(default_factory=dict, repr=False, compare=False)

    def read(self, place: Place, size: Sequence[int], *, clamp: bool) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        """Return image [c, *size] normalised and label [*size] about a place; outside the case both are 0.

        With `clamp` the place is moved first so that a patch about it lies inside the case; `size` is what is read,
        a patch's footprint, and only the part of it that is inside.
        """
        whole = self.store.image(place.case)
        centre, box = self._centre(place, whole.shape[1:], clamp=clamp), _in_space(size)
        normalised = _Normalised(whole, self._normalisation(place.case))
        inside = read_box(normalised, centre, box, fill=0.0, clamp=False)
        label = read_box(self.store.label(place.case), centre, box, fill=0, clamp=False)
        if len(size) == 2:
            return inside[:, 0], label[0]
        return inside, label

    def read_stage(self, place: Place, size: Sequence[int], *, clamp: bool) -> NDArray[np.uint8] | None:
        """Return the previous stage's segmentation [*size] at the place that `read` reads; None without one."""
        if self.previous is None:
            return None
        whole = self.previous.stage(place.case)
        centre = self._centre(place, whole.shape, clamp=clamp)
        stage = read_box(whole, centre, _in_space(size), fill=0, clamp=False)
        return stage[0] if len(size) == 2 else stage

    def _centre(self, place: Place, shape: Sequence[int], *, clamp: bool) -> tuple[int, ...]:
        return held_centre(place.centre, _in_space(self.patch_size), shape) if clamp else place.centre

    def read_input(
        self, place: Place, size: Sequence[int], *, clamp: bool
    ) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        """Return what the network is shown, image and previous stage [c, *size], and the label [*size]."""
        image, label = self.read(place, size, clamp=clamp)
        stage = self.read_stage(place, size, clamp=clamp)
        return self.with_stage(image, stage), label

    def with_stage(self, image: NDArray[np.float32], stage: NDArray[np.uint8] | None) -> NDArray[np.float32]:
        """Return an image [c, *size] with the channels of the previous stage after its own."""
        return image if stage is None else np.concatenate([image, one_hot(stage, self.stage_labels)])

    def _normalisation(self, case: str) -> Normalisation:
        """Return the fold's normalisation with the image's own numbers where its scheme takes those."""
        if case not in self._by_image:
            statistics = self.store.read_record(case).statistics_all
            self._by_image[case] = image_normalisation(self.normalisation, statistics)
        return self._by_image[case]


def _in_space(size: Sequence[int]) -> tuple[int, ...]:
    """Return a size with three axes: a 2-D patch is one slice."""
    return (1,) * (3 - len(size)) + tuple(size)


class _Normalised:
    """A prepared image whose slices come out normalised, so that padding with 0 happens after it."""

    def __init__(self, array: Any, normalisation: Normalisation) -> None:
        self.array, self.shape, self.normalisation = array, array.shape, normalisation

    def __getitem__(self, key: Any) -> NDArray[np.float32]:
        return apply_normalisation(np.asarray(self.array[key]), self.normalisation)


@dataclass(frozen=True)
class TrainingBatches(Dataset[Batch | SiccsError]):
    """The batches of a training, by (epoch, iteration).

    `samples` are the numbers of the batch's samples to make, where a process makes a part of it (default: all).
    An error is returned, not raised: out of a worker process torch would raise it wrapped in pages of text.
    """

    reader: PatchReader
    sampler: PatchSampler
    settings: AugmentationSettings
    transforms: Sequence[Any]
    mirror_axes: tuple[int, ...]
    spacing_mm: tuple[float, ...]
    batch_size: int
    iterations: int
    samples: range | None = None

    def __getitem__(self, step: Step) -> Batch | SiccsError:
        try:
            return self._batch(step)
        except SiccsError as error:
            return error
        except Exception as error:  # noqa: BLE001 (a plug-in's sampler or transform may raise anything)
            detail = f"{type(error).__name__}: {error}"
            problem = TrainingError(f"the batch of epoch {step[0]}, iteration {step[1]} could not be made: {detail}")
            problem.__cause__ = error
            return problem

    def _batch(self, step: Step) -> Batch:
        samples = [self._sample(*step, sample) for sample in self.samples or range(self.batch_size)]
        shapes = {(image.shape, label.shape) for image, label, _ in samples}
        if len(shapes) > 1:
            cases = ", ".join(case for _, _, case in samples)
            raise TrainingError(f"samples of unlike shapes, from cases {cases}", found=sorted(shapes))
        images = torch.from_numpy(np.stack([image for image, _, _ in samples]))
        labels = torch.from_numpy(np.stack([label for _, label, _ in samples]))
        return Batch(images, labels, tuple(case for _, _, case in samples))

    def cases(self, step: Step) -> list[str]:
        """Return the cases that a batch reads, without reading them."""
        return [self._place(*step, sample).case for sample in self.samples or range(self.batch_size)]

    def _place(self, epoch: int, iteration: int, sample: int) -> Place:
        return self.sampler.place(epoch, iteration, sample, iterations=self.iterations, batch_size=self.batch_size)

    def _sample(self, epoch: int, iteration: int, sample: int) -> tuple[NDArray[np.float32], NDArray[Any], str]:
        place = self._place(epoch, iteration, sample)
        rng = stream(self.sampler.seed, self.sampler.fold, "augment", epoch, iteration, sample)
        try:
            spatial = draw_spatial(self.settings, self.mirror_axes, self.spacing_mm, rng)
            size = spatial.footprint(self.reader.patch_size)
            image, label = self.reader.read(place, size, clamp=True)
            image, label = spatial.apply(image, label, self.reader.patch_size)
            image, label = apply_transforms(self.transforms, image, label, rng)
            if (stage := self.reader.read_stage(place, size, clamp=True)) is not None:
                stage = spatial.apply_label(stage, self.reader.patch_size)
                image = self.reader.with_stage(image, self._disturbed(stage, epoch, iteration, sample))
        except Exception as error:
            detail = str(error) if isinstance(error, SiccsError) else f"{type(error).__name__}: {error}"
            raise TrainingError(f"a sample of case {place.case!r} could not be made: {detail}") from error
        return image, label, place.case

    def _disturbed(self, stage: NDArray[np.uint8], *step: int) -> NDArray[np.uint8]:
        rng = stream(self.sampler.seed, self.sampler.fold, "stage", *step)
        drawn = draw_disturbance(self.settings, self.reader.stage_labels, rng)
        return disturb(stage, drawn, largest_share=self.settings.stage_removal_largest)


def _as_is(item: Any) -> Any:
    return item


def _begin_worker(worker: int) -> None:
    """One thread a worker. Signals to the whole group are the main process's to answer; it ends its workers itself."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


class Steps(Sequence[Step]):
    """The (epoch, iteration) of a range of step numbers, with so many iterations an epoch; made when asked for."""

    def __init__(self, numbers: range, iterations: int) -> None:
        self._numbers, self._iterations = numbers, iterations

    def __len__(self) -> int:
        return len(self._numbers)

    @overload
    def __getitem__(self, index: int) -> Step: ...
    @overload
    def __getitem__(self, index: slice) -> Steps: ...
    def __getitem__(self, index: int | slice) -> Step | Steps:
        if isinstance(index, slice):
            return Steps(self._numbers[index], self._iterations)
        return divmod(self._numbers[index], self._iterations)


def load_batches(
    batches: TrainingBatches, steps: Sequence[Step], *, workers: int
) -> Generator[tuple[Step, Batch], None, None]:
    """Yield (step, batch) for every step in order, made ahead by `workers` processes (0: in this one).

    Raises TrainingError naming the case when a sample cannot be made, and naming the cases in work when a worker
    process dies.
    """
    loader = DataLoader(
        batches,
        batch_size=None,
        sampler=steps,
        num_workers=workers,
        collate_fn=_as_is,
        prefetch_factor=4 if workers else None,
        worker_init_fn=_begin_worker if workers else None,
    )
    iterator = iter(loader)
    try:
        yield from _in_order(iterator, batches, steps, workers)
    finally:
        if workers:
            _end_workers(iterator)


class Waited(Iterator[tuple[Step, Batch]]):
    """Batches as they come, with the seconds that this process waited for them; `close` closes what makes them."""

    def __init__(self, batches: Generator[tuple[Step, Batch], None, None]) -> None:
        self._batches = batches
        self._seconds = 0.0

    def __next__(self) -> tuple[Step, Batch]:
        started = time.monotonic()
        try:
            return next(self._batches)
        finally:
            self._seconds += time.monotonic() - started

    def take_seconds(self) -> float:
        """Return the seconds waited since this was last asked."""
        seconds, self._seconds = self._seconds, 0.0
        return seconds

    def close(self) -> None:
        """End the workers."""
        self._batches.close()


def _in_order(
    iterator: Iterator[Any], batches: TrainingBatches, steps: Sequence[Step], workers: int
) -> Iterator[tuple[Step, Batch]]:
    for number, step in enumerate(steps):
        try:
            batch = next(iterator)
        except RuntimeError as error:
            pending = steps[number : number + 4 * workers]
            cases = sorted({case for waiting in pending for case in batches.cases(waiting)})
            raise TrainingError(
                "a loader worker died; a system short of memory kills workers without a word",
                found=str(error).splitlines()[0],
                hint=f"Cases in work: {', '.join(cases[:12])}. Try --set workers=0 to see the error in this process",
            ) from error
        if isinstance(batch, SiccsError):
            raise batch
        yield step, batch


def _end_workers(iterator: Any) -> None:
    """End the worker processes now, not when the iterator is forgotten.

    An error in hand keeps the iterator by its frames. Workers that are still there when this process exits are sent
    SIGTERM, which they ignore, and waited for without end.
    """
    iterator._shutdown_workers()
