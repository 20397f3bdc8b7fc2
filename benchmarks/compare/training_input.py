"""Stage of the training input: patches read and augmented by two workers. Peer: nnU-Net's loader on its own store.

Three cases, the full CT at 1 mm and two flips of it, with drawn labels. Both read patches of 96³ in batches of 2, the
second sample of each about a voxel of a class (nnU-Net's oversampling of 0.33 at this batch), and both augment by
nnU-Net 2.8.1's own list: the peer with its transforms, ours with the settings `NNUNET`, equal in probabilities and
ranges. A run starts two workers, takes `WARM_UP` batches, then `BATCHES` more, whose rate is named in the agreement.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.compare.agreement import Agreement
from benchmarks.compare.data import full_ct
from benchmarks.compare.harness import Stage
from benchmarks.resample import CLASSES, draw_labels

Batches = Generator[tuple[NDArray[Any], NDArray[Any]], None, None]

PATCH, BATCH, WORKERS = (96, 96, 96), 2, 2
WARM_UP, BATCHES = 10, 90
OVERSAMPLED = 0.33
LOWEST, HIGHEST, MEAN, DEVIATION = -945.0, 236.0, -432.8, 263.6
"""Both normalise by these, of the labelled voxels of Dataset501, real labels: the drawn ones end at -300 HU."""
FLIPS: tuple[tuple[int, ...], ...] = ((), (2,), (0,))
PERCENTILES = (1, 25, 50, 75, 99)
NEAR = 0.05
"""Of the intensities' deviation, and of all voxels: how far means and class shares may lie apart."""
EVERY = 11
"""Of the voxels of a patch every 11th counts in the statistics of intensities."""


@dataclass(frozen=True)
class Taken:
    """What came of one run: patches a second after the warm-up, statistics of all patches, bytes of the store."""

    patches_per_s: float
    statistics: dict[str, float]
    shares: NDArray[np.float64]
    store_bytes: int


def share(folder: Path) -> None:
    """Write what both sides prepare their stores from: the CT and its labels at 1 mm."""
    image, label = at_one_mm()
    np.save(folder / "image.npy", image)
    np.save(folder / "label.npy", label)


def prepare_ours(folder: Path) -> Callable[[], Taken]:
    image, label = np.load(folder / "image.npy"), np.load(folder / "label.npy")
    store = store_ours(folder / "ours", image, label)
    return lambda: take(lambda: our_batches(store), folder / "ours")


def prepare_peer(folder: Path) -> Callable[[], Taken]:
    _store_peer(folder / "peer", np.load(folder / "image.npy"), np.load(folder / "label.npy"))
    return lambda: take(lambda: peer_batches(folder / "peer"), folder / "peer")


def at_one_mm() -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    from siccs_net.preprocessing.resample import resample_image, resampled_shape
    from siccs_net.preprocessing.resample_labels import resample_labels

    image, spacing = full_ct()
    shape = resampled_shape(image.shape, spacing, (1.0, 1.0, 1.0))
    return resample_image(image, shape, order=3), resample_labels(draw_labels(image), shape)


def store_ours(folder: Path, image: NDArray[np.float32], label: NDArray[np.uint8]) -> Any:
    """Store the cases as preprocessing does, int16; return the store."""
    from benchmarks.patch_reading import bare_record
    from siccs_net.io.store import PreparedCase, PreparedStore
    from siccs_net.preprocessing.statistics import measure

    stored = np.rint(image).astype(np.int16)
    statistics = {"statistics_all": (measure(stored),), "statistics_foreground": (measure(stored[label > 0]),)}
    store = PreparedStore(folder, 3)
    if folder.exists():  # another process of this side was here before
        return store
    for number, axes in enumerate(FLIPS):
        record = bare_record(f"case_{number}", label.shape).model_copy(update=statistics)
        store.save(PreparedCase(np.flip(stored, axes)[None], np.ascontiguousarray(np.flip(label, axes)), record))
    return store


def _store_peer(folder: Path, image: NDArray[np.float32], label: NDArray[np.uint8]) -> None:
    """Store the cases as nnU-Net's DefaultPreprocessor.run_case_save does: float32 normalised, int16 labels."""
    from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
    from nnunetv2.training.dataloading.nnunet_dataset import comp_blosc2_params, nnUNetDatasetBlosc2

    if folder.exists():
        return
    folder.mkdir()
    normalised = (np.clip(image, LOWEST, HIGHEST) - MEAN) / DEVIATION
    for number, axes in enumerate(FLIPS):
        data = np.ascontiguousarray(np.flip(normalised, axes))[None].astype(np.float32)
        seg = np.ascontiguousarray(np.flip(label, axes))[None].astype(np.int16)
        locations = DefaultPreprocessor._sample_foreground_locations(seg, list(range(1, CLASSES)))
        blocks, chunks = comp_blosc2_params(data.shape, PATCH, data.itemsize)
        blocks_seg, chunks_seg = comp_blosc2_params(seg.shape, PATCH, seg.itemsize)
        nnUNetDatasetBlosc2.save_case(
            data,
            seg,
            {"class_locations": locations},
            str(folder / f"case_{number}"),
            chunks=chunks,
            blocks=blocks,
            chunks_seg=chunks_seg,
            blocks_seg=blocks_seg,
        )


def our_batches(store: Any) -> Batches:
    """Yield images [b, c, z, y, x] and labels [b, z, y, x], a few more than a run takes."""
    from siccs_net.cli.process import keep_heap
    from siccs_net.data.loader import load_batches

    keep_heap()  # as siccs_train does
    steps = [(0, number) for number in range(WARM_UP + BATCHES + 8 * WORKERS)]
    for _, batch in load_batches(our_training(store), steps, workers=WORKERS):
        yield batch.images.numpy(), batch.labels.numpy()


def our_training(store: Any) -> Any:
    """Return the batches of a training of ours."""
    from siccs_net.augment.intensity import intensity_transforms
    from siccs_net.augment.settings import NNUNET
    from siccs_net.augment.spatial import resolve_rotation
    from siccs_net.data.foreground import ForegroundIndex
    from siccs_net.data.loader import PatchReader, TrainingBatches
    from siccs_net.data.sampling import PatchSampler
    from siccs_net.records.statistics import ChannelScaling, Normalisation

    scaling = ChannelScaling(scheme="ct", lower=LOWEST, upper=HIGHEST, mean=MEAN, std=DEVIATION)
    cases = tuple(f"case_{number}" for number in range(len(FLIPS)))
    settings = resolve_rotation(NNUNET, PATCH)
    index = ForegroundIndex(store, cases, CLASSES)
    return TrainingBatches(
        reader=PatchReader(store, Normalisation(channels=(scaling,)), PATCH),
        sampler=PatchSampler(index, cases, PATCH, OVERSAMPLED, seed=0, fold="0", end_of_batch=True),
        settings=settings,
        transforms=intensity_transforms(settings),
        mirror_axes=(0, 1, 2),
        spacing_mm=(1.0, 1.0, 1.0),
        batch_size=BATCH,
        iterations=1 << 20,
    )


def peer_batches(folder: Path) -> Batches:
    """Yield the same from nnU-Net's loader, its processes as its trainer starts them."""
    from batchgenerators.dataloading.nondet_multi_threaded_augmenter import NonDetMultiThreadedAugmenter
    from nnunetv2.training.data_augmentation.compute_initial_patch_size import get_patch_size
    from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
    from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
    from nnunetv2.utilities.label_handling.label_handling import LabelManager

    angle = (-np.pi / 6, np.pi / 6)
    names = {"background": 0, **{f"class {value}": value for value in range(1, CLASSES)}}
    transforms = nnUNetTrainer.get_training_transforms(PATCH, angle, None, (0, 1, 2), False)
    one_process = nnUNetDataLoader(
        nnUNetDatasetBlosc2(str(folder)),
        BATCH,
        get_patch_size(PATCH, angle, angle, angle, (0.85, 1.25)),
        PATCH,
        LabelManager(names, None),
        oversample_foreground_percent=OVERSAMPLED,
        transforms=transforms,
    )
    several = NonDetMultiThreadedAugmenter(
        one_process, None, WORKERS, num_cached=max(6, WORKERS // 2), seeds=[1, 2], wait_time=0.002
    )
    try:
        while True:
            batch = next(several)
            yield batch["data"].numpy(), batch["target"].numpy()[:, 0]
    finally:
        several._finish()


def take(start: Callable[[], Batches], folder: Path) -> Taken:
    """Take the batches of a run; the loader is started and ended here."""
    batches = start()
    samples, shares, started = [], [], 0.0
    try:
        for number in range(WARM_UP + BATCHES):
            if number == WARM_UP:
                started = time.perf_counter()
            images, labels = next(batches)
            samples.append(images.ravel()[::EVERY].astype(np.float32))
            shares.append(np.bincount(labels.astype(np.uint8).ravel()[::EVERY], minlength=CLASSES)[:CLASSES])
        seconds = time.perf_counter() - started
    finally:
        batches.close()
    values = np.concatenate(samples)
    found = {f"p{q}": float(value) for q, value in zip(PERCENTILES, np.percentile(values, PERCENTILES), strict=True)}
    found |= {"mean": float(values.mean()), "std": float(values.std())}
    counts = np.sum(shares, 0)
    stored = sum(path.stat().st_size for path in folder.iterdir())
    return Taken(BATCH * BATCHES / seconds, found, counts / counts.sum(), stored)


def agree(own: Taken, theirs: Taken) -> Agreement:
    """Say how both stand in rate, disk and the distribution of what they made; means and classes must be near."""
    listed = ", ".join(f"{name} {value:.2f}/{theirs.statistics[name]:.2f}" for name, value in own.statistics.items())
    shares = ", ".join(f"{100 * a:.1f}/{100 * b:.1f}" for a, b in zip(own.shares, theirs.shares, strict=True))
    mib = [taken.store_bytes / 2**20 for taken in (own, theirs)]
    near = abs(own.statistics["mean"] - theirs.statistics["mean"]) < NEAR * theirs.statistics["std"]
    alike = float(np.abs(own.shares - theirs.shares).max()) < NEAR
    said = (
        f"{own.patches_per_s:.1f}/{theirs.patches_per_s:.1f} patches/s after the warm-up; "
        f"disk {mib[0]:.0f}/{mib[1]:.0f} MiB ({mib[0] / mib[1]:.2f}); "
        f"over {BATCH * (WARM_UP + BATCHES)} patches: {listed}; classes {shares} %"
    )
    return Agreement(said, near and alike)


STAGES = (Stage("loader", "nnU-Net", prepare_ours, prepare_peer, agree, share=share),)
