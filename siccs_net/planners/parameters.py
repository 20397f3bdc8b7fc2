"""The exact number of parameters of the three networks, counted from their description without building them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from siccs_net.records.network import NetworkSpec

STEM_KERNEL = 7


def parameter_count(spec: NetworkSpec) -> int:
    """Return the number of trained numbers of the network that `spec` describes."""
    count = {"convnext_unet": _convnext_unet, "plain_unet": _plain_unet, "resenc_unet": _resenc_unet}
    return count[spec.architecture](spec)


def convolution(inputs: int, outputs: int, kernel: Sequence[int]) -> int:
    """A convolution's (or transposed convolution's) weights and biases."""
    return inputs * outputs * math.prod(kernel) + outputs


def normalisation(width: int) -> int:
    """Scale and shift of a LayerNorm or instance norm."""
    return 2 * width


def _convnext_unet(spec: NetworkSpec) -> int:
    return _convnext_stem(spec) + _convnext_levels(spec) + _convnext_resampling(spec) + _convnext_heads(spec)


def strided_stem(spec: NetworkSpec) -> bool:
    """Say whether the stem downsamples (and is undone by one more upsampling before the last head)."""
    return any(stride > 1 for stride in spec.stem_stride)


def _convnext_stem(spec: NetworkSpec) -> int:
    width = spec.widths[0]
    if not strided_stem(spec):
        return convolution(spec.in_channels, width, (3,) * spec.dimension)
    return convolution(spec.in_channels, width, (STEM_KERNEL,) * spec.dimension) + normalisation(width)


def _convnext_levels(spec: NetworkSpec) -> int:
    """The blocks of encoder and decoder, level by level."""
    blocks = [down + up for down, up in zip(spec.blocks_encoder, spec.blocks_decoder, strict=True)]
    levels = zip(blocks, spec.widths, spec.kernel_sizes, strict=True)
    return sum(number * _convnext_block(width, kernel, spec.mlp_ratio) for number, width, kernel in levels)


def _convnext_block(width: int, kernel: Sequence[int], mlp_ratio: int) -> int:
    """Depthwise convolution, LayerNorm, expansion, global response normalisation, projection back."""
    expanded = mlp_ratio * width
    depthwise = width * math.prod(kernel) + width
    pointwise = convolution(width, expanded, ()) + convolution(expanded, width, ())
    return depthwise + normalisation(width) + pointwise + normalisation(expanded)


def _convnext_resampling(spec: NetworkSpec) -> int:
    """Between two levels: LayerNorm and strided convolution down; up, and a pointwise convolution after the skip."""
    total = 0
    for fine, coarse, stride in zip(spec.widths, spec.widths[1:], spec.strides[1:], strict=False):
        up_kernel = stride if spec.upsampling == "transposed" else ()
        total += normalisation(fine) + convolution(fine, coarse, stride)
        total += convolution(coarse, fine, up_kernel) + convolution(2 * fine, fine, ())
    return total


def _convnext_heads(spec: NetworkSpec) -> int:
    """The last head, and under deep supervision a pointwise head for every other decoder level but the bottleneck."""
    strided = strided_stem(spec)
    supervised = spec.widths[0 if strided else 1 : -1] if spec.deep_supervision else ()
    others = sum(convolution(width, spec.classes, ()) for width in supervised)
    if not strided:
        return convolution(spec.widths[0], spec.classes, ()) + others
    width = head_width(spec)
    up_kernel = spec.stem_stride if spec.upsampling == "transposed" else ()
    up = convolution(spec.widths[0], width, up_kernel) + normalisation(width)
    return up + convolution(width, spec.classes, (3,) * spec.dimension) + others


def head_width(spec: NetworkSpec) -> int:
    """Return the channels between a strided stem's upsampling and the logits."""
    return max(spec.widths[0] // 2, spec.classes)


def _plain_unet(spec: NetworkSpec) -> int:
    inputs, encoder = spec.in_channels, 0
    for width, kernel, number in zip(spec.widths, spec.kernel_sizes, spec.blocks_encoder, strict=True):
        encoder += _stacked(inputs, width, kernel, number)
        inputs = width
    return encoder + _decoder(spec)


def _stacked(inputs: int, width: int, kernel: Sequence[int], number: int) -> int:
    """Convolutions in a row, each with an instance norm."""
    first = convolution(inputs, width, kernel)
    return first + (number - 1) * convolution(width, width, kernel) + number * normalisation(width)


def _decoder(spec: NetworkSpec) -> int:
    """nnU-Net's decoder: transposed convolution, skip, stacked convolutions and a pointwise head a level."""
    total = 0
    for level, number in enumerate(spec.blocks_decoder):
        width, coarse = spec.widths[level], spec.widths[level + 1]
        total += convolution(coarse, width, spec.strides[level + 1])
        total += _stacked(2 * width, width, spec.kernel_sizes[level], number)
        total += convolution(width, spec.classes, ())
    return total


def _resenc_unet(spec: NetworkSpec) -> int:
    total = _stacked(spec.in_channels, spec.widths[0], spec.kernel_sizes[0], 1)
    inputs = spec.widths[0]
    for width, kernel, number in zip(spec.widths, spec.kernel_sizes, spec.blocks_encoder, strict=True):
        total += _stacked(inputs, width, kernel, 2 * number)
        if inputs != width:
            total += inputs * width + normalisation(width)
        inputs = width
    return total + _decoder(spec)
