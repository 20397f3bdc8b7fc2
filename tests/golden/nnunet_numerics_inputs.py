"""Seeded inputs of the numbers in nnunet_numerics.json, drawn with numpy alone: by its maker and by the test."""

from __future__ import annotations

import numpy as np

IGNORED = 4
CLASSES = 4
LOSSES = [
    {"shape": (2, 6, 7, 8), "batch_dice": False, "ignored": False, "absent": None},
    {"shape": (2, 6, 7, 8), "batch_dice": True, "ignored": False, "absent": 2},
    {"shape": (3, 9, 10), "batch_dice": False, "ignored": False, "absent": 3},
    {"shape": (3, 9, 10), "batch_dice": True, "ignored": True, "absent": None},
    {"shape": (2, 5, 6, 7), "batch_dice": False, "ignored": True, "absent": 1},
]
DEEP_STRIDES = [(1, 1, 1), (1, 2, 2), (2, 4, 4), (4, 8, 8)]
RATE, EPOCHS = 1e-2, 1000
RATE_EPOCHS = [0, 1, 2, 10, 99, 250, 500, 777, 998, 999]
TILES = [(5, 7, 9), (8, 10, 6), (11, 15), (12, 16), (1, 13, 9)]
CT_PROPERTIES = {"mean": -512.25, "std": 287.125, "percentile_00_5": -980.0, "percentile_99_5": 121.0}
SAMPLES = 20_000
RESAMPLINGS = [
    {"shape": (14, 21, 18), "before": (2.0, 1.0, 1.5), "after": (1.25, 1.3, 1.0)},
    {"shape": (6, 24, 20), "before": (5.0, 0.8, 0.8), "after": (2.5, 1.0, 1.1)},
    {"shape": (20, 26, 8), "before": (1.0, 1.0, 4.0), "after": (1.3, 0.7, 1.5)},
    {"shape": (16, 17, 22), "before": (1.0, 1.0, 1.0), "after": (3.5, 0.8, 1.0)},
]
SOME = (slice(None, None, 2), slice(1, None, 3), slice(None, None, 3))
SPLIT_SIZES = [5, 12, 40, 41, 103]
PATCHES = [(96, 160, 160), (128, 128, 128), (128, 224, 224)]


def logits_and_labels(case: dict) -> tuple[np.ndarray, np.ndarray]:
    """Logits [b, classes, *spatial] float32 and labels [b, *spatial] int64."""
    rng = np.random.default_rng(11)
    batch, *spatial = case["shape"]
    logits = rng.normal(0, 2, (batch, CLASSES, *spatial)).astype(np.float32)
    labels = rng.integers(0, CLASSES, case["shape"])
    if case["absent"] is not None:
        labels[labels == case["absent"]] = 0
    if case["ignored"]:
        labels[rng.random(case["shape"]) < 0.4] = IGNORED
    return logits, labels


def deep_outputs() -> tuple[list[np.ndarray], np.ndarray]:
    """Logits of four resolutions, finest first, and labels [b, z, y, x] uint8 of the finest."""
    rng = np.random.default_rng(12)
    shape = (8, 16, 24)
    outputs = [
        rng.normal(0, 2, (2, CLASSES, *(n // s for n, s in zip(shape, strides, strict=True)))).astype(np.float32)
        for strides in DEEP_STRIDES
    ]
    return outputs, rng.integers(0, CLASSES, (2, *shape)).astype(np.uint8)


def tilings() -> list[tuple[tuple[int, ...], tuple[int, ...], float]]:
    """(image, tile, step): random ones, and the sizes where rounding a start is decided by the last bit."""
    rng = np.random.default_rng(13)
    found = [((68, 234, 254), (5, 5, 5), 0.5), ((16, 300, 301), (16, 16, 16), 0.5)]
    for step in (0.5,) * 30 + (0.25, 0.75, 1.0):
        tile = tuple(int(n) for n in rng.integers(16, 200, 3))
        found.append((tuple(n + int(rng.integers(0, 400)) for n in tile), tile, step))
    return found


def hounsfield_image() -> np.ndarray:
    """float32 [z, y, x] of whole Hounsfield units, air to bone."""
    rng = np.random.default_rng(14)
    return rng.choice([-1000, -850, -600, 0, 60, 700], (9, 20, 22)).astype(np.float32) + rng.integers(
        -40, 41, (9, 20, 22)
    ).astype(np.float32)


def foreground() -> np.ndarray:
    return np.random.default_rng(15).integers(0, 3, (9, 20, 22)).astype(np.int16)


def volume_and_labels(case: dict) -> tuple[np.ndarray, np.ndarray, tuple, tuple]:
    """A float32 image of whole HU, labels 1 to 3 of smooth regions that fill the volume, and the two spacings."""
    rng = np.random.default_rng(16)
    image = rng.integers(-1000, 400, case["shape"]).astype(np.float32)
    grids = np.meshgrid(*(np.linspace(0, 1, n) for n in case["shape"]), indexing="ij")
    waves = [sum(np.sin(rng.uniform(3, 9) * grid + rng.uniform(0, 6)) for grid in grids) for _ in range(3)]
    label = (np.stack(waves).argmax(axis=0) + 1).astype(np.uint8)
    return image, label, case["before"], case["after"]


def case_names(number: int) -> list[str]:
    return [f"case_{index}" for index in range(number)]
