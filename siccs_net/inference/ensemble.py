"""The fold models of one configuration as one function: normalise, mirror, run, mean of logits."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import pad

from siccs_net.inference.sliding_window import Padding
from siccs_net.networks.numerics import autocast
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


@dataclass(frozen=True)
class Ensemble:
    """Mean of logits over mirrors, then over folds, in float32 (contracts 9).

    With `stage_labels` the last channel of the tiles is the previous stage's segmentation, with so many labels.
    """

    members: Sequence[Member]
    mirror_axes: tuple[int, ...]
    device: torch.device
    numerics: Numerics
    stage_labels: int = 0

    @torch.inference_mode()
    def __call__(self, tiles: NDArray[Any], padding: Padding) -> Tensor:
        """Return mean logits [b, classes, *patch] for prepared tiles [b, c, *inside]."""
        total: Tensor | None = None
        for member in self.members:
            logits = self._mirrored(member.network, self._prepare(tiles, padding, member.normalisation))
            total = logits if total is None else total.add_(logits)
        if total is None:
            raise RuntimeError("an ensemble has at least one member")
        return total.div_(len(self.members))

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

    def _mirrored(self, network: nn.Module, images: Tensor) -> Tensor:
        flips = [
            flip for size in range(len(self.mirror_axes) + 1) for flip in itertools.combinations(self.mirror_axes, size)
        ]
        total: Tensor | None = None
        for flip in flips:
            axes = [axis + 2 for axis in flip]
            with autocast(self.numerics):
                logits = _finest(network(images.flip(axes) if axes else images))
            logits = (logits.flip(axes) if axes else logits).float()
            total = logits if total is None else total.add_(logits)
        if total is None:
            raise RuntimeError("there is always the image itself")
        return total.div_(len(flips))


def _finest(outputs: Any) -> Tensor:
    """Return the logits: a network may return a list of resolutions in evaluation mode too, finest first."""
    finest: Tensor = outputs[0] if isinstance(outputs, list | tuple) else outputs
    return finest
