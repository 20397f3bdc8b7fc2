"""Which voxels of a case belong to each class: the centres of foreground patches, drawn without reading a label map."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from siccs_net.io.locations import LabelLocations
from siccs_net.io.store import PreparedStore

Location = tuple[int, int, int]


class ForegroundIndex:
    """Voxels of the foreground classes of each case, or with `regions` (sets of classes) of each region, from 1.

    It holds counts only, whatever the number and size of the cases; a voxel is looked up in the mapped file beside
    the prepared case. Every voxel of a class is as likely as any other.
    """

    def __init__(
        self, store: PreparedStore, cases: Sequence[str], classes: int, *, regions: Sequence[Sequence[int]] = ()
    ) -> None:
        members = regions or [(value,) for value in range(1, classes)]
        self.members = {number: tuple(values) for number, values in enumerate(members, start=1)}
        self.found: dict[str, LabelLocations] = {case: store.locations(case) for case in cases}
        self.shapes: dict[str, Location] = {case: found.shape for case, found in self.found.items()}

    def count(self, case: str, value: int) -> int:
        """Return how many voxels of a class, or region, the case has."""
        return sum(self.found[case].counts.get(member, 0) for member in self.members[value])

    def present(self, case: str) -> list[int]:
        """Foreground classes, or regions, that the case has."""
        return [value for value in self.members if self.count(case, value)]

    def draw(self, case: str, rng: np.random.Generator, weights: Mapping[int, float] | None = None) -> Location | None:
        """Draw a voxel of a class of the case (classes equally often unless weighted); None without foreground."""
        classes = self.present(case)
        chance = np.array([1.0 if weights is None else weights.get(value, 1.0) for value in classes])
        if not chance.any():
            return None
        return self.draw_of(case, classes[int(rng.choice(len(classes), p=chance / chance.sum()))], rng)

    def draw_of(self, case: str, value: int, rng: np.random.Generator) -> Location:
        """Draw a voxel of a class, or region, that the case has."""
        return self._draw(case, self.members[value], rng)

    def draw_labelled(self, case: str, rng: np.random.Generator) -> Location | None:
        """Draw an annotated voxel of a case that is annotated in part; None when it is whole, or not at all."""
        found = self.found[case]
        return self._draw(case, tuple(found.counts), rng) if found.ignored and found.counts else None

    def _draw(self, case: str, members: Sequence[int], rng: np.random.Generator) -> Location:
        found = self.found[case]
        number = int(rng.integers(sum(found.counts.get(member, 0) for member in members)))
        for member in members:
            if number < found.counts.get(member, 0):
                return found.voxel(member, number)
            number -= found.counts.get(member, 0)
        raise IndexError("a number below the sum of counts lies in one of them")
