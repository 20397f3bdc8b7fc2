"""Stages on whole volumes: resampling, export, CLAHE, reading, surface metrics. Peers: nnU-Net, scikit-image, MONAI."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.compare.agreement import Agreement, LargestDifference, ShareEqual
from benchmarks.compare.data import ONE_MM, SCAN, full_ct
from benchmarks.compare.harness import Run, Stage

CLAHE_SHAPE = (40, 320, 320)
LEVELS = 2**14
LABELS, LOGITS, SMALL = "labels.npy", "logits.npy", "small.npy"
SURFACE_LIMIT = 1e-9


def _one_mm_shape() -> tuple[int, int, int]:
    from siccs_net.preprocessing.resample import resampled_shape

    image, spacing = full_ct()
    return resampled_shape(image.shape, spacing, ONE_MM)


def _peer_resample(data: NDArray[Any], shape: Any, old: Any, new: Any, *, is_seg: bool, order: int) -> NDArray[Any]:
    from nnunetv2.preprocessing.resampling.default_resampling import resample_data_or_seg_to_shape

    resampled: NDArray[Any] = resample_data_or_seg_to_shape(
        data, shape, old, new, is_seg=is_seg, order=order, order_z=0
    )
    return resampled


def our_image(folder: Path) -> Run:
    from siccs_net.preprocessing.resample import resample_image

    (image, _), shape = full_ct(), _one_mm_shape()
    resample_image(image[:8], (10, 64, 64), order=3)
    return lambda: resample_image(image, shape, order=3)


def their_image(folder: Path) -> Run:
    image, spacing = full_ct()
    wide, shape = image.astype(np.float32)[None], _one_mm_shape()  # nnU-Net reads float32
    del image
    _peer_resample(wide[:, :8], (10, 64, 64), spacing, ONE_MM, is_seg=False, order=3)
    return lambda: _peer_resample(wide, shape, spacing, ONE_MM, is_seg=False, order=3)[0]


def share_labels(folder: Path) -> None:
    """Draw a label map of the scan."""
    from benchmarks.resample import draw_labels

    np.save(folder / LABELS, draw_labels(full_ct()[0]))


def our_labels(folder: Path) -> Run:
    from siccs_net.preprocessing.resample_labels import resample_labels

    labels, shape = np.load(folder / LABELS), _one_mm_shape()
    resample_labels(labels[:8], (10, 64, 64))
    return lambda: resample_labels(labels, shape)


def their_labels(folder: Path) -> Run:
    labels, (_, spacing), shape = np.load(folder / LABELS).astype(np.int8)[None], full_ct(), _one_mm_shape()
    _peer_resample(labels[:, :8], (10, 64, 64), spacing, ONE_MM, is_seg=True, order=1)
    return lambda: _peer_resample(labels, shape, spacing, ONE_MM, is_seg=True, order=1)[0]


def share_logits(folder: Path) -> None:
    """Draw logits of four classes at 1 mm."""
    from benchmarks.resample import draw_labels, draw_logits
    from siccs_net.preprocessing.resample_labels import resample_labels

    np.save(folder / LOGITS, draw_logits(resample_labels(draw_labels(full_ct()[0]), _one_mm_shape())))


def our_export(folder: Path) -> Run:
    from benchmarks.resample import our_export as export

    logits, native = np.load(folder / LOGITS), full_ct()[0].shape
    export(np.ascontiguousarray(logits[:, :8]), (6, *native[1:]))
    return lambda: export(logits, native)


def their_export(folder: Path) -> Run:
    logits, (image, spacing) = np.load(folder / LOGITS), full_ct()
    native = image.shape
    del image
    _peer_resample(logits[:, :4, :64, :64], (5, 70, 70), ONE_MM, spacing, is_seg=False, order=1)

    def run() -> NDArray[np.uint8]:
        resized = _peer_resample(logits, native, ONE_MM, spacing, is_seg=False, order=1)
        mask: NDArray[np.uint8] = resized.argmax(0).astype(np.uint8)
        return mask

    return run


def share_small(folder: Path) -> None:
    """The scan at the paper's shape, windowed to [0, 1]."""
    from siccs_net.preprocessing.resample import resample_image

    windowed = (resample_image(full_ct()[0], CLAHE_SHAPE, order="area") + 1024) / 1624
    np.save(folder / SMALL, np.clip(windowed, 0, 1, dtype=np.float32))


def our_clahe(folder: Path) -> Run:
    from benchmarks.clahe import ours

    prepared = np.load(folder / SMALL)
    ours(np.ascontiguousarray(prepared[:16, :32, :32]))
    return lambda: ours(prepared)


def their_clahe(folder: Path) -> Run:
    from benchmarks.clahe import scikit_image

    prepared = np.load(folder / SMALL)
    scikit_image(np.ascontiguousarray(prepared[:16, :32, :32]))
    return lambda: scikit_image(prepared)


def levels_agree(own: NDArray[Any], theirs: NDArray[Any]) -> Agreement:
    from siccs_net.preprocessing.clahe import FULL_SCALE

    steps = float((np.abs(own.astype(int) - np.rint(theirs * FULL_SCALE)) * (LEVELS - 1) / FULL_SCALE).max())
    return Agreement(f"max {steps:.2g} levels of 2^14", steps <= 1)


def our_reading(folder: Path) -> Run:
    from siccs_net.io.image import read_image

    return lambda: read_image([SCAN]).array


def their_reading(folder: Path) -> Run:
    from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

    reader = SimpleITKIO()
    return lambda: reader.read_images([str(SCAN)])[0]


def same_voxels(own: NDArray[Any], theirs: NDArray[Any]) -> Agreement:
    """The scan is stored in our canonical orientation, so that both return it in one order."""
    equal = np.array_equal(own, theirs)
    return Agreement("every voxel equal" if equal else "the voxels differ", equal)


def our_surface(folder: Path) -> Run:
    from benchmarks.surface_metrics import real_pair, synthetic_pair, with_siccs

    with_siccs(real_pair(), 2)  # imports
    pair = synthetic_pair()
    return lambda: with_siccs(pair, 2)


def their_surface(folder: Path) -> Run:
    from benchmarks.surface_metrics import real_pair, synthetic_pair, with_monai

    with_monai(real_pair(), 1)
    pair = synthetic_pair()
    return lambda: with_monai(pair, 1)


def surfaces_agree(own: dict[str, Any], theirs: dict[str, Any]) -> Agreement:
    """Compare with MONAI's own distances as it has them before it rounds distances, ranks and results to float32."""
    from benchmarks.surface_metrics import largest_difference, synthetic_pair, with_monai_in_float64

    exact = largest_difference(own, with_monai_in_float64(synthetic_pair(), 1))
    rounded = largest_difference(own, theirs)
    text = f"max difference {exact:.1e} to MONAI kept in float64 ({rounded:.1e} to its results, which are float32)"
    return Agreement(text, exact <= SURFACE_LIMIT)


STAGES = (
    Stage("resample_image", "nnU-Net", our_image, their_image, LargestDifference("HU", 2e-3)),
    Stage(
        "resample_labels",
        "nnU-Net",
        our_labels,
        their_labels,
        ShareEqual(0.999, ": ties, and nnU-Net's holes where classes meet"),
        share=share_labels,
    ),
    Stage("export", "nnU-Net", our_export, their_export, ShareEqual(0.99999), share=share_logits),
    Stage("clahe", "scikit-image", our_clahe, their_clahe, levels_agree, share=share_small),
    Stage("read", "nnU-Net", our_reading, their_reading, same_voxels),
    Stage("surface", "MONAI", our_surface, their_surface, surfaces_agree),
)
