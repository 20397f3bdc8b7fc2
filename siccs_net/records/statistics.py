"""Intensity statistics of one channel, mergeable over cases, and the normalisation that a fold makes of them."""

from __future__ import annotations

from operator import lt
from typing import Literal

from pydantic import Field, model_validator

from siccs_net.records.base import Record

NormalisationScheme = Literal["ct", "zscore", "zscore_image", "rescale_to_0_1", "rgb_to_0_1", "none"]


class ChannelStatistics(Record):
    """Sufficient statistics of the intensities of one channel over some voxels, for any mean, deviation, percentile.

    `m2` is the sum of squared differences from the mean. The histogram is sparse: `histogram_counts` voxels lie at
    each of `histogram_values` (ascending) after rounding, whole numbers to 11 significant bits and others to 8. So
    every whole number up to 2048 has a bin of its own (1 HU for CT), beyond it bins are at most 1/1024 of their
    value wide, those of fractions 1/128, and histograms of numbers of any kind and range merge. `minimum`,
    `maximum`, `mean` and `m2` are not rounded.
    """

    count: int = Field(ge=1)
    mean: float
    m2: float = Field(ge=0.0)
    minimum: float
    maximum: float
    histogram_values: tuple[float, ...]
    histogram_counts: tuple[int, ...]

    @model_validator(mode="after")
    def _consistent(self) -> ChannelStatistics:
        if len(self.histogram_values) != len(self.histogram_counts):
            raise ValueError("histogram_values and histogram_counts must be of the same length")
        if not all(map(lt, self.histogram_values, self.histogram_values[1:])):
            raise ValueError("histogram_values must ascend")
        if sum(self.histogram_counts) != self.count:
            raise ValueError("histogram_counts must add up to count")
        return self


class ChannelScaling(Record):
    """The numbers with which one channel is normalised.

    `ct`: clip to [lower, upper], subtract mean, divide by std. `zscore`: the same without clipping. `zscore_image`
    (mean, std) and `rescale_to_0_1` (lower, upper) take each image's own numbers: in a fold's record they are null.
    `rgb_to_0_1` divides the 8-bit levels of colour pictures by 255 (lower 0, upper 255).
    `none` has none.
    """

    scheme: NormalisationScheme
    lower: float | None = None
    upper: float | None = None
    mean: float | None = None
    std: float | None = Field(default=None, ge=0.0)

    @model_validator(mode="after")
    def _complete(self) -> ChannelScaling:
        limits, moments = ("lower", "upper"), ("mean", "std")
        needed = {"ct": (*limits, *moments), "zscore": moments, "rgb_to_0_1": limits}.get(self.scheme, ())
        missing = [name for name in needed if getattr(self, name) is None]
        if missing:
            raise ValueError(f"the scheme {self.scheme} needs {', '.join(missing)}")
        return self


class Normalisation(Record):
    """How a patch is normalised when it is read: one scaling a channel. Stored with a fold's weights."""

    channels: tuple[ChannelScaling, ...]
