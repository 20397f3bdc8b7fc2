"""Which case and which place of it each training sample shows; and the fixed patches of validation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from siccs_net.data.foreground import ForegroundIndex, Location
from siccs_net.data.streams import stream
from siccs_net.errors import DatasetError, UsageError


@dataclass(frozen=True)
class Place:
    """A patch centre: a case and a voxel of it (plan axes)."""

    case: str
    centre: Location


@dataclass(frozen=True)
class PatchSampler:
    """Draws the place of any sample of a training as a pure function of its counters.

    Cases come in shuffled passes, so that each is seen equally often. `foreground_fraction` of the samples are
    centred on a voxel of a foreground class, classes equally often unless weighted; the others lie anywhere in the
    case, or where it is labelled in part show a labelled voxel, in their centre if the case goes on around it. With
    `end_of_batch` the share is exact: the last samples of each batch, as nnU-Net has it.
    """

    index: ForegroundIndex
    cases: tuple[str, ...]
    patch_size: tuple[int, ...]
    foreground_fraction: float
    seed: int
    fold: str
    class_weights: Mapping[int, float] | None = None
    end_of_batch: bool = False

    def place(self, epoch: int, iteration: int, sample: int, *, iterations: int, batch_size: int) -> Place:
        """Return the place of one sample of one iteration."""
        number = (epoch * iterations + iteration) * batch_size + sample
        case = self._case(number)
        rng = stream(self.seed, self.fold, "place", epoch, iteration, sample)
        chosen = rng.random() < self.foreground_fraction
        if self.end_of_batch:
            chosen = sample >= round(batch_size * (1 - self.foreground_fraction))
        if chosen and (centre := self.index.draw(case, rng, self.class_weights)):
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
    """Return the validation places: the same in every epoch, cases in turn, balanced over the classes.

    Every case is used before any is used twice. Each place is centred on the class of its case that is a centre least
    often so far; the first of equals is the one least used in this case, then the one that fewest cases have. A case
    without foreground is represented by a labelled voxel where it is labelled in part, else by its middle. Raises
    DatasetError without a case.
    """
    if not cases:
        raise DatasetError(f"fold {fold} has no validation case")
    having = Counter(value for case in cases for value in index.present(case))
    used: Counter[int] = Counter()
    used_here: Counter[tuple[str, int]] = Counter()
    places = []
    for number in range(max(count, len(cases))):
        case = cases[number % len(cases)]
        rng = stream(seed, fold, "validation", number)
        ranked = [(used[value], used_here[case, value], having[value], value) for value in index.present(case)]
        if not ranked:
            z, y, x = (size // 2 for size in index.shapes[case])
            places.append(Place(case, index.draw_labelled(case, rng) or (z, y, x)))
            continue
        value = min(ranked)[-1]
        used[value] += 1
        used_here[case, value] += 1
        places.append(Place(case, index.draw_of(case, value, rng)))
    return places


def class_weights(
    setting: str | Mapping[str, float], labels: Sequence[str], counts: Mapping[int, int]
) -> dict[int, float] | None:
    """Return how often each class is a centre, by class number, relative to each other; None means equally often.

    `setting` is uniform, inverse_frequency (of `counts`, the training voxels of each class) or weights by label; a
    label not named has the weight 1. `labels` are the names by class number, background first. Raises UsageError for
    a label that there is not, and for weights that are negative or all 0.
    """
    if setting == "uniform":
        return None
    if isinstance(setting, str):
        total = sum(counts.values())
        return {value: total / count for value, count in counts.items() if count > 0}
    unknown = [name for name in setting if name not in labels[1:]]
    if unknown:
        found = ", ".join(map(str, unknown))
        raise UsageError("class_sampling names no label", found=found, expected=", ".join(labels[1:]))
    weights = {value: float(setting.get(name, 1.0)) for value, name in enumerate(labels) if value > 0}
    if min(weights.values()) < 0 or not any(weights.values()):
        raise UsageError("class_sampling needs weights of 0 or more, not all 0", found=dict(setting))
    return weights


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
