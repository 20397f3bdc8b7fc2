"""The work of a forward pass against torch's own counter, on networks that are built."""

from __future__ import annotations

import pytest
import torch
from test_memory_model import described, patch, variants
from torch.utils.flop_counter import FlopCounterMode

from siccs_net.networks.blocks import ConvNeXtBlock
from siccs_net.networks.build import build_network
from siccs_net.planners.flops import forward_flops
from siccs_net.records.network import NetworkSpec


@pytest.mark.parametrize("spec", list(variants()), ids=described)
def test_flops_equal_torchs_counter(spec: NetworkSpec) -> None:
    network = build_network(spec).eval()
    for block in network.modules():
        if isinstance(block, ConvNeXtBlock):
            block.fused = False
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros((1, spec.in_channels, *patch(spec))))
    assert forward_flops(spec, patch(spec)) == counter.get_total_flops()
