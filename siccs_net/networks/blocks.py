"""The parts of which the ConvNeXt V2 U-Net is made, for 2D and 3D alike.

Source: Woo et al., "ConvNeXt V2: Co-designing and Scaling ConvNets with Masked Autoencoders", CVPR 2023. Activations
are [b, c, *spatial]. On a CPU they stay in channels-last memory, where "channels last" is a view: LayerNorm and the
pointwise layers then run on [b, *spatial, c] without a copy.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from siccs_net.networks.depthwise import CHANNELS_LAST, DepthwiseConv
from siccs_net.networks.fused_mlp import EPSILON, ROOT_GUARD, MlpWeights, fused_mlp, is_worth_fusing
from siccs_net.networks.whole_mlp import has_many_rows, whole_mlp

# torch 2.13's bfloat16 gradient of a conv3d weight reads memory that nobody wrote where the convolution is two voxels
# deep (CPU only; tests/unit/test_networks.py shows it). An input of four gives an output of two at stride 2.
DEEP_ENOUGH = 5


class Conv3d(nn.Conv3d):
    """torch's convolution; computed in float32 for thin inputs on a CPU, whose bfloat16 gradient may be garbage.

    One sample of one channel goes to oneDNN, in channels-last memory: torch's own choice is slower.
    """

    def forward(self, x: Tensor) -> Tensor:
        if (
            is_single_channel(x)
            and x.dtype == self.weight.dtype == torch.float32
            and self.bias is not None
            and not isinstance(self.padding, str)
        ):
            view = x.as_strided(x.shape, (x.numel(), 1, *x.stride()[2:4], 1))
            weight = self.weight.contiguous(memory_format=torch.channels_last_3d)
            return torch.mkldnn_convolution(
                view, weight, self.bias, self.padding, self.stride, self.dilation, self.groups
            )
        if x.device.type != "cpu" or x.shape[2] >= DEEP_ENOUGH or not torch.is_autocast_enabled("cpu"):
            return super().forward(x)
        with torch.autocast("cpu", enabled=False):
            return super().forward(x.float()).to(torch.get_autocast_dtype("cpu"))


def is_single_channel(x: Tensor) -> bool:
    """Say whether x is one sample [1, 1, z, y, x] in a row on a CPU, outside autocast and tracing."""
    alone = x.device.type == "cpu" and x.ndim == 5 and x.shape[:2] == (1, 1) and x.is_contiguous()
    return alone and not (torch.is_autocast_enabled("cpu") or _is_traced())


def _is_traced() -> bool:
    return bool(torch.jit.is_tracing() or torch.compiler.is_compiling())  # type: ignore[no-untyped-call, attr-defined]


class UpConv2d(nn.ConvTranspose2d):
    """torch's transposed convolution; on a CPU a matrix product where the kernel is the stride (`enlarge`)."""

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        return enlarge(x, self.weight, self.bias) if _is_product(self, x) else super().forward(x, output_size)


class UpConv3d(nn.ConvTranspose3d):
    """torch's transposed convolution; on a CPU a matrix product where the kernel is the stride (`enlarge`)."""

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        return enlarge(x, self.weight, self.bias) if _is_product(self, x) else super().forward(x, output_size)


def _is_product(conv: nn.ConvTranspose2d | nn.ConvTranspose3d, x: Tensor) -> bool:
    plain = conv.groups == 1 and not any((*conv.padding, *conv.output_padding)) and set(conv.dilation) == {1}
    return x.device.type == "cpu" and conv.kernel_size == conv.stride and plain and not _is_traced()


def enlarge(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return the transposed convolution of x [b, c, *spatial] whose kernel, of weight [c, out, *kernel], is its stride.

    Every voxel becomes a block of the kernel's size, so it is one matrix product and a change of order, which is
    faster than torch's own.
    """
    inputs, outputs, *stride = weight.shape
    matrix = weight.movedim(1, -1).reshape(inputs, -1)
    shift = None if bias is None else bias.repeat(math.prod(stride))
    blocks = functional.linear(to_channels_last(x), matrix.t(), shift)
    shape, axes = x.shape[2:], len(stride)
    blocks = blocks.reshape(len(x), *shape, *stride, outputs)
    pairs = [axis for pair in zip(range(1, axes + 1), range(axes + 1, 2 * axes + 1), strict=True) for axis in pair]
    large = blocks.permute(0, *pairs, 2 * axes + 1)
    return to_channels_first(
        large.reshape(len(x), *(size * factor for size, factor in zip(shape, stride, strict=True)), outputs)
    )


CONV: dict[int, Callable[..., nn.Module]] = {2: nn.Conv2d, 3: Conv3d}
TRANSPOSED_CONV: dict[int, Callable[..., nn.Module]] = {2: UpConv2d, 3: UpConv3d}
INSTANCE_NORM: dict[int, Callable[..., nn.Module]] = {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}
_LINEAR_MODE = {2: "bilinear", 3: "trilinear"}


def to_channels_last(x: Tensor) -> Tensor:
    """View [b, c, *spatial] as [b, *spatial, c]."""
    return x.movedim(1, x.ndim - 1)  # not -1, which torch's ONNX exporter gets wrong


def to_channels_first(x: Tensor) -> Tensor:
    """View [b, *spatial, c] as [b, c, *spatial]."""
    return x.movedim(x.ndim - 1, 1)


def in_fast_memory(x: Tensor) -> Tensor:
    """Return x [b, c, *spatial] in channels-last memory on a CPU; as it is elsewhere and where a graph is traced."""
    if x.device.type != "cpu" or torch.jit.is_tracing():  # type: ignore[no-untyped-call, attr-defined]
        return x
    return x.contiguous(memory_format=CHANNELS_LAST[x.ndim - 2])


def run_level(level: nn.Module, x: Tensor, *, recompute: bool) -> Tensor:
    """Run a level's blocks; with `recompute` their activations are computed again in the backward pass, not kept."""
    result: Tensor = checkpoint(level, x, use_reentrant=False) if recompute else level(x)
    return result


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of [b, c, *spatial]."""

    def __init__(self, width: int) -> None:
        super().__init__(width, eps=EPSILON)

    def forward(self, x: Tensor) -> Tensor:
        return to_channels_first(super().forward(to_channels_last(x)))


class PointwiseConv(nn.Linear):
    """A convolution with a kernel of one voxel: [b, c_in, *spatial] -> [b, c_out, *spatial]."""

    def forward(self, x: Tensor) -> Tensor:
        return to_channels_first(super().forward(to_channels_last(x)))


class MergingConv(PointwiseConv):
    """A pointwise convolution of two inputs side by side, which are never joined: saves a copy of both.

    [b, c_one, *spatial] and [b, c_other, *spatial] -> [b, c_out, *spatial], with c_one + c_other weights an output.
    """

    def forward(self, one: Tensor, other: Tensor) -> Tensor:  # type: ignore[override]
        first, second = self.weight[:, : one.shape[1]], self.weight[:, one.shape[1] :]
        merged = functional.linear(to_channels_last(one), first, self.bias)
        if torch.is_grad_enabled() or torch.is_autocast_enabled(one.device.type) or _is_traced():
            return to_channels_first(merged.add_(functional.linear(to_channels_last(other), second)))
        rows = merged.view(-1, merged.shape[-1])
        torch.addmm(rows, to_channels_last(other).flatten(0, -2), second.t(), out=rows)
        return to_channels_first(merged)


class GlobalResponseNorm(nn.Module):
    """ConvNeXt V2's global response normalisation of [b, *spatial, c]; statistics and scaling in float32.

    G = ||x||_2 over space, N = G / (mean of G over channels + 1e-6), out = gamma * (x * N) + beta + x. gamma and beta
    start at 0, so a new layer changes nothing.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(width))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        scale = 1 + self.weight * relative_response(x)
        return torch.addcmul(self.bias, x, scale).to(x.dtype)


def relative_response(x: Tensor) -> Tensor:
    """Return N of x [b, *spatial, c] as float32 [b, 1.., c]: each channel's norm over space by the channels' mean.

    The norm is the root of a sum of squares: torch.linalg.vector_norm over these axes took 42 % of a forward pass.
    """
    space = tuple(range(1, x.ndim - 1))
    with torch.autocast(x.device.type, enabled=False):
        wide = x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
        norm = (wide.square().sum(space, keepdim=True) + ROOT_GUARD).sqrt()
        return norm / (norm.mean(-1, keepdim=True) + EPSILON)


class StochasticDepth(nn.Module):
    """Drop a residual branch, sample by sample, with probability `rate` while training; the rest is scaled up.

    Draws from torch's global generator, so `torch.manual_seed` decides. Source: Huang et al., "Deep Networks with
    Stochastic Depth", ECCV 2016.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    @property
    def drops(self) -> bool:
        """Whether branches are dropped at present."""
        return self.training and self.rate > 0

    def forward(self, branch: Tensor) -> Tensor:
        if not self.drops:
            return branch
        kept = torch.rand(len(branch), device=branch.device) >= self.rate
        factor = kept.to(branch.dtype) / (1 - self.rate)
        return branch * factor.view(-1, *(1,) * (branch.ndim - 1))

    def extra_repr(self) -> str:
        return f"rate={self.rate:g}"


class ConvNeXtBlock(nn.Module):
    """Depthwise convolution, LayerNorm, pointwise expansion, GELU, GRN, pointwise projection, added to the input.

    [b, c, *spatial] -> [b, c, *spatial]. `kernel` has one odd size a spatial axis; there is no LayerScale. On a CPU
    all but the depthwise convolution runs as one function, unless `fused` is False: `fused_mlp`, which does not keep
    the expansion, for a large image and where nothing is learnt; `whole_mlp` for a small one, unless it has few rows
    beside the weights or a graph is traced.
    """

    def __init__(self, width: int, kernel: Sequence[int], mlp_ratio: int = 4, drop_rate: float = 0.0) -> None:
        super().__init__()
        self.depthwise = DepthwiseConv(width, kernel)
        self.norm = nn.LayerNorm(width, eps=EPSILON)
        self.expand = nn.Linear(width, mlp_ratio * width)
        self.grn = GlobalResponseNorm(mlp_ratio * width)
        self.project = nn.Linear(mlp_ratio * width, width)
        self.stochastic_depth = StochasticDepth(drop_rate)
        self.fused = True

    def forward(self, x: Tensor) -> Tensor:
        mixed = to_channels_last(self.depthwise(x))
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else mixed.dtype
        in_chunks = is_worth_fusing(mixed, self.expand.out_features, dtype)
        if not (self.fused and (in_chunks or (has_many_rows(mixed) and not _is_traced()))):
            return x + to_channels_first(self.stochastic_depth(self._mix(mixed)))
        if self.stochastic_depth.drops:
            return x + to_channels_first(self.stochastic_depth(self._mix_fused(mixed, None, dtype, in_chunks)))
        return to_channels_first(self._mix_fused(mixed, to_channels_last(x), dtype, in_chunks))

    def _mix(self, mixed: Tensor) -> Tensor:
        """Mix the channels of [b, *spatial, c], operation by operation."""
        expanded = functional.gelu(self.expand(self.norm(mixed)))
        projected: Tensor = self.project(self.grn(expanded))
        return projected

    def _mix_fused(self, mixed: Tensor, residual: Tensor | None, dtype: torch.dtype, in_chunks: bool) -> Tensor:
        """Mix the channels of [b, *spatial, c], whose memory is used up; add the residual."""
        weights = MlpWeights(
            *(self.norm.weight, self.norm.bias, self.expand.weight, self.expand.bias),
            *(self.grn.weight, self.grn.bias, self.project.weight, self.project.bias),
        )
        with torch.autocast("cpu", enabled=False):
            wide = weights.norm_weight.dtype
            rows = mixed.flatten(1, -2).to(wide)
            added = None if residual is None else residual.flatten(1, -2).to(wide)
            if in_chunks:
                return fused_mlp(rows, weights, dtype, added, overwrite=True).view(mixed.shape)
            return whole_mlp(rows, weights, dtype, added).view(mixed.shape)


class Downsampling(nn.Sequential):
    """LayerNorm, then a convolution with kernel = stride: [b, c_in, *spatial] -> [b, c_out, *spatial / stride].

    While training on a CPU the normalised input is computed again in the backward pass, not kept: it is as large as
    the input, which the level's skip connection keeps anyway.
    """

    def __init__(self, inputs: int, outputs: int, stride: Sequence[int]) -> None:
        super().__init__(ChannelNorm(inputs), CONV[len(stride)](inputs, outputs, tuple(stride), tuple(stride)))

    def forward(self, x: Tensor) -> Tensor:
        recompute = x.device.type == "cpu" and x.requires_grad
        result: Tensor = checkpoint(self._both, x, use_reentrant=False) if recompute else self._both(x)
        return result

    def _both(self, x: Tensor) -> Tensor:
        norm, conv = self
        result: Tensor = conv(norm(x))
        return result


class LinearUpsampling(nn.Module):
    """Pointwise convolution, then linear interpolation (the two commute; this order is cheaper)."""

    def __init__(self, inputs: int, outputs: int, stride: Sequence[int]) -> None:
        super().__init__()
        self.pointwise = PointwiseConv(inputs, outputs)
        self.stride = tuple(float(factor) for factor in stride)

    def forward(self, x: Tensor) -> Tensor:
        mode = _LINEAR_MODE[len(self.stride)]
        return functional.interpolate(self.pointwise(x), scale_factor=self.stride, mode=mode, align_corners=False)


def upsampling(kind: str, inputs: int, outputs: int, stride: Sequence[int]) -> nn.Module:
    """Return what multiplies the size by `stride`: a transposed convolution (kernel = stride), or linear."""
    if kind == "linear":
        return LinearUpsampling(inputs, outputs, stride)
    return TRANSPOSED_CONV[len(stride)](inputs, outputs, tuple(stride), tuple(stride))


def initialise(network: nn.Module, kind: str) -> None:
    """Draw the weights of a network from a truncated normal; biases are 0.

    `truncated_normal` has sigma 0.02 everywhere, as ConvNeXt V2; `fan_in` one over the root of the number of inputs
    of each output, which keeps the variance of activations (LeCun et al., "Efficient BackProp", 1998).
    """
    for module in network.modules():
        if not isinstance(module, nn.Linear | DepthwiseConv | nn.modules.conv._ConvNd):
            continue
        nn.init.trunc_normal_(module.weight, std=0.02 if kind == "truncated_normal" else _inputs(module) ** -0.5)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def _inputs(module: nn.Module) -> int:
    """Number of inputs of each output; a transposed convolution whose kernel is its stride has one per channel."""
    weight = module.weight
    if not isinstance(weight, Tensor):
        raise TypeError(f"{type(module).__name__} has no weight")
    transposed = isinstance(module, nn.modules.conv._ConvTransposeNd)
    return int(weight.shape[0]) if transposed else weight[0].numel()
