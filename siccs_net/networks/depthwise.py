"""Depthwise convolution in 2D and 3D whose gradients on a CPU are computed as forward convolutions.

oneDNN runs the forward of a depthwise convolution ten to a hundred times as fast as its gradients. Both gradients are
themselves depthwise convolutions: of the output's gradient with the flipped kernel, and of the input with the
output's gradient as the kernel. Measured by `benchmarks/train_step.py`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from siccs_net.errors import UsageError

CHANNELS_LAST = {2: torch.channels_last, 3: torch.channels_last_3d}
_CONVOLVE = {2: functional.conv2d, 3: functional.conv3d}
# The gradient of a weight sums one product a position. Tiles of at most so many keep the float32 error of that sum
# at about 1e-6, and are as fast as whole volumes.
POSITIONS_PER_TILE = 2**15


class DepthwiseConv(nn.Module):
    """One odd kernel a channel, stride 1, output as large as the input: [b, c, *spatial] -> [b, c, *spatial].

    Raises UsageError for an even kernel or a number of axes other than 2 or 3.
    """

    def __init__(self, width: int, kernel: Sequence[int]) -> None:
        super().__init__()
        if len(kernel) not in _CONVOLVE or any(size % 2 == 0 for size in kernel):
            raise UsageError("a depthwise kernel needs two or three odd sizes", found=tuple(kernel))
        self.weight = nn.Parameter(torch.empty(width, 1, *kernel))
        self.bias = nn.Parameter(torch.empty(width))
        bound = 1 / math.sqrt(math.prod(kernel))
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        return depthwise_conv(x, self.weight, self.bias)

    def extra_repr(self) -> str:
        return f"{len(self.bias)}, kernel={tuple(self.weight.shape[2:])}"


def depthwise_conv(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Convolve each channel of x [b, c, *spatial] with its own odd kernel, weight [c, 1, *kernel], and add bias [c].

    On a CPU that computes gradients this runs in float32 also under autocast (bfloat16 gradients are slower) and
    returns float32 in channels-last memory. Elsewhere it is torch's own convolution.
    """
    learns = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (x, weight, bias))
    if x.device.type != "cpu" or not learns:
        return _convolve(x, weight, bias)
    with torch.autocast("cpu", enabled=False):
        result: Tensor = _DepthwiseOnCpu.apply(_full_precision(x), weight, bias)  # type: ignore[no-untyped-call]
    return result


def weight_gradient(x: Tensor, gradient: Tensor, kernel: Sequence[int]) -> Tensor:
    """Return d loss / d weight [c, 1, *kernel] from x and d loss / d output, both [b, c, *spatial].

    At tap k it is the sum over positions p of x[p + k - kernel // 2] * gradient[p]: a depthwise convolution of x with
    tiles of the gradient as kernels, summed over tiles and samples.
    """
    shape = x.shape[2:]
    total = x.new_zeros((x.shape[1], *kernel))
    for sample, tile in itertools.product(range(len(x)), _tiles(shape)):
        inner = [slice(start, stop) for start, stop in tile]
        taps = gradient[sample : sample + 1, :, *inner].transpose(0, 1)
        total += _convolve(_with_halo(x[sample : sample + 1], tile, kernel), taps, None, padding=0)[0]
    return total.unsqueeze(1)


def _with_halo(x: Tensor, tile: Sequence[tuple[int, int]], kernel: Sequence[int]) -> Tensor:
    """Return a tile of x [1, c, *spatial] with half a kernel around it: zeros beyond x."""
    sides = [(start - size // 2, stop + size // 2) for (start, stop), size in zip(tile, kernel, strict=True)]
    ends = list(zip(sides, x.shape[2:], strict=True))
    inside = [slice(max(low, 0), min(high, size)) for (low, high), size in ends]
    missing = [(max(-low, 0), max(high - size, 0)) for (low, high), size in ends]
    return functional.pad(x[:, :, *inside], [side for pair in reversed(missing) for side in pair])


def _tiles(shape: Sequence[int]) -> Iterator[tuple[tuple[int, int], ...]]:
    """Yield boxes, a (start, stop) an axis, that cover the shape, each of at most `POSITIONS_PER_TILE` positions."""
    edge = math.floor(POSITIONS_PER_TILE ** (1 / len(shape)) + 1e-9)
    cuts = []
    for size in shape:
        parts = math.ceil(size / edge)
        cuts.append([(size * part // parts, size * (part + 1) // parts) for part in range(parts)])
    yield from itertools.product(*cuts)


class _DepthwiseOnCpu(torch.autograd.Function):
    """The convolution with both gradients as forward convolutions in channels-last memory."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        x = x.contiguous(memory_format=CHANNELS_LAST[x.ndim - 2])
        ctx.save_for_backward(x, weight)
        return _convolve(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        spatial = tuple(range(2, x.ndim))
        for_x, for_weight, for_bias = ctx.needs_input_grad
        gradient = gradient.contiguous(memory_format=CHANNELS_LAST[len(spatial)])
        with torch.autocast("cpu", enabled=False):
            return (
                _convolve(gradient, weight.flip(spatial), None) if for_x else None,
                weight_gradient(x, gradient, weight.shape[2:]) if for_weight else None,
                gradient.sum((0, *spatial)) if for_bias else None,
            )


def _convolve(x: Tensor, weight: Tensor, bias: Tensor | None, padding: int | None = None) -> Tensor:
    widths = [size // 2 for size in weight.shape[2:]] if padding is None else padding
    convolved: Tensor = _CONVOLVE[x.ndim - 2](x, weight, bias, padding=widths, groups=x.shape[1])
    return convolved


def _full_precision(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
