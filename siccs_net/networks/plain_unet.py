"""nnU-Net's plain U-Net, from a plan's description.

Source: Isensee et al., Nature Methods 18 (2021) 203-211. Convolution, instance norm and LeakyReLU, twice a level by
default; the first convolution of a level downsamples; transposed convolutions upsample.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from siccs_net.networks.blocks import CONV, INSTANCE_NORM, TRANSPOSED_CONV, in_fast_memory, run_level
from siccs_net.networks.shapes import check_size
from siccs_net.records.network import NetworkSpec

NEGATIVE_SLOPE = 0.01


class PlainUNet(nn.Module):
    """[b, channels, *patch] -> logits [b, classes, *patch]; while training under deep supervision a list of them.

    That list has the logits of every decoder level, from the input's resolution to the coarsest but the bottleneck.
    Set `checkpointing` to recompute each level's activations in the backward pass instead of keeping them.
    Raises UsageError for a patch that is no multiple of the total stride.
    """

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        self.spec = spec
        self.checkpointing = False
        self.encoder = nn.ModuleList(_encoder_levels(spec))
        self.decoder = Decoder(spec)
        self.apply(initialise_he)

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        check_size(self.spec, x.shape[2:])
        features = [in_fast_memory(x)]
        for level in self.encoder:
            features.append(run_level(level, features[-1], recompute=self.checkpointing))
        every = self.training and self.spec.deep_supervision
        logits: list[Tensor] = self.decoder(features[1:], every_level=every, recompute=self.checkpointing)
        return logits if every else logits[0]


class Decoder(nn.Module):
    """From features to logits, level by level: transposed convolution, skip, convolutions, a pointwise head."""

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        kind, transposed = CONV[spec.dimension], TRANSPOSED_CONV[spec.dimension]
        steps = list(zip(spec.widths, spec.widths[1:], spec.strides[1:], strict=False))
        self.up = nn.ModuleList(transposed(coarse, fine, stride, stride) for fine, coarse, stride in steps)
        self.levels = nn.ModuleList(
            stacked(2 * width, width, kernel, count)
            for width, kernel, count in zip(spec.widths, spec.kernel_sizes, spec.blocks_decoder, strict=False)
        )
        self.heads = nn.ModuleList(kind(fine, spec.classes, 1) for fine, _, _ in steps)

    def forward(self, features: Sequence[Tensor], *, every_level: bool, recompute: bool) -> list[Tensor]:
        """Return the logits of every level, finest first, or of the finest only."""
        x, logits = features[-1], []
        for level in reversed(range(len(self.levels))):
            joined = torch.cat([self.up[level](x), features[level]], 1)
            x = run_level(self.levels[level], joined, recompute=recompute)
            if every_level or level == 0:
                logits.append(self.heads[level](x))
        return logits[::-1]


class ConvNormAct(nn.Sequential):
    """Convolution (padded), instance norm (epsilon 1e-5, affine) and, unless it is left out, LeakyReLU."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: Sequence[int],
        stride: Sequence[int] | None = None,
        *,
        activation: bool = True,
        bias: bool = True,
    ) -> None:
        dimension = len(kernel)
        padding = tuple(size // 2 for size in kernel)
        step = (1,) * dimension if stride is None else tuple(stride)
        super().__init__()
        self.conv = CONV[dimension](inputs, outputs, tuple(kernel), step, padding, bias=bias)
        self.norm = INSTANCE_NORM[dimension](outputs, eps=1e-5, affine=True)
        if activation:
            self.activation = nn.LeakyReLU(NEGATIVE_SLOPE, inplace=True)


def stacked(
    inputs: int, outputs: int, kernel: Sequence[int], count: int, stride: Sequence[int] | None = None
) -> nn.Sequential:
    """Return `count` convolutions with norm and activation in a row; the first one changes width and size."""
    first = ConvNormAct(inputs, outputs, kernel, stride)
    return nn.Sequential(first, *(ConvNormAct(outputs, outputs, kernel) for _ in range(count - 1)))


def initialise_he(module: nn.Module) -> None:
    """Draw a convolution's weights as nnU-Net does: He normal for slope 0.01, biases 0. For `nn.Module.apply`."""
    if isinstance(module, nn.modules.conv._ConvNd):
        nn.init.kaiming_normal_(module.weight, a=NEGATIVE_SLOPE)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def _encoder_levels(spec: NetworkSpec) -> list[nn.Module]:
    inputs = (spec.in_channels, *spec.widths)
    levels = zip(inputs, spec.widths, spec.kernel_sizes, spec.blocks_encoder, spec.strides, strict=False)
    return [stacked(before, width, kernel, count, stride) for before, width, kernel, count, stride in levels]
