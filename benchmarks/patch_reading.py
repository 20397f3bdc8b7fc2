"""Reading patches for training: the drawn transform's footprint against the box of the largest transform.

    python -m benchmarks.patch_reading [--scan SCAN.nii.gz] [--patch 96 128 128] [--batches 60] [--workers 0 1 2]

`footprint` is the package: the transform is drawn, then its box is read. `largest box` reads, for every sample, the
box that nnU-Net's loader reads (the patch turned by the largest angle about one axis after another, divided by the
smallest scale it allows for) and cuts the footprint out of it; the samples are equal. The case is a real scan with
labels by thresholds, which are for timing only. Rotations and scales come as often as the default settings have them.
Then the locations of the classes: opened from the mapped files, against reading the label maps as before.
"""

from __future__ import annotations

import argparse
import math
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from siccs_net.augment.settings import AugmentationSettings
from siccs_net.data.foreground import ForegroundIndex
from siccs_net.data.loader import PatchReader, TrainingBatches, load_batches
from siccs_net.data.sampling import PatchSampler, Place
from siccs_net.io.store import PreparedCase, PreparedStore
from siccs_net.records.case import CaseGeometry, PreparedRecord
from siccs_net.records.statistics import ChannelScaling, Normalisation

SCANS = Path(__file__).resolve().parents[1].parent / "shared" / "data" / "ct3d"
NNUNET_ANGLE, NNUNET_SCALE = math.radians(30), 0.85
BATCH = 2


def largest_box(patch: Sequence[int]) -> tuple[int, ...]:
    """Return the box that nnU-Net 2.8.1 reads for a 3-D patch (design notes 3.3): 4.1 to 4.4 times its voxels."""
    following = (*patch[1:], patch[0])
    turned = [
        math.cos(NNUNET_ANGLE) * own + math.sin(NNUNET_ANGLE) * other
        for own, other in zip(patch, following, strict=True)
    ]
    return tuple(int(max(own, edge) / NNUNET_SCALE) for own, edge in zip(patch, turned, strict=True))


@dataclass(frozen=True)
class Counting(PatchReader):
    """A reader that counts the voxels it reads inside the case."""

    read_voxels: list[int] = field(default_factory=list)

    def read(self, place: Place, size: Sequence[int], *, clamp: bool) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        image, label = super().read(place, size, clamp=clamp)
        self.read_voxels.append(label.size)
        return image, label


@dataclass(frozen=True)
class LargestBox(Counting):
    """A reader that reads the largest box, then cuts out what was asked for."""

    def read(self, place: Place, size: Sequence[int], *, clamp: bool) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        box = tuple(
            max(wanted, edge + (edge - wanted) % 2)
            for wanted, edge in zip(size, largest_box(self.patch_size), strict=True)
        )
        image, label = super().read(place, box, clamp=clamp)
        cut = tuple(slice((edge - wanted) // 2, (edge + wanted) // 2) for edge, wanted in zip(box, size, strict=True))
        return np.ascontiguousarray(image[(slice(None), *cut)]), np.ascontiguousarray(label[cut])


def main() -> None:
    arguments = _arguments()
    with tempfile.TemporaryDirectory() as folder:
        store = PreparedStore(Path(folder), 3)
        shape = _prepare(store, arguments.scan, arguments.cases)
        cases = [f"case_{number}" for number in range(arguments.cases)]
        print(f"{arguments.scan.name}, {shape}, {len(cases)} times; patch {arguments.patch}, batches of {BATCH}")
        _time_index(store, cases)
        print(f"{'way':<14}{'workers':>8}{'patches/s':>11}{'CPU ms a patch':>16}{'voxels read per patch voxel':>30}")
        for kind, name in ((Counting, "footprint"), (LargestBox, "largest box")):
            ratio, seconds = _cost(kind, store, cases, arguments)
            for workers in arguments.workers:
                rate = _rate(kind, store, cases, arguments, workers)
                print(f"{name:<14}{workers:>8}{rate:>11.1f}{seconds * 1e3:>16.1f}{ratio:>30.2f}", flush=True)


def _prepare(store: PreparedStore, scan: Path, cases: int) -> tuple[int, ...]:
    image = np.asanyarray(nib.load(scan).dataobj).T
    label = np.digitize(image, (-950, -700, -200)).astype(np.uint8)
    for number in range(cases):
        store.save(PreparedCase(image.astype(np.int16)[None], label, bare_record(f"case_{number}", label.shape)))
    return label.shape


def bare_record(case: str, shape: Sequence[int]) -> PreparedRecord:
    """Return the record of a case that was not cropped or resampled, [z, y, x] at 1 mm, without statistics."""
    z, y, x = shape
    geometry = CaseGeometry(
        canonical_spacing_mm=(1, 1, 1),
        oriented_shape=(z, y, x),
        crop_box=((0, z), (0, y), (0, x)),
        prepared_shape=(z, y, x),
        transpose=(0, 1, 2),
    )
    return PreparedRecord(
        case=case,
        recipe_sha256="",
        input_sha256=(),
        image_sha256="",
        label_sha256=None,
        geometry=geometry,
        statistics_all=(),
        statistics_foreground=(),
        label_voxels={},
    )


def _time_index(store: PreparedStore, cases: Sequence[str]) -> None:
    started = time.perf_counter()
    index = ForegroundIndex(store, cases, 4)
    opened = time.perf_counter() - started
    rng = np.random.default_rng(0)
    started = time.perf_counter()
    for number in range(1000):
        index.draw(cases[number % len(cases)], rng)
    drawn = (time.perf_counter() - started) / 1000
    started = time.perf_counter()
    for case in cases:
        label = np.asarray(store.label(case)[:]).ravel()
        for value in range(1, 4):
            np.flatnonzero(label == value)
    before = time.perf_counter() - started
    voxels = sum(sum(found.counts.values()) for found in index.found.values())
    stored = sum(found.path.stat().st_size for found in index.found.values())
    print(
        f"locations of {voxels} voxels in {stored} bytes: opened in {opened * 1e3:.1f} ms (reading the label maps: "
        f"{before * 1e3:.0f} ms), a draw takes {drawn * 1e6:.0f} microseconds"
    )


def _batches(kind: type[Counting], store: PreparedStore, cases: Sequence[str], arguments: Any) -> TrainingBatches:
    normalisation = Normalisation(channels=(ChannelScaling(scheme="none"),))
    patch = tuple(arguments.patch)
    reader = kind(store, normalisation, patch)
    for case in cases:  # no statistics of the image are needed
        reader._by_image[case] = normalisation
    return TrainingBatches(
        reader=reader,
        sampler=PatchSampler(ForegroundIndex(store, cases, 4), tuple(cases), patch, 1 / 3, seed=0, fold="0"),
        settings=AugmentationSettings(rotation_degrees=30.0, scale=(0.7, 1.4)),
        transforms=(),
        mirror_axes=(1, 2),
        spacing_mm=(1.0, 1.0, 1.0),
        batch_size=BATCH,
        iterations=arguments.batches,
    )


def _cost(kind: type[Counting], store: PreparedStore, cases: Sequence[str], arguments: Any) -> tuple[float, float]:
    """Voxels asked for per voxel of the patch, and seconds of processor time a patch, in this process."""
    batches = _batches(kind, store, cases, arguments)
    started = time.process_time()
    for number in range(arguments.batches):
        batches[0, number]
    seconds = time.process_time() - started
    assert isinstance(batches.reader, Counting)
    ratio = statistics.fmean(batches.reader.read_voxels) / math.prod(arguments.patch)
    return ratio, seconds / (arguments.batches * BATCH)


def _rate(kind: type[Counting], store: PreparedStore, cases: Sequence[str], arguments: Any, workers: int) -> float:
    """Patches a second, from the first batch to the last."""
    steps = [(0, number) for number in range(arguments.batches)]
    stream = load_batches(_batches(kind, store, cases, arguments), steps, workers=workers)
    next(stream)
    started = time.perf_counter()
    made = sum(BATCH for _ in stream)
    return made / (time.perf_counter() - started)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scan", type=Path, default=SCANS / "ricord1a_001012_2mm_0000.nii.gz")
    parser.add_argument("--patch", type=int, nargs=3, default=[64, 96, 96])
    parser.add_argument("--cases", type=int, default=4)
    parser.add_argument("--batches", type=int, default=60)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    return parser.parse_args()


if __name__ == "__main__":
    main()
