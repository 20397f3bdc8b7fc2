"""The ConvNeXt V2 block against timm's numbers and against the paper's pseudo code, written out independently."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from make_timm_convnextv2_block import SHAPE, sines
from torch import Tensor, nn

from siccs_net.networks.blocks import ConvNeXtBlock, GlobalResponseNorm, relative_response

TIMM = json.loads(Path(__file__).with_name("timm_convnextv2_block.json").read_text())
# timm's names of the parameters, and ours.
NAMES = {
    "conv_dw": "depthwise",
    "norm": "norm",
    "mlp.fc1": "expand",
    "mlp.grn": "grn",
    "mlp.fc2": "project",
}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Tiny tensors: threads would only wait for each other on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class PseudoCodeBlock(nn.Module):
    """Woo et al. 2023, Algorithm 1 and Fig. 5, with torch.norm, in channels-last order; 2D or 3D."""

    def __init__(self, width: int, kernel: tuple[int, ...]) -> None:
        super().__init__()
        conv = nn.Conv2d if len(kernel) == 2 else nn.Conv3d
        self.depthwise = conv(width, width, kernel, padding=tuple(k // 2 for k in kernel), groups=width)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.expand = nn.Linear(width, 4 * width)
        self.gamma = nn.Parameter(torch.zeros(4 * width))
        self.beta = nn.Parameter(torch.zeros(4 * width))
        self.project = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        order = (0, *range(2, x.ndim), 1)
        hidden = nn.functional.gelu(self.expand(self.norm(self.depthwise(x).permute(order))))
        gx = torch.norm(hidden, p=2, dim=tuple(range(1, x.ndim - 1)), keepdim=True)
        nx = gx / (gx.mean(dim=-1, keepdim=True) + 1e-6)
        hidden = self.gamma * (hidden * nx) + self.beta + hidden
        back = (0, x.ndim - 1, *range(1, x.ndim - 1))
        return x + self.project(hidden).permute(back)


def pair(width: int, kernel: tuple[int, ...]) -> tuple[ConvNeXtBlock, PseudoCodeBlock]:
    """Our block and the pseudo code's with the same random weights, GRN's included."""
    torch.manual_seed(0)
    ours, reference = ConvNeXtBlock(width, kernel), PseudoCodeBlock(width, kernel)
    nn.init.normal_(ours.grn.weight)
    nn.init.normal_(ours.grn.bias)
    weights = {
        name.replace("grn.weight", "gamma").replace("grn.bias", "beta"): w for name, w in ours.state_dict().items()
    }
    reference.load_state_dict(weights)
    return ours, reference


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 2e-9)])
def test_block_equals_timm(dtype: torch.dtype, tolerance: float) -> None:
    block = ConvNeXtBlock(SHAPE[1], (7, 7)).to(dtype)
    with torch.no_grad():
        for number, name in enumerate(TIMM["parameters"]):
            module, _, kind = name.rpartition(".")
            parameter = block.get_parameter(f"{NAMES[module]}.{kind}")
            assert list(parameter.shape) == TIMM["parameters"][name]
            parameter.copy_(sines(tuple(parameter.shape), number, 0.3))
    expected = torch.tensor(TIMM["output"], dtype=dtype).reshape(SHAPE)
    assert (block(sines(SHAPE, 100, 1.0).to(dtype)) - expected).abs().max() < tolerance


@pytest.mark.parametrize(
    ("kernel", "shape"),
    [((7, 7), (2, 16, 20, 17)), ((7, 7, 7), (2, 8, 6, 9, 10)), ((3, 7, 7), (1, 8, 4, 12, 9)), ((5, 3), (1, 4, 8, 8))],
)
def test_block_equals_pseudo_code(kernel: tuple[int, ...], shape: tuple[int, ...]) -> None:
    ours, reference = pair(shape[1], kernel)
    x = torch.randn(shape)
    assert (ours(x) - reference(x)).abs().max() < 1e-5
    with torch.no_grad():
        assert (ours(x) - reference(x)).abs().max() < 1e-5


def test_gradients_equal_pseudo_codes() -> None:
    ours, reference = pair(6, (3, 7, 7))
    x = torch.randn(2, 6, 5, 9, 8, dtype=torch.float64)
    gradients = []
    for block in (ours.double(), reference.double()):
        image = x.clone().requires_grad_()
        (block(image) * torch.cos(x)).sum().backward()
        gradients.append([image.grad, *(parameter.grad for parameter in block.parameters())])
    by_shape = [sorted(found[1:], key=lambda g: (g.numel(), float(g.sum()))) for found in gradients]
    torch.testing.assert_close(gradients[0][0], gradients[1][0], rtol=1e-9, atol=1e-10)
    for mine, theirs in zip(*by_shape, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-10)


def test_grn_has_a_finite_gradient_at_zero() -> None:
    """The unguarded root does not: it ended a training in NaN."""
    layer = GlobalResponseNorm(4)
    nn.init.ones_(layer.weight)
    x = torch.zeros(1, 3, 3, 4, requires_grad=True)
    layer(x).sum().backward()
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()
    unguarded = torch.zeros(1, 3, 3, 4, requires_grad=True)
    unguarded.square().sum((1, 2)).sqrt().sum().backward()
    assert not torch.isfinite(unguarded.grad).all()


def test_new_grn_changes_nothing() -> None:
    x = torch.randn(2, 3, 5, 8)
    assert torch.equal(GlobalResponseNorm(8)(x), x)


def test_grn_statistics_are_float32_under_autocast() -> None:
    """bfloat16 has 8 bits: a sum of 64^3 squares of about 1 in it would be far off."""
    torch.manual_seed(0)
    x = (1 + 0.1 * torch.randn(1, 32, 32, 32, 8)).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        response = relative_response(x)
        scaled = GlobalResponseNorm(8)(x)
    assert response.dtype is torch.float32
    assert scaled.dtype is torch.bfloat16
    norm = x.double().square().sum((1, 2, 3), keepdim=True).sqrt()
    torch.testing.assert_close(response.double(), norm / norm.mean(-1, keepdim=True), rtol=1e-5, atol=0)
