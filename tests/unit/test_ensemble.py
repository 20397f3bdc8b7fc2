"""The mean over mirrors and folds, of networks that return logits or a list of them."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from siccs_net.inference.ensemble import Ensemble, Member
from siccs_net.records.checkpoint import Numerics
from siccs_net.records.statistics import ChannelScaling, Normalisation


class _Twice(nn.Module):
    def __init__(self, *, as_list: bool) -> None:
        super().__init__()
        self.as_list = as_list

    def forward(self, images):
        logits = torch.cat([images, 2 * images], dim=1)
        return [logits, logits[..., ::2, ::2, ::2]] if self.as_list else logits


def _mean_of(network, mirror_axes):
    numerics = Numerics(device="cpu", precision="float32", threads=1, deterministic=True)
    member = Member("0", network, Normalisation(channels=(ChannelScaling(scheme="none"),)))
    tiles = np.arange(4 * 4 * 4, dtype=np.float32).reshape(1, 1, 4, 4, 4)
    made = Ensemble([member, member], mirror_axes, torch.device("cpu"), numerics)(tiles, ((0, 0),) * 3)
    return tiles, made


def test_the_finest_of_a_list_of_outputs_is_taken():
    for mirror_axes in ((), (0, 2)):
        tiles, made = _mean_of(_Twice(as_list=True), mirror_axes)
        assert np.array_equal(made.numpy(), np.concatenate([tiles, 2 * tiles], axis=1))
        assert torch.equal(made, _mean_of(_Twice(as_list=False), mirror_axes)[1])
