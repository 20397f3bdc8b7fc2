"""The depthwise convolution with its own gradients against torch's autograd and finite differences."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from siccs_net.errors import UsageError
from siccs_net.networks import depthwise
from siccs_net.networks.depthwise import CHANNELS_LAST, DepthwiseConv, depthwise_conv, weight_gradient


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Tiny tensors: threads would only wait for each other on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def case(shape: tuple[int, ...], kernel: tuple[int, ...], dtype: torch.dtype = torch.float64) -> tuple[Tensor, ...]:
    """Image, weight and bias that want gradients, and the gradient of the output."""
    generator = torch.Generator().manual_seed(0)
    shapes = (shape, (shape[1], 1, *kernel), (shape[1],), shape)
    x, weight, bias, upstream = (torch.randn(size, generator=generator, dtype=dtype) for size in shapes)
    return x.requires_grad_(), weight.requires_grad_(), bias.requires_grad_(), upstream


def torchs(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The same by torch's own function."""
    convolve = functional.conv2d if x.ndim == 4 else functional.conv3d
    return convolve(x, weight, bias, padding=[size // 2 for size in weight.shape[2:]], groups=x.shape[1])


CASES = [
    ((2, 3, 6, 5), (3, 5)),
    ((1, 2, 4, 5, 6), (3, 3, 3)),
    ((2, 3, 3, 6, 7), (3, 7, 7)),
    ((3, 1, 2, 2, 2), (5, 1, 7)),
]


@pytest.mark.parametrize(("shape", "kernel"), CASES)
def test_gradcheck(shape: tuple[int, ...], kernel: tuple[int, ...]) -> None:
    x, weight, bias, _ = case(shape, kernel)
    assert torch.autograd.gradcheck(depthwise_conv, (x, weight, bias), fast_mode=True)


@settings(max_examples=15)
@given(
    batch=st.integers(1, 3),
    width=st.integers(1, 5),
    sizes=st.lists(st.tuples(st.integers(1, 11), st.sampled_from([1, 3, 5, 7])), min_size=2, max_size=3),
    channels_last=st.booleans(),
    positions=st.sampled_from([1, 27, 2**15]),
)
def test_equals_torchs_autograd(
    batch: int, width: int, sizes: list[tuple[int, int]], channels_last: bool, positions: int
) -> None:
    """Any batch, width, size and odd kernel, either memory layout, one tile or many."""
    x, weight, bias, upstream = case((batch, width, *(n for n, _ in sizes)), tuple(k for _, k in sizes))
    if channels_last:
        x = x.detach().contiguous(memory_format=CHANNELS_LAST[len(sizes)]).requires_grad_()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(depthwise, "POSITIONS_PER_TILE", positions)
        ours = depthwise_conv(x, weight, bias)
        found = torch.autograd.grad(ours, (x, weight, bias), upstream)
    reference = torchs(x, weight, bias)
    torch.testing.assert_close(ours, reference, rtol=1e-10, atol=1e-10)
    for mine, theirs in zip(found, torch.autograd.grad(reference, (x, weight, bias), upstream), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("shape", "kernel"), [((1, 16, 34, 10, 12), (7, 5, 7)), ((2, 16, 190, 24), (7, 7))])
def test_float32_gradients_are_accurate(shape: tuple[int, ...], kernel: tuple[int, ...]) -> None:
    """oneDNN's kernels, several tiles: relative error near float32's resolution."""
    x, weight, bias, upstream = case(shape, kernel, torch.float32)
    found = torch.autograd.grad(depthwise_conv(x, weight, bias), (x, weight, bias), upstream)
    exact = [tensor.detach().double().requires_grad_() for tensor in (x, weight, bias)]
    expected = torch.autograd.grad(torchs(*exact), exact, upstream.double())
    for mine, theirs in zip(found, expected, strict=True):
        assert (mine - theirs).abs().max() < 2e-5 * theirs.abs().max()


def test_is_deterministic_for_any_number_of_threads() -> None:
    x, _, _, upstream = case((2, 32, 16, 20, 24), (7, 7, 7), torch.float32)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 2):
            torch.set_num_threads(threads)
            found.append(weight_gradient(x.detach(), upstream, (7, 7, 7)))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[1], found[2])


def test_learns_in_float32_under_autocast() -> None:
    x, weight, bias, upstream = case((1, 8, 6, 8, 8), (3, 7, 7), torch.float32)
    half = x.detach().bfloat16().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        ours = depthwise_conv(half, weight, bias)
        found = torch.autograd.grad(ours, (half, weight, bias), upstream)
    wide = half.detach().float().requires_grad_()
    reference = torchs(wide, weight, bias)
    assert ours.dtype is torch.float32
    torch.testing.assert_close(ours, reference, rtol=1e-5, atol=1e-5)
    assert [gradient.dtype for gradient in found] == [torch.bfloat16, torch.float32, torch.float32]
    expected = torch.autograd.grad(reference, (wide, weight, bias), upstream)
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine.float(), theirs, rtol=1e-2 if mine.dtype is torch.bfloat16 else 1e-4, atol=1e-3)


def test_follows_autocast_without_gradients() -> None:
    x, weight, bias, _ = case((1, 8, 6, 8), (3, 3), torch.float32)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert depthwise_conv(x, weight, bias).dtype is torch.bfloat16
    with torch.no_grad():
        assert torch.equal(depthwise_conv(x, weight, bias), torchs(x, weight, bias))


def test_only_wanted_gradients_are_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Frozen weights, as in fine-tuning, cost no weight gradient."""
    x, weight, bias, upstream = case((1, 2, 4, 4), (3, 3))
    monkeypatch.setattr(depthwise, "weight_gradient", lambda *_: pytest.fail("not wanted"))
    found = torch.autograd.grad(depthwise_conv(x, weight.detach(), bias.detach()), x, upstream)
    expected = torch.autograd.grad(torchs(x, weight, bias), x, upstream)
    torch.testing.assert_close(found, expected)


def test_output_stays_in_channels_last_memory() -> None:
    conv = DepthwiseConv(4, (3, 3, 3))
    assert conv(torch.randn(2, 4, 5, 6, 7)).is_contiguous(memory_format=torch.channels_last_3d)


@pytest.mark.parametrize("kernel", [(4, 3, 3), (7,)])
def test_refuses_other_kernels(kernel: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match="odd"):
        DepthwiseConv(4, kernel)
