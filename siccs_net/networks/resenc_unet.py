"""nnU-Net's U-Net with a residual encoder, from a plan's description.

Source: Isensee et al., "nnU-Net Revisited", MICCAI 2024; the residual block with average pooling in its skip is
ResNet-D's (He et al., "Bag of Tricks for Image Classification", CVPR 2019). The decoder is the plain U-Net's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from siccs_net.networks.blocks import in_fast_memory, run_level
from siccs_net.networks.plain_unet import NEGATIVE_SLOPE, ConvNormAct, Decoder, initialise_he
from siccs_net.networks.shapes import check_size
from siccs_net.records.network import NetworkSpec

AVERAGE_POOL: dict[int, Callable[..., nn.Module]] = {2: nn.AvgPool2d, 3: nn.AvgPool3d}


class ResidualEncoderUNet(nn.Module):
    """[b, channels, *patch] -> logits [b, classes, *patch]; while training under deep supervision a list of them.

    That list has the logits of every decoder level, from the input's resolution to the coarsest but the bottleneck.
    Set `checkpointing` to recompute each level's activations in the backward pass instead of keeping them.
    Raises UsageError for a patch that is no multiple of the total stride.
    """

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        self.spec = spec
        self.checkpointing = False
        self.stem = ConvNormAct(spec.in_channels, spec.widths[0], spec.kernel_sizes[0])
        self.encoder = nn.ModuleList(_encoder_levels(spec))
        self.decoder = Decoder(spec)
        self.apply(initialise_he)
        self.apply(_silence_branch)

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        check_size(self.spec, x.shape[2:])
        features = [self.stem(in_fast_memory(x))]
        for level in self.encoder:
            features.append(run_level(level, features[-1], recompute=self.checkpointing))
        every = self.training and self.spec.deep_supervision
        logits: list[Tensor] = self.decoder(features[1:], every_level=every, recompute=self.checkpointing)
        return logits if every else logits[0]


class ResidualBlock(nn.Module):
    """Two convolutions with norms, added to the skip, then LeakyReLU; the first convolution changes width and size."""

    def __init__(self, inputs: int, outputs: int, kernel: Sequence[int], stride: Sequence[int]) -> None:
        super().__init__()
        self.first = ConvNormAct(inputs, outputs, kernel, stride)
        self.second = ConvNormAct(outputs, outputs, kernel, activation=False)
        self.skip = projection(inputs, outputs, stride)
        self.activation = nn.LeakyReLU(NEGATIVE_SLOPE, inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.activation(self.second(self.first(x)) + self.skip(x))
        return result


def projection(inputs: int, outputs: int, stride: Sequence[int]) -> nn.Module:
    """Return a block's skip: average pooling where it strides, then a pointwise convolution where widths differ."""
    parts: list[nn.Module] = []
    if any(step > 1 for step in stride):
        parts.append(AVERAGE_POOL[len(stride)](tuple(stride), tuple(stride)))
    if inputs != outputs:
        parts.append(ConvNormAct(inputs, outputs, (1,) * len(stride), activation=False, bias=False))
    return nn.Sequential(*parts)


def _encoder_levels(spec: NetworkSpec) -> list[nn.Module]:
    inputs = (spec.widths[0], *spec.widths)
    ones = (1,) * spec.dimension
    levels = []
    for before, width, kernel, count, stride in zip(
        inputs, spec.widths, spec.kernel_sizes, spec.blocks_encoder, spec.strides, strict=False
    ):
        others = [ResidualBlock(width, width, kernel, ones) for _ in range(count - 1)]
        levels.append(nn.Sequential(ResidualBlock(before, width, kernel, stride), *others))
    return list(levels)


def _silence_branch(module: nn.Module) -> None:
    """Start a residual block as its skip: the last norm's scale and shift are 0."""
    if isinstance(module, ResidualBlock):
        for parameter in module.second.norm.parameters():
            nn.init.zeros_(parameter)
