"""The fused channel mixing, in chunks and whole, against the block's own operations; gradients in float64."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from siccs_net.networks import fused_mlp, whole_mlp
from siccs_net.networks.blocks import ConvNeXtBlock


@pytest.fixture(autouse=True, params=["chunks", "whole"])
def how(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Fuse even a few rows, in several chunks, the last one shorter; or however many in one piece."""
    monkeypatch.setattr(fused_mlp, "WORTH_BYTES", 0 if request.param == "chunks" else 2**60)
    monkeypatch.setattr(fused_mlp, "CHUNK_BYTES", 24 * 8 * 10)
    monkeypatch.setattr(whole_mlp, "ROWS_A_CHANNEL", 0)
    return str(request.param)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def make_block(width: int = 6, dimension: int = 3, dtype: torch.dtype = torch.float64) -> ConvNeXtBlock:
    torch.manual_seed(0)
    block = ConvNeXtBlock(width, (3,) * dimension).to(dtype)
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.5)
    return block


def everything(block: ConvNeXtBlock, image: Tensor, *, fused: bool) -> list[Tensor]:
    """Output, gradient of the input and of all parameters, for one fixed gradient of the output."""
    block.fused = fused
    block.zero_grad()
    image = image.detach().requires_grad_()
    output = block(image)
    output.backward(torch.cos(torch.arange(output.numel(), dtype=output.dtype)).view(output.shape))
    gradients = [image.grad, *(parameter.grad for parameter in block.parameters())]
    return [output.detach(), *(gradient.clone() for gradient in gradients if gradient is not None)]


@pytest.mark.parametrize("shape", [(2, 6, 5, 6, 7), (1, 6, 1, 1, 1), (3, 6, 9, 11)])
def test_the_two_ways_agree(shape: tuple[int, ...]) -> None:
    block = make_block(dimension=len(shape) - 2)
    image = torch.randn(shape, dtype=torch.float64)
    fused, plain = (everything(block, image, fused=way) for way in (True, False))
    assert len(fused) == 2 + len(list(block.parameters()))
    for ours, reference in zip(fused, plain, strict=True):
        torch.testing.assert_close(ours, reference, rtol=1e-10, atol=1e-12)


def test_float32_agrees_to_its_accuracy() -> None:
    block = make_block(width=16, dtype=torch.float32)
    image = torch.randn(1, 16, 6, 8, 10)
    for ours, reference in zip(*(everything(block, image, fused=way) for way in (True, False)), strict=True):
        assert (ours - reference).abs().max() <= 1e-5 * reference.abs().max()


def test_gradients_are_those_of_the_function() -> None:
    block = make_block(width=3, dimension=2)
    image = torch.randn(2, 3, 3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, *_: block(x), (image, *block.parameters()))


def test_silent_channels_have_finite_gradients() -> None:
    """GRN's norm is 0 where nothing responds; its square root must not make the gradient infinite."""
    block = make_block()
    nn.init.zeros_(block.expand.weight)
    nn.init.zeros_(block.expand.bias)
    for tensor in everything(block, torch.randn(1, 6, 4, 4, 4, dtype=torch.float64), fused=True):
        assert torch.isfinite(tensor).all()


def test_bfloat16_products_come_close_and_return_float32() -> None:
    block = make_block(width=16, dtype=torch.float32)
    image = torch.randn(1, 16, 4, 8, 8)
    exact = everything(block, image, fused=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        coarse = everything(block, image, fused=True)
    for ours, reference in zip(coarse, exact, strict=True):
        assert ours.dtype == torch.float32
        assert torch.nn.functional.cosine_similarity(ours.flatten(), reference.flatten(), dim=0) > 0.99


def test_the_expansion_is_not_kept_or_kept_once(how: str) -> None:
    block, image = make_block(width=16, dtype=torch.float32), torch.randn(1, 16, 8, 8, 8)
    kept: dict[bool, int] = {}
    for fused in (True, False):
        block.fused = fused
        sizes: dict[int, int] = {}

        def hold(tensor: Tensor, sizes: dict[int, int] = sizes) -> Tensor:
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(hold, lambda tensor: tensor):
            block(image)
        kept[fused] = sum(sizes.values())
    assert kept[True] < kept[False] / (4 if how == "chunks" else 2)


@given(rows=st.integers(1, 40), chunk=st.integers(1, 20000), batch=st.integers(1, 3))
def test_chunks_change_nothing(rows: int, chunk: int, batch: int) -> None:
    block = make_block(width=3, dimension=2)
    image = torch.randn(batch, 3, rows, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(rows))
    before = fused_mlp.CHUNK_BYTES
    try:
        fused_mlp.CHUNK_BYTES = chunk
        mixed = everything(block, image, fused=True)
    finally:
        fused_mlp.CHUNK_BYTES = before
    for ours, reference in zip(mixed, everything(block, image, fused=False), strict=True):
        torch.testing.assert_close(ours, reference, rtol=1e-9, atol=1e-11)


def test_only_large_images_on_a_cpu_are_mixed_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused_mlp, "WORTH_BYTES", 4 * 64 * 1000)
    assert fused_mlp.is_worth_fusing(torch.zeros(1, 10, 10, 10, 16), 64, torch.float32)
    assert not fused_mlp.is_worth_fusing(torch.zeros(1, 10, 10, 10, 16), 64, torch.bfloat16)
    assert not fused_mlp.is_worth_fusing(torch.zeros(1, 10, 10, 9, 16), 64, torch.float32)
    assert not fused_mlp.is_worth_fusing(torch.zeros(1, 10, 10, 10, 16, device="meta"), 64, torch.float32)
    with torch.no_grad():
        assert fused_mlp.is_worth_fusing(torch.zeros(1, 1, 1, 1, 16), 64, torch.float32)


def test_few_rows_beside_the_weights_are_mixed_operation_by_operation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(whole_mlp, "ROWS_A_CHANNEL", 4)
    assert whole_mlp.has_many_rows(torch.zeros(2, 8, 8, 16))
    assert not whole_mlp.has_many_rows(torch.zeros(2, 7, 9, 16))
    assert not whole_mlp.has_many_rows(torch.zeros(2, 8, 8, 16, device="meta"))


@pytest.mark.parametrize("onednn", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_linear_gelu_is_gelu_of_linear(dtype: torch.dtype, onednn: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not onednn:  # as for bfloat16 on a processor without AVX-512
        monkeypatch.setattr(fused_mlp, "onednn_multiplies", lambda dtype: False)
    torch.manual_seed(0)
    rows, weight, bias = (torch.randn(size, dtype=dtype) for size in ((50, 12), (20, 12), (20,)))
    exact = nn.functional.gelu(nn.functional.linear(rows.double(), weight.double(), bias.double()))
    found = fused_mlp.linear_gelu(rows, weight, bias)
    assert found.dtype == dtype
    assert (found.double() - exact).abs().max() <= 16 * torch.finfo(dtype).eps * exact.abs().max()
