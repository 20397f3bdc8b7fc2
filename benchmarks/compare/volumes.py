"""Stages on whole volumes: resampling, export, CLAHE, reading, surface metrics. Peers: nnU-Net, scikit-image, MONAI."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.compare.data import SCAN, full_ct, largest_difference, voxels_that_differ
from benchmarks.compare.harness import Pair, Stage
from benchmarks.resample import CLASSES, draw_labels, draw_logits, our_export

ONE_MM = (1.0, 1.0, 1.0)
CLAHE_SHAPE = (40, 320, 320)


def _to_one_mm() -> tuple[NDArray[Any], tuple[float, ...], tuple[int, int, int]]:
    from siccs_net.preprocessing.resample import resampled_shape

    image, spacing = full_ct()
    return image, spacing, resampled_shape(image.shape, spacing, ONE_MM)


def _peer_resample(data: NDArray[Any], shape: Any, old: Any, new: Any, *, is_seg: bool, order: int) -> NDArray[Any]:
    from nnunetv2.preprocessing.resampling.default_resampling import resample_data_or_seg_to_shape

    resampled: NDArray[Any] = resample_data_or_seg_to_shape(
        data, shape, old, new, is_seg=is_seg, order=order, order_z=0
    )
    return resampled


def resample_image() -> Pair:
    from siccs_net.preprocessing.resample import resample_image as ours

    image, spacing, shape = _to_one_mm()
    wide = image.astype(np.float32)[None]  # nnU-Net reads float32
    return Pair(
        lambda: ours(image, shape, order=3),
        lambda: _peer_resample(wide, shape, spacing, ONE_MM, is_seg=False, order=3)[0],
        largest_difference("HU"),
    )


def resample_labels() -> Pair:
    from siccs_net.preprocessing.resample_labels import resample_labels as ours

    image, spacing, shape = _to_one_mm()
    labels = draw_labels(image)
    signed = labels.astype(np.int8)[None]
    return Pair(
        lambda: ours(labels, shape),
        lambda: _peer_resample(signed, shape, spacing, ONE_MM, is_seg=True, order=1)[0],
        voxels_that_differ,
    )


def export() -> Pair:
    from siccs_net.preprocessing.resample_labels import resample_labels as shrink

    image, spacing, shape = _to_one_mm()
    logits = draw_logits(shrink(draw_labels(image), shape))
    native = image.shape

    def peer() -> NDArray[Any]:
        resized = _peer_resample(logits, native, ONE_MM, spacing, is_seg=False, order=1)
        mask: NDArray[Any] = resized.argmax(0).astype(np.uint8)
        return mask

    assert len(logits) == CLASSES
    return Pair(lambda: our_export(logits, native), peer, voxels_that_differ)


def clahe() -> Pair:
    from benchmarks.clahe import ours, scikit_image
    from siccs_net.preprocessing.clahe import FULL_SCALE
    from siccs_net.preprocessing.resample import resample_image as resample

    image, _ = full_ct()
    windowed = (resample(image, CLAHE_SHAPE, order="area") + 1024) / 1624
    prepared = np.clip(windowed, 0, 1, dtype=np.float32)

    def levels(own: NDArray[Any], theirs: NDArray[Any]) -> str:
        steps = np.abs(own.astype(int) - np.rint(theirs * FULL_SCALE)) * (2**14 - 1) / FULL_SCALE
        return f"max {steps.max():.2g} levels of 2^14"

    return Pair(lambda: ours(prepared), lambda: scikit_image(prepared), levels)


def read() -> Pair:
    from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

    from siccs_net.io.image import read_image

    reader = SimpleITKIO()

    def same(own: Any, theirs: Any) -> str:
        # Ours is canonical LPS, theirs as stored; this scan is stored in LPS but for whole flips.
        return f"largest sorted difference {np.abs(np.sort(own, None) - np.sort(theirs, None)).max():g}"

    return Pair(lambda: read_image([SCAN]).array, lambda: reader.read_images([str(SCAN)])[0], same)


def surface() -> Pair:
    from benchmarks.surface_metrics import synthetic_pair, with_monai, with_siccs

    pair = synthetic_pair()

    def differ(own: dict[str, Any], theirs: dict[str, Any]) -> str:
        return f"max difference {max(np.abs(np.subtract(own[name], theirs[name])).max() for name in own):.1e}"

    return Pair(lambda: with_siccs(pair, 2), lambda: with_monai(pair, 1), differ)


STAGES = (
    Stage("resample_image", "nnU-Net", resample_image),
    Stage("resample_labels", "nnU-Net", resample_labels),
    Stage("export", "nnU-Net", export),
    Stage("clahe", "scikit-image", clahe),
    Stage("read", "nnU-Net", read),
    Stage("surface", "MONAI", surface, repeats=3),
)
