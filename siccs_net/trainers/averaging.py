"""The average of a network's weights over the steps of a training."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn


class WeightAverage:
    """An exponential moving average of a network's weights: w <- d w + (1 - d) new, after every step.

    d is min(decay, (1 + step) / (10 + step)), so that the first weights, which are random, are forgotten soon.
    Buffers are the network's newest. `network` is the averaged copy, in evaluation mode.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.network = copy.deepcopy(network).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Take in the weights after a step (counted from 0 over the whole training)."""
        share = 1 - min(self.decay, (1 + step) / (10 + step))
        for average, new in zip(self.network.parameters(), network.parameters(), strict=True):
            average.lerp_(new.detach(), share)
        for copied, buffer in zip(self.network.buffers(), network.buffers(), strict=True):
            copied.copy_(buffer)

    def state(self) -> dict[str, Tensor]:
        """Return the averaged weights by name."""
        return dict(self.network.state_dict())

    def restore(self, weights: Mapping[str, Tensor]) -> None:
        """Put averaged weights back."""
        self.network.load_state_dict(dict(weights))
