"""How far two answers agree: in words, and whether that is as far as they must."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Agreement:
    """How far two answers agree, and whether the stated tolerance holds."""

    text: str
    holds: bool = True


@dataclass(frozen=True)
class LargestDifference:
    """Compares two arrays voxel by voxel; their largest difference must not exceed `limit`."""

    unit: str
    limit: float

    def __call__(self, ours: NDArray[Any], peer: NDArray[Any]) -> Agreement:
        largest = largest_difference(ours, peer)
        return Agreement(f"max difference {largest:.1e} {self.unit}", largest <= self.limit)


def largest_difference(ours: NDArray[Any], peer: NDArray[Any]) -> float:
    """Return the largest absolute difference of two arrays, in float64."""
    return float(np.abs(np.asarray(ours, np.float64) - peer).max())


@dataclass(frozen=True)
class ShareEqual:
    """Compares two label maps; at least `limit` (a share of all voxels) must be equal."""

    limit: float
    why: str = ""

    def __call__(self, ours: NDArray[Any], peer: NDArray[Any]) -> Agreement:
        if ours.shape != peer.shape:
            return Agreement(f"shapes {ours.shape} and {peer.shape} differ", False)
        equal = int(np.count_nonzero(ours == peer))
        text = f"{100 * equal / ours.size:.4f} % of voxels equal ({ours.size - equal} differ{self.why})"
        return Agreement(text, equal >= self.limit * ours.size)
