"""Which case and which place of it each training sample shows; and the fixed patches of validation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from siccs_net.data.foreground import ForegroundIndex, Location
from siccs_net.data.streams import stream
from siccs_net.errors import DatasetError


@dataclass(frozen=True)
class Place:
    """A patch centre: a case and a voxel of it (plan axes)."""

    case: str
    centre: Location


@dataclass(frozen=True)
class PatchSampler:
    """Draws the place of any sample of a training as a pure function of its counters.

    Cases come in shuffled passes, so that each is seen equally often. `foreground_fraction` of the samples are
    centred on a voxel of a foreground class, classes equally often; the others lie anywhere in the case, or where it
    is labelled in part show a labelled voxel, in their centre if the case goes on around it.
    """

    index: ForegroundIndex
    cases: tuple[str, ...]
    patch_size: tuple[int, ...]
    foreground_fraction: float
    seed: int
    fold: str
    class_weights: Mapping[int, float] | None = None

    def place(self, epoch: int, iteration: int, sample: int, *, iterations: int, batch_size: int) -> Place:
        """Return the place of one sample of one iteration."""
        number = (epoch * iterations + iteration) * batch_size + sample
        case = self._case(number)
        rng = stream(self.seed, self.fold, "place", epoch, iteration, sample)
        if rng.random() < self.foreground_fraction and (centre := self.index.draw(case, rng, self.class_weights)):
            return Place(case, centre)
        return Place(case, self._anywhere(case, rng))

    def _case(self, number: int) -> str:
        turn, position = divmod(number, len(self.cases))
        order = stream(self.seed, self.fold, "pass", turn).permutation(len(self.cases))
        return self.cases[int(order[position])]

    def _anywhere(self, case: str, rng: np.random.Generator) -> Location:
        shape = self.index.shapes[case]
        patch = (1,) * (3 - len(self.patch_size)) + self.patch_size
        inside = [
            (min(size // 2, edge // 2), max(size - edge + edge // 2, size // 2))
            for size, edge in zip(shape, patch, strict=True)
        ]
        if (voxel := self.index.draw_labelled(case, rng)) is None:
            z, y, x = (int(rng.integers(first, last + 1)) for first, last in inside)
        else:
            z, y, x = (min(max(at, first), last) for at, (first, last) in zip(voxel, inside, strict=True))
        return min(z, shape[0] - 1), min(y, shape[1] - 1), min(x, shape[2] - 1)


def fixed_places(index: ForegroundIndex, cases: Sequence[str], *, count: int, seed: int, fold: str) -> list[Place]:
    """Return the validation places: the same in every epoch, cases in turn, each centred on a class in turn.

    Every case is used before any is used twice; a case without foreground is represented by a labelled voxel where
    it is labelled in part, else by its middle. Raises DatasetError without a case.
    """
    if not cases:
        raise DatasetError(f"fold {fold} has no validation case")
    places = []
    for number in range(max(count, len(cases))):
        case = cases[number % len(cases)]
        turn = number // len(cases)
        classes = index.present(case)
        rng = stream(seed, fold, "validation", number)
        if classes:
            places.append(Place(case, index.draw_of(case, classes[turn % len(classes)], rng)))
        else:
            z, y, x = (size // 2 for size in index.shapes[case])
            places.append(Place(case, index.draw_labelled(case, rng) or (z, y, x)))
    return places


def read_box(array: Any, centre: Sequence[int], size: Sequence[int], *, fill: float, clamp: bool) -> NDArray[Any]:
    """Read a box of `size` about a centre from [*leading, *spatial], padded with `fill` where it leaves the array.

    With `clamp` a box that fits is moved inside the array first, so that it is padded only where the array is
    smaller than the box (then evenly on both sides).
    """
    spatial = array.shape[-len(size) :]
    starts = [_start(c, s, n, clamp=clamp) for c, s, n in zip(centre, size, spatial, strict=True)]
    ends = [(min(max(a, 0), n), min(max(a + s, 0), n)) for a, s, n in zip(starts, size, spatial, strict=True)]
    inner = [slice(first, last) for first, last in ends]
    leading = [slice(None)] * (len(array.shape) - len(size))
    part = np.asarray(array[(*leading, *inner)])
    before = [min(first - a, s) if a < first else 0 for a, s, (first, _) in zip(starts, size, ends, strict=True)]
    after = [s - b - (last - first) for s, b, (first, last) in zip(size, before, ends, strict=True)]
    if not any(before) and not any(after):
        return part
    widths = [(0, 0)] * len(leading) + list(zip(before, after, strict=True))
    return np.pad(part, widths, constant_values=fill)


def held_centre(centre: Sequence[int], size: Sequence[int], shape: Sequence[int]) -> tuple[int, ...]:
    """Return the centre moved so that a box of `size` about it lies inside an array, or evenly about a smaller one."""
    places = zip(centre, size, shape, strict=True)
    return tuple(_start(at, edge, extent, clamp=True) + edge // 2 for at, edge, extent in places)


def _start(centre: int, size: int, extent: int, *, clamp: bool) -> int:
    start = centre - size // 2
    if not clamp:
        return start
    if extent < size:
        return -((size - extent) // 2)
    return min(max(start, 0), extent - size)
