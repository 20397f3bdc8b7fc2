"""The part of a plan that says which network to build; enough to rebuild it without the trainer."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from siccs_net.records.base import Record

Sizes = tuple[int, ...]


class NetworkSpec(Record):
    """A U-Net, level by level, level 0 being the finest.

    `strides[i]` is the downsampling on entering level i from level i-1, one number per spatial axis; `strides[0]`
    is all ones. `stem_stride` downsamples before level 0 (1: the stem keeps the full resolution; 2: a strided
    stem and one more upsampling before the head). `blocks_decoder` is indexed by level too: for `convnext_unet`
    it has as many entries as `widths` (the last one sits after the bottleneck), for the plain and residual
    U-Nets one fewer. `initialisation` is for `convnext_unet`: sigma 0.02 as ConvNeXt V2 has it, or one over the
    root of the number of each layer's inputs (decision 5).
    """

    architecture: Literal["convnext_unet", "plain_unet", "resenc_unet"]
    dimension: Literal[2, 3]
    in_channels: int = Field(ge=1)
    classes: int = Field(ge=1)
    widths: Sizes
    strides: tuple[Sizes, ...]
    kernel_sizes: tuple[Sizes, ...]
    blocks_encoder: Sizes
    blocks_decoder: Sizes
    stem_stride: Sizes
    deep_supervision: bool
    mlp_ratio: int = Field(default=4, ge=1)
    stochastic_depth: float = Field(default=0.0, ge=0.0, lt=1.0)
    upsampling: Literal["transposed", "linear"] = "transposed"
    initialisation: Literal["truncated_normal", "fan_in"] = "truncated_normal"

    @model_validator(mode="after")
    def _levels_agree(self) -> NetworkSpec:
        levels = len(self.widths)
        decoder = levels if self.architecture == "convnext_unet" else levels - 1
        counts = {
            "strides": (len(self.strides), levels),
            "kernel_sizes": (len(self.kernel_sizes), levels),
            "blocks_encoder": (len(self.blocks_encoder), levels),
            "blocks_decoder": (len(self.blocks_decoder), decoder),
        }
        wrong = [
            f"{name} has {found} entries, {levels} widths need {wanted}"
            for name, (found, wanted) in counts.items()
            if found != wanted
        ]
        sizes = (*self.strides, *self.kernel_sizes, self.stem_stride)
        if any(len(size) != self.dimension for size in sizes):
            wrong.append(f"strides, kernel_sizes and stem_stride need {self.dimension} numbers each")
        if any(stride != 1 for stride in self.strides[0]):
            wrong.append("strides[0] must be all ones (stem_stride is the stem's)")
        if min((*self.widths, *self.blocks_encoder)) < 1 or any(number < 1 for size in sizes for number in size):
            wrong.append("widths, blocks, strides and kernels must be at least 1")
        if any(number % 2 == 0 for kernel in self.kernel_sizes for number in kernel):
            wrong.append("kernel sizes must be odd")
        if wrong:
            raise ValueError("; ".join(wrong))
        return self

    @property
    def total_stride(self) -> Sizes:
        """The input size must be a multiple of this, per spatial axis."""
        total = list(self.stem_stride)
        for stride in self.strides:
            total = [whole * part for whole, part in zip(total, stride, strict=True)]
        return tuple(total)
