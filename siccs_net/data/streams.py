"""Random numbers as a pure function of (seed, fold, epoch, iteration, sample, purpose).

Any sample can be drawn again at any time, by any worker; resuming continues the very same stream.
"""

from __future__ import annotations

import zlib

import numpy as np


def stream(seed: int, fold: str, purpose: str, *counters: int) -> np.random.Generator:
    """Return the generator of one purpose at one place, such as ("augment", epoch, iteration, sample)."""
    key = (seed, zlib.crc32(fold.encode()), zlib.crc32(purpose.encode()), *counters)
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))


def torch_seed(seed: int, fold: str, purpose: str, *counters: int) -> int:
    """Return a 63-bit seed for torch's generator at one place."""
    return int(stream(seed, fold, purpose, *counters).integers(2**63))
