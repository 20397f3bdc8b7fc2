"""The ConvNeXt V2 U-Net of a plan, in 2D and 3D.

Source: Vahdani et al. 2026, a U-Net inspired by ConvNeXt V2; block of Woo et al., CVPR 2023. Assumed, because the
paper does not say: the full-resolution stem is a convolution of kernel 3 and its head pointwise; a strided stem is a
convolution of kernel 7, and one more upsampling before the head undoes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

from torch import Tensor, nn
from torch.nn import functional

from siccs_net.networks.blocks import (
    CONV,
    INSTANCE_NORM,
    ChannelNorm,
    ConvNeXtBlock,
    Downsampling,
    MergingConv,
    PointwiseConv,
    in_fast_memory,
    initialise,
    run_level,
    upsampling,
)
from siccs_net.networks.shapes import check_size, is_strided
from siccs_net.records.network import NetworkSpec

FULL_RESOLUTION_STEM_KERNEL = 3
STRIDED_STEM_KERNEL = 7


class ConvNeXtUNet(nn.Module):
    """[b, channels, *patch] -> logits [b, classes, *patch]; while training under deep supervision a list of them.

    That list goes from the input's resolution to the coarsest decoder level (`build.output_strides`). Set
    `checkpointing` to recompute each level's activations in the backward pass instead of keeping them.
    Raises UsageError for a patch that is no multiple of the total stride.
    """

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        self.spec = spec
        self.checkpointing = False
        encoder_rates, decoder_rates = _drop_rates(spec)
        steps = list(zip(spec.widths, spec.widths[1:], spec.strides[1:], strict=False))
        self.stem = _stem(spec)
        self.encoder = _levels(spec, encoder_rates)
        self.down = nn.ModuleList(Downsampling(fine, coarse, stride) for fine, coarse, stride in steps)
        self.decoder = _levels(spec, decoder_rates)
        self.up = nn.ModuleList(upsampling(spec.upsampling, coarse, fine, stride) for fine, coarse, stride in steps)
        self.merge = nn.ModuleList(MergingConv(2 * fine, fine) for fine, _, _ in steps)
        self.head = StridedHead(spec) if is_strided(spec) else PointwiseConv(spec.widths[0], spec.classes)
        self.supervision = nn.ModuleDict(
            {str(level): PointwiseConv(spec.widths[level], spec.classes) for level in _supervised_levels(spec)}
        )
        initialise(self, spec.initialisation)

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        check_size(self.spec, x.shape[2:])
        decoded = self._decode(self._encode(in_fast_memory(self.stem(x))))
        logits: Tensor = self.head(decoded[0])
        if not (self.training and self.spec.deep_supervision):
            return logits
        return [logits, *(head(decoded[int(level)]) for level, head in self.supervision.items())]

    def _encode(self, x: Tensor) -> list[Tensor]:
        """Return the features of each level, finest first."""
        features = [self._run(self.encoder[0], x)]
        for down, level in zip(self.down, islice(self.encoder, 1, None), strict=True):
            features.append(self._run(level, down(features[-1])))
        return features

    def _decode(self, features: list[Tensor]) -> list[Tensor]:
        """Return the decoded features of each level, finest first; lets go of the encoded ones when they are used."""
        decoded = [self._run(self.decoder[-1], features.pop())]
        for level in reversed(range(len(self.up))):
            joined = self.merge[level](self.up[level](decoded[-1]), features.pop())
            decoded.append(self._run(self.decoder[level], joined))
        return decoded[::-1]

    def _run(self, level: nn.Module, x: Tensor) -> Tensor:
        return run_level(level, x, recompute=self.checkpointing)


class StridedHead(nn.Module):
    """Undo the stem's stride: upsampling, instance norm, LeakyReLU, convolution of kernel 3 to the classes."""

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        width = max(spec.widths[0] // 2, spec.classes)
        self.up = upsampling(spec.upsampling, spec.widths[0], width, spec.stem_stride)
        self.norm = INSTANCE_NORM[spec.dimension](width, affine=True)
        self.conv = CONV[spec.dimension](width, spec.classes, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        normed = functional.leaky_relu(self.norm(self.up(x)), inplace=True)
        logits: Tensor = self.conv(in_fast_memory(normed))
        return logits


def _stem(spec: NetworkSpec) -> nn.Module:
    width, kind = spec.widths[0], CONV[spec.dimension]
    if not is_strided(spec):
        kernel = FULL_RESOLUTION_STEM_KERNEL
        return kind(spec.in_channels, width, kernel, padding=kernel // 2)
    kernel = STRIDED_STEM_KERNEL
    conv = kind(spec.in_channels, width, kernel, stride=spec.stem_stride, padding=kernel // 2)
    return nn.Sequential(conv, ChannelNorm(width))


def _levels(spec: NetworkSpec, rates: Sequence[Sequence[float]]) -> nn.ModuleList:
    """Return the blocks of each level, finest first, one for each of the level's drop rates."""
    return nn.ModuleList(
        nn.Sequential(*(ConvNeXtBlock(width, kernel, spec.mlp_ratio, rate) for rate in level))
        for width, kernel, level in zip(spec.widths, spec.kernel_sizes, rates, strict=True)
    )


def _drop_rates(spec: NetworkSpec) -> tuple[list[list[float]], list[list[float]]]:
    """Return the drop rates of the encoder's and the decoder's blocks by level, finest first.

    They rise linearly, in the order in which the blocks run, from 0 to the plan's `stochastic_depth`.
    """
    counts = [*spec.blocks_encoder, *reversed(spec.blocks_decoder)]
    last = max(sum(counts) - 1, 1)
    rising = iter([spec.stochastic_depth * number / last for number in range(sum(counts))])
    levels = [list(islice(rising, count)) for count in counts]
    deepest = len(spec.widths)
    return levels[:deepest], levels[deepest:][::-1]


def _supervised_levels(spec: NetworkSpec) -> list[int]:
    """Return the decoder levels with a head of their own: all but the bottleneck and the one that `head` reads."""
    first = 0 if is_strided(spec) else 1
    return list(range(first, len(spec.widths) - 1)) if spec.deep_supervision else []
