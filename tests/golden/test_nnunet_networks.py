"""Our plain and residual U-Nets give the logits that nnU-Net's own give for the same weights."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from make_timm_convnextv2_block import sines
from torch import nn

from siccs_net.networks.build import build_network
from siccs_net.records.network import NetworkSpec

THEIRS = json.loads(Path(__file__).with_name("nnunet_networks.json").read_text())["cases"]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Tiny tensors: threads would only wait for each other on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def describe(name: str, case: dict[str, Any]) -> NetworkSpec:
    """The case as a plan describes it."""
    dimension = len(case["strides"][0])
    return NetworkSpec(
        architecture="plain_unet" if name.startswith("plain") else "resenc_unet",
        dimension=2 if dimension == 2 else 3,
        in_channels=case["image"][1],
        classes=3,
        widths=tuple(case["widths"]),
        strides=tuple(map(tuple, case["strides"])),
        kernel_sizes=tuple(map(tuple, case["kernel_sizes"])),
        blocks_encoder=tuple(case["blocks_encoder"]),
        blocks_decoder=tuple(case["blocks_decoder"]),
        stem_stride=(1,) * dimension,
        deep_supervision=True,
    )


def ordered_parameters(network: nn.Module) -> list[nn.Parameter]:
    """The stem's and encoder's parameters, then level by level, finest first: up, convolutions, head."""
    modules = [network.stem] if hasattr(network, "stem") else []
    modules += list(network.encoder)
    decoder = network.decoder
    for parts in zip(decoder.up, decoder.levels, decoder.heads, strict=True):
        modules += parts
    return [parameter for module in modules for parameter in module.parameters()]


@pytest.mark.parametrize("name", THEIRS)
def test_logits_equal_nnunets(name: str) -> None:
    case = THEIRS[name]
    network = build_network(describe(name, case)).double().train()
    parameters = ordered_parameters(network)
    assert [list(parameter.shape) for parameter in parameters] == case["parameters"]
    assert len(parameters) == len(list(network.parameters()))
    with torch.no_grad():
        for number, parameter in enumerate(parameters):
            parameter.copy_(sines(tuple(parameter.shape), number, 0.5))
        outputs = network(sines(tuple(case["image"]), 100, 1.0))
    assert [list(logits.shape) for logits in outputs] == [logits["shape"] for logits in case["logits"]]
    for mine, theirs in zip(outputs, case["logits"], strict=True):
        expected = torch.tensor(theirs["values"], dtype=torch.float64)
        torch.testing.assert_close(mine.flatten()[::7], expected, rtol=0, atol=1e-5)
