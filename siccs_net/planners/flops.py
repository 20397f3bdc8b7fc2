"""How much a forward pass computes: the floating-point operations of all convolutions and linear layers.

A multiplication and an addition count as two, norms and activations are left out, as torch's own FLOP counter has it
(the tests compare with it). Counted from a network's description without building it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from siccs_net.planners.parameters import STEM_KERNEL, head_width, strided_stem
from siccs_net.planners.rules import level_volumes
from siccs_net.records.network import NetworkSpec


def forward_flops(spec: NetworkSpec, patch_size: Sequence[int]) -> int:
    """Return the floating-point operations of one prediction of one patch (deep supervision's heads left out)."""
    volumes = level_volumes(spec, patch_size)
    count = {"convnext_unet": _convnext_unet, "plain_unet": _plain_unet, "resenc_unet": _resenc_unet}
    return 2 * count[spec.architecture](spec, volumes, math.prod(patch_size))


def _convnext_unet(spec: NetworkSpec, volumes: Sequence[int], voxels: int) -> int:
    """Multiplications of stem, blocks, the ways down and up with the merges, and the head."""
    blocks = [down + up for down, up in zip(spec.blocks_encoder, spec.blocks_decoder, strict=True)]
    levels = zip(blocks, spec.widths, spec.kernel_sizes, volumes, strict=True)
    mixed = sum(
        number * volume * (width * math.prod(kernel) + 2 * spec.mlp_ratio * width * width)
        for number, width, kernel, volume in levels
    )
    between = sum(_between(spec, level, volumes) for level in range(len(volumes) - 1))
    return _stem(spec, volumes[0]) + mixed + between + _head(spec, volumes[0], voxels)


def _stem(spec: NetworkSpec, finest: int) -> int:
    kernel = STEM_KERNEL if strided_stem(spec) else 3
    return finest * spec.in_channels * spec.widths[0] * math.prod((kernel,) * spec.dimension)


def _between(spec: NetworkSpec, level: int, volumes: Sequence[int]) -> int:
    """Down to the next level (kernel = stride, so each fine voxel is used once), up from it, and the merge."""
    fine, coarse = spec.widths[level], spec.widths[level + 1]
    up = volumes[level] if spec.upsampling == "transposed" else volumes[level + 1]
    return volumes[level] * fine * coarse + up * fine * coarse + volumes[level] * 2 * fine * fine


def _head(spec: NetworkSpec, finest: int, voxels: int) -> int:
    if not strided_stem(spec):
        return voxels * spec.widths[0] * spec.classes
    width = head_width(spec)
    up = (voxels if spec.upsampling == "transposed" else finest) * spec.widths[0] * width
    return up + voxels * width * spec.classes * math.prod((3,) * spec.dimension)


def _plain_unet(spec: NetworkSpec, volumes: Sequence[int], voxels: int) -> int:
    total, inputs = 0, spec.in_channels
    levels = zip(spec.widths, spec.kernel_sizes, spec.blocks_encoder, volumes, strict=True)
    for width, kernel, number, volume in levels:
        total += volume * _stacked(inputs, width, kernel, number)
        inputs = width
    return total + _decoder(spec, volumes)


def _stacked(inputs: int, width: int, kernel: Sequence[int], number: int) -> int:
    """Multiplications a voxel of convolutions in a row."""
    return (inputs * width + (number - 1) * width * width) * math.prod(kernel)


def _decoder(spec: NetworkSpec, volumes: Sequence[int]) -> int:
    total = volumes[0] * spec.widths[0] * spec.classes
    for level, number in enumerate(spec.blocks_decoder):
        width, coarse = spec.widths[level], spec.widths[level + 1]
        total += volumes[level] * (coarse * width + _stacked(2 * width, width, spec.kernel_sizes[level], number))
    return total


def _resenc_unet(spec: NetworkSpec, volumes: Sequence[int], voxels: int) -> int:
    """Each residual block has two convolutions; a change of width adds a pointwise projection after pooling."""
    total = voxels * _stacked(spec.in_channels, spec.widths[0], spec.kernel_sizes[0], 1)
    inputs = spec.widths[0]
    levels = zip(spec.widths, spec.kernel_sizes, spec.blocks_encoder, volumes, strict=True)
    for width, kernel, number, volume in levels:
        projection = inputs * width if inputs != width else 0
        total += volume * (_stacked(inputs, width, kernel, 2 * number) + projection)
        inputs = width
    return total + _decoder(spec, volumes)
