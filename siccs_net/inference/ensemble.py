"""The fold models of one configuration as one function: normalise, mirror, run, mean of logits."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import pad

from siccs_net.inference.sliding_window import Padding
from siccs_net.networks.numerics import autocast
from siccs_net.parallel import run_parts
from siccs_net.preprocessing.previous_stage import one_hot
from siccs_net.preprocessing.statistics import apply_normalisation
from siccs_net.records.checkpoint import Numerics
from siccs_net.records.statistics import Normalisation


@dataclass(frozen=True)
class Member:
    """One fold: its network in evaluation mode on the device, and its own normalisation."""

    fold: str
    network: nn.Module
    normalisation: Normalisation
    weights_sha256: str = ""


_Pass = tuple[Member, tuple[int, ...]]
"""A member, and the spatial axes along which its input is mirrored."""


@dataclass(frozen=True)
class Ensemble:
    """Mean of logits over mirrors, then over folds, in float32 (contracts 9).

    On a CPU, passes through networks run `side_by_side`, so many at once. With `stage_labels` the last channel of the
    tiles is the previous stage's segmentation, with so many labels.
    """

    members: Sequence[Member]
    mirror_axes: tuple[int, ...]
    device: torch.device
    numerics: Numerics
    stage_labels: int = 0
    side_by_side: int = 1

    def __call__(self, tiles: NDArray[Any], padding: Padding) -> Tensor:
        """Return mean logits [b, classes, *patch] for prepared tiles [b, c, *inside]."""
        axes = self.mirror_axes
        flips = [flip for size in range(len(axes) + 1) for flip in itertools.combinations(axes, size)]
        passes = [(member, flip) for member in self.members for flip in flips]
        found = self._run_all(passes, tiles, padding)
        with torch.inference_mode():
            return _mean((_mean(found, len(flips)) for _ in self.members), len(self.members))

    def _run_all(self, passes: Sequence[_Pass], tiles: NDArray[Any], padding: Padding) -> Iterator[Tensor]:
        """Yield the logits of each pass in order; on a CPU `side_by_side` passes are computed at once.

        A small network has operations too short to be worth dividing among cores; whole passes are.
        """
        together = max(self.side_by_side, 1)
        threads = torch.get_num_threads()

        def run(one: _Pass) -> Tensor:
            if together > 1:
                torch.set_num_threads(max(1, threads // together))
            with torch.inference_mode():
                return self._run(one, self._prepare(tiles, padding, one[0].normalisation))

        for first in range(0, len(passes), together):
            try:
                found = run_parts(run, passes[first : first + together])
            finally:
                if together > 1:
                    torch.set_num_threads(threads)
            yield from found

    def _prepare(self, tiles: NDArray[Any], padding: Padding, normalisation: Normalisation) -> Tensor:
        normalised = np.stack([self._input(tile, normalisation) for tile in tiles])
        images = torch.from_numpy(normalised).to(self.device)
        if not any(before or after for before, after in padding):
            return images
        return pad(images, [width for pair in reversed(padding) for width in pair])

    def _input(self, tile: NDArray[Any], normalisation: Normalisation) -> NDArray[np.float32]:
        if not self.stage_labels:
            return apply_normalisation(tile, normalisation)
        shown = one_hot(tile[-1], self.stage_labels)
        return np.concatenate([apply_normalisation(tile[:-1], normalisation), shown])

    def _run(self, one: _Pass, images: Tensor) -> Tensor:
        member, flip = one
        axes = [axis + 2 for axis in flip]
        with autocast(self.numerics):
            logits = _finest(member.network(images.flip(axes) if axes else images))
        return (logits.flip(axes) if axes else logits).float()


def _mean(values: Iterable[Tensor], count: int) -> Tensor:
    """Return the mean of the next `count` values; takes no more of them."""
    some = itertools.islice(values, count)
    total = next(some)
    for value in some:
        total.add_(value)
    return total if count == 1 else total.div_(count)


def _finest(outputs: Any) -> Tensor:
    """Return the logits: a network may return a list of resolutions in evaluation mode too, finest first."""
    finest: Tensor = outputs[0] if isinstance(outputs, list | tuple) else outputs
    return finest
