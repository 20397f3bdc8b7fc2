"""Trainers of candidates that no setting makes: each changes one thing of the default."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from siccs_net import SiccsTrainer
from siccs_net.networks.blocks import CONV, INSTANCE_NORM, in_fast_memory, initialise
from siccs_net.networks.convnext_unet import ConvNeXtUNet, StridedHead
from siccs_net.networks.shapes import check_size
from siccs_net.records.network import NetworkSpec

DETAIL_CHANNELS = 8


class GrowingPatchTrainer(SiccsTrainer):
    """The first half of the time sees a window of half the patch's size: more steps in its time."""

    def training_step(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        if self._clock.done < 0.5:
            window = _window(labels.shape[1:], self.configuration.network.total_stride)
            images, labels = images[:, :, *window], labels[:, *window]
        return super().training_step(images, labels)


class DetailTrainer(SiccsTrainer):
    """The head behind a strided stem sees the image at its own resolution too."""

    def build_network(self) -> nn.Module:
        return DetailedUNet(self.configuration.network)


class DetailedUNet(ConvNeXtUNet):
    """A ConvNeXt V2 U-Net with a strided stem whose head is a `DetailedHead`."""

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__(spec)
        self.head = DetailedHead(spec)
        initialise(self, spec.initialisation)

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        check_size(self.spec, x.shape[2:])
        decoded = self._decode(self._encode(in_fast_memory(self.stem(x))))
        logits: Tensor = self.head(decoded[0], x)
        if not (self.training and self.spec.deep_supervision):
            return logits
        return [logits, *(head(decoded[int(level)]) for level, head in self.supervision.items())]


class DetailedHead(StridedHead):
    """Beside the decoder's features the last convolution has some channels of a convolution of the image."""

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__(spec)
        kind, width = CONV[spec.dimension], self.conv.in_channels
        self.detail = kind(spec.in_channels, DETAIL_CHANNELS, 3, padding=1)
        self.detail_norm = INSTANCE_NORM[spec.dimension](DETAIL_CHANNELS, affine=True)
        self.conv = kind(width + DETAIL_CHANNELS, spec.classes, 3, padding=1)

    def forward(self, x: Tensor, image: Tensor) -> Tensor:  # type: ignore[override]
        decoded = functional.leaky_relu(self.norm(self.up(x)))
        detail = functional.leaky_relu(self.detail_norm(self.detail(image)))
        logits: Tensor = self.conv(in_fast_memory(torch.cat([decoded, detail], 1)))
        return logits


def _window(shape: Sequence[int], multiple: Sequence[int]) -> tuple[slice, ...]:
    """Return a random place, by torch's global generator, of half the shape [*patch], up to the next multiple."""
    sizes = [-(-size // (2 * step)) * step for size, step in zip(shape, multiple, strict=True)]
    starts = [int(torch.randint(whole - size + 1, ())) for whole, size in zip(shape, sizes, strict=True)]
    return tuple(slice(start, start + size) for start, size in zip(starts, sizes, strict=True))
