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


class _Scaled(torch.nn.Module):
    """Logits that tell which network made them, and that it ran where no gradient is kept."""

    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, images):
        assert torch.is_inference_mode_enabled()
        return torch.cat([self.factor * images, images.square()], dim=1)


def test_passes_side_by_side_give_the_same_mean():
    numerics = Numerics(device="cpu", precision="float32", threads=2, deterministic=True)
    scaling = Normalisation(channels=(ChannelScaling(scheme="none"),))
    members = [Member(str(fold), _Scaled(fold + 0.3), scaling) for fold in range(3)]
    tiles = np.random.default_rng(0).normal(size=(1, 1, 4, 4, 4)).astype(np.float32)
    threads = torch.get_num_threads()
    found = [
        Ensemble(members, (0, 2), torch.device("cpu"), numerics, side_by_side=count)(tiles, ((0, 0),) * 3)
        for count in (1, 2, 5)
    ]
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])
    np.testing.assert_allclose(found[0][0, 0].numpy(), 1.3 * tiles[0, 0], rtol=1e-6)
    assert torch.get_num_threads() == threads
