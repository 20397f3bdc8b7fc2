"""Phantoms that no demo model was trained on, and Dice of predicted masks: what several benchmarks share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from siccs_net.cli.demo import HELD_OUT, PATIENTS
from siccs_net.io.image import Image
from siccs_net.testing.phantom import PhantomPatient, make_patient

UNIONS = {"lung": (1, 2, 3), "EF+GGO": (2, 3)}


def held_out_phantoms(count: int, *, seed: int = 0) -> list[tuple[PhantomPatient, Image]]:
    """Return so many phantoms after the demo's own, with their images."""
    first = PATIENTS + HELD_OUT
    made = [make_patient(index, seed=seed) for index in range(first, first + count)]
    return [(phantom, Image.from_array(phantom.image, spacing_mm=phantom.spacing_mm)) for phantom in made]


def dice(found: NDArray[Any], wanted: NDArray[Any], values: Sequence[int]) -> float:
    """Return the Dice of a union of labels; 1 where neither has any."""
    first, second = np.isin(found, values), np.isin(wanted, values)
    size = int(first.sum()) + int(second.sum())
    return 1.0 if size == 0 else 2 * int((first & second).sum()) / size
