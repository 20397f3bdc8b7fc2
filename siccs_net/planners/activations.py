"""What the forward pass of one sample keeps for the backward pass, in bytes, tensor by tensor.

`element` is the size of an activation: 4 in float32; 2 under bfloat16 or float16 autocast, where LayerNorm and GRN's
sum of squares still keep their input in float32. Tensors smaller than an activation map (one number a channel or a
voxel) are left out, except LayerNorm's mean and deviation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from siccs_net.planners.parameters import head_width, strided_stem
from siccs_net.planners.rules import level_volumes
from siccs_net.records.network import NetworkSpec

FLOAT = 4
# A loss keeps for each class, beside the logits: the logarithm of the probability, the probability (float32) and
# whether it is the reference's (bool); and for each voxel the label (int64) and three numbers of the focal part.
LOSS_BYTES_A_CLASS = 2 * FLOAT + 1
LOSS_BYTES_A_VOXEL = 8 + 3 * FLOAT


def kept_bytes(spec: NetworkSpec, patch_size: Sequence[int], element: int, *, checkpointing: bool) -> int:
    """Return the bytes of activations that one sample keeps, the loss's left out (`loss_bytes`).

    With `checkpointing` each level keeps its input, and the largest level is computed again at a time.
    """
    volumes = level_volumes(spec, patch_size)
    levels = _level_bytes(spec, volumes, element)
    others = _between_bytes(spec, patch_size, volumes, element)
    if not checkpointing:
        return sum(levels) + others
    return sum(_level_inputs(spec, volumes, element)) + max(levels) + others


def loss_bytes(spec: NetworkSpec, patch_size: Sequence[int], element: int) -> int:
    """Return the bytes that the loss of one sample keeps, at the input's size and at every supervised level's."""
    full = math.prod(patch_size)
    coarse = [volume for volume in level_volumes(spec, patch_size)[:-1] if volume < full]
    voxels = full + (sum(coarse) if spec.deep_supervision else 0)
    return voxels * (spec.classes * (element + LOSS_BYTES_A_CLASS) + LOSS_BYTES_A_VOXEL)


def widest_bytes(spec: NetworkSpec, patch_size: Sequence[int], element: int) -> int:
    """Return the bytes of the largest gradients that exist at once in one sample's backward pass (an upper bound).

    In a ConvNeXt V2 block the expansion's gradient is there before and after GELU and GRN, and in float32 for the sum
    of squares (twice under autocast); elsewhere an output's, the joined inputs', and copies in another layout.
    """
    volumes, full = level_volumes(spec, patch_size), math.prod(patch_size)
    logits = full * spec.classes * 3 * FLOAT
    if spec.architecture != "convnext_unet":
        joined = [5 * width * volume * element for width, volume in zip(spec.widths, volumes, strict=True)]
        return max(logits, *joined)
    expanded = [spec.mlp_ratio * width * volume for width, volume in zip(spec.widths, volumes, strict=True)]
    blocks = [size * (3 * element + _squares(element)) for size in expanded]
    head = 2 * head_width(spec) * full * element if strided_stem(spec) else 0
    return max(logits + head, *blocks)


def forward_bytes(spec: NetworkSpec, patch_size: Sequence[int], element: int) -> tuple[int, int]:
    """Return, for one sample without gradients, the bytes of image and features and those of the largest layer.

    An upper bound: every level's encoded and decoded features are counted as there at once.
    """
    volumes, voxels = level_volumes(spec, patch_size), math.prod(patch_size)
    places = list(zip(spec.widths, volumes, strict=True))
    features = _image(spec, voxels, element) + sum(2 * width * volume * element for width, volume in places)
    head = (2 * head_width(spec) if strided_stem(spec) else 0) + spec.classes
    layers = [volume * _layer(spec, width, element) for width, volume in places]
    return features, max(head * voxels * element, *layers)


def _layer(spec: NetworkSpec, width: int, element: int) -> int:
    """Bytes a voxel while one layer is computed.

    A block's input, expansion and squares; else inputs joined, outputs before and after the norm, and as much again
    for an input and an output in the layout that the convolution works in.
    """
    if spec.architecture != "convnext_unet":
        return 6 * width * element
    return 2 * width * element + spec.mlp_ratio * width * (element + _squares(element))


def _squares(element: int) -> int:
    """Bytes of one expanded number in float32 while it is squared: its square, and under autocast itself."""
    return FLOAT if element == FLOAT else 2 * FLOAT


def _level_bytes(spec: NetworkSpec, volumes: Sequence[int], element: int) -> list[int]:
    """What the blocks of each level keep, encoder's levels before the decoder's."""
    if spec.architecture == "convnext_unet":
        blocks = (*spec.blocks_encoder, *spec.blocks_decoder)
        places = list(zip(spec.widths, volumes, strict=True)) * 2
        kept = [volume * _convnext_block(width, spec.mlp_ratio, element) for width, volume in places]
        return [number * each for number, each in zip(blocks, kept, strict=True)]
    encoder = _plain_encoder if spec.architecture == "plain_unet" else _residual_encoder
    return [*encoder(spec, volumes, element), *_plain_decoder(spec, volumes, element)]


def _convnext_block(width: int, ratio: int, element: int) -> int:
    """Bytes a voxel that one ConvNeXt V2 block keeps.

    Of the width: its input, LayerNorm's input (float32) and output. Of the expansion: before GELU, after it and after
    GRN. Under autocast what comes after GELU is kept in float32 twice: for GRN's sum of squares, and for its product,
    which CUDA's autocast computes in the widest type.
    """
    after_gelu = FLOAT if element == FLOAT else 2 * FLOAT
    return width * (2 * element + FLOAT) + ratio * width * (2 * element + after_gelu) + 2 * FLOAT


def _plain_encoder(spec: NetworkSpec, volumes: Sequence[int], element: int) -> list[int]:
    """Each convolution keeps its output before the norm and after the activation (which works in place)."""
    levels = zip(spec.blocks_encoder, spec.widths, volumes, strict=True)
    return [2 * number * width * volume * element for number, width, volume in levels]


def _residual_encoder(spec: NetworkSpec, volumes: Sequence[int], element: int) -> list[int]:
    """A block keeps as much as two convolutions; a projection keeps its pooled input and its output before the norm."""
    kept, before = [], spec.widths[0]
    for number, width, volume in zip(spec.blocks_encoder, spec.widths, volumes, strict=True):
        projection = before + width if before != width else 0
        kept.append((4 * number * width + projection) * volume * element)
        before = width
    kept[0] += 2 * spec.widths[0] * volumes[0] * element
    return kept


def _plain_decoder(spec: NetworkSpec, volumes: Sequence[int], element: int) -> list[int]:
    levels = zip(spec.blocks_decoder, spec.widths, volumes, strict=False)
    return [2 * number * width * volume * element for number, width, volume in levels]


def _level_inputs(spec: NetworkSpec, volumes: Sequence[int], element: int) -> list[int]:
    """What each level needs to be computed again: its input, or (plain and residual) the output of the one before."""
    sizes = [width * volume * element for width, volume in zip(spec.widths, volumes, strict=True)]
    return [*sizes, *(sizes if spec.architecture == "convnext_unet" else sizes[:-1])]


def _between_bytes(spec: NetworkSpec, patch_size: Sequence[int], volumes: Sequence[int], element: int) -> int:
    """What is kept outside the levels: the image, what goes up and down between levels, and the last head's."""
    image = _image(spec, math.prod(patch_size), element)
    joined = sum(2 * width * volume * element for width, volume in zip(spec.widths[:-1], volumes, strict=False))
    if spec.architecture != "convnext_unet":
        return image + joined
    down = sum(_norm(width, element) * volume for width, volume in zip(spec.widths[:-1], volumes, strict=False))
    decoded = sum(width * volume * element for width, volume in zip(spec.widths, volumes, strict=True))
    return image + joined + down + decoded + _stem_and_head(spec, math.prod(patch_size), volumes[0], element)


def _image(spec: NetworkSpec, voxels: int, element: int) -> int:
    """The batch in float32, and autocast's copy of it."""
    return spec.in_channels * voxels * (FLOAT if element == FLOAT else FLOAT + element)


def _norm(width: int, element: int) -> int:
    """Bytes a voxel that a LayerNorm with the convolution after it keeps: its input in float32, output, statistics."""
    return width * (FLOAT + element) + 2 * FLOAT


def _stem_and_head(spec: NetworkSpec, voxels: int, finest: int, element: int) -> int:
    """A strided stem's LayerNorm; its head's upsampled features before and after the norm, at the input's size."""
    if not strided_stem(spec):
        return 0
    return finest * (spec.widths[0] * FLOAT + 2 * FLOAT) + 2 * head_width(spec) * voxels * element
