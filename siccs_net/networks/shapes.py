"""Sizes of a network's features and outputs: numbers in, numbers out."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Sequence

from siccs_net.errors import UsageError
from siccs_net.records.network import NetworkSpec

Sizes = tuple[int, ...]


def level_strides(spec: NetworkSpec) -> list[Sizes]:
    """Return the downsampling of each level relative to the input, finest level first."""
    return list(itertools.accumulate(spec.strides[1:], _times, initial=tuple(spec.stem_stride)))


def is_strided(spec: NetworkSpec) -> bool:
    """Say whether the stem downsamples; then no level has the input's size, and one more upsampling undoes it."""
    return any(stride > 1 for stride in spec.stem_stride)


def feature_shapes(spec: NetworkSpec, patch_size: Sequence[int]) -> list[Sizes]:
    """Return the spatial size of each level's features for a patch, finest level first.

    Raises UsageError when the patch does not fit the network (`check_size`).
    """
    check_size(spec, patch_size)
    return [
        tuple(size // stride for size, stride in zip(patch_size, strides, strict=True))
        for strides in level_strides(spec)
    ]


def check_size(spec: NetworkSpec, size: Sequence[int]) -> None:
    """Raise UsageError unless `size` (spatial axes) is a positive multiple of the network's total stride."""
    total = spec.total_stride
    fits = len(size) == len(total) and all(n > 0 and n % step == 0 for n, step in zip(size, total, strict=True))
    if not fits:
        raise UsageError(
            "the network cannot take a patch of this size",
            found=list(size),
            expected=f"a multiple of {list(total)} on the axes",
            hint="Pad the patch, or choose another patch size",
        )


def _times(first: Sizes, second: Sizes) -> Sizes:
    return tuple(map(operator.mul, first, second))
