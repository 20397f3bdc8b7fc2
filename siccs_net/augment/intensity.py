"""Intensity transforms of one sample [c, *spatial], as batchgenerators transforms whose parameters we draw.

Each class has `draw(rng) -> parameters or None` and `apply(image, parameters) -> image`. Called as batchgenerators
calls a transform, it takes the generator from the key `generator` and the image from `data` ([b, c, *spatial]), so
that it can stand in one list with batchgenerators' own transforms.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
from batchgenerators.transforms.abstract_transforms import AbstractTransform
from numpy.typing import NDArray

from siccs_net.augment.interpolation import mixed
from siccs_net.augment.settings import AugmentationSettings, Range
from siccs_net.augment.smoothing import smooth

Sample = NDArray[np.float32]
Parameters = TypeVar("Parameters")


class DrawnTransform(AbstractTransform, ABC):  # type: ignore[misc]  # batchgenerators has no types
    """A transform applied with a probability, with parameters from the sample's own generator."""

    def __init__(self, probability: float) -> None:
        self.probability = probability

    @abstractmethod
    def draw(self, rng: np.random.Generator) -> Any:
        """Draw this transform's parameters."""

    @abstractmethod
    def apply(self, image: Sample, parameters: Any) -> Sample:
        """Apply it to an image [c, *spatial]."""

    def __call__(self, **data: Any) -> dict[str, Any]:
        rng: np.random.Generator = data["generator"]
        images = data["data"]
        for index in range(len(images)):
            if rng.random() < self.probability:
                images[index] = self.apply(images[index], self.draw(rng))
        return data


class GaussianNoise(DrawnTransform):
    """Add white noise; its standard deviation is uniform in `std`."""

    def __init__(self, probability: float, std: Range) -> None:
        super().__init__(probability)
        self.std = std

    def draw(self, rng: np.random.Generator) -> tuple[float, int]:
        return float(rng.uniform(*self.std)), int(rng.integers(2**63))

    def apply(self, image: Sample, parameters: tuple[float, int]) -> Sample:
        std, seed = parameters
        noise = np.random.Generator(np.random.SFC64(seed)).standard_normal(image.shape, dtype=np.float32)
        noise *= np.float32(std)
        noise += image
        return noise


class GaussianSmoothing(DrawnTransform):
    """Smooth with a Gaussian whose sigma (voxels) is uniform in `sigma`, drawn for each axis."""

    def __init__(self, probability: float, sigma: Range) -> None:
        super().__init__(probability)
        self.sigma = sigma

    def draw(self, rng: np.random.Generator) -> tuple[float, float, float]:
        z, y, x = (float(value) for value in rng.uniform(*self.sigma, size=3))
        return z, y, x

    def apply(self, image: Sample, parameters: tuple[float, float, float]) -> Sample:
        return smooth(image, parameters[-(image.ndim - 1) :])


class FactorTransform(DrawnTransform):
    """A transform with one factor: uniform in `factor`, or `two_sided`: below and above 1 equally often."""

    def __init__(self, probability: float, factor: Range, *, two_sided: bool = False) -> None:
        super().__init__(probability)
        self.factor = factor
        self.two_sided = two_sided

    def draw(self, rng: np.random.Generator) -> float:
        lowest, highest = self.factor
        if self.two_sided:
            lowest, highest = (lowest, 1.0) if lowest < 1 and rng.random() < 0.5 else (max(lowest, 1.0), highest)
        return float(rng.uniform(lowest, highest))


class IntensityScale(FactorTransform):
    """Multiply by a factor."""

    def apply(self, image: Sample, parameters: float) -> Sample:
        return image * np.float32(parameters)


class Contrast(FactorTransform):
    """Scale about the mean by a factor, within the original range."""

    def apply(self, image: Sample, parameters: float) -> Sample:
        axes = tuple(range(1, image.ndim))
        mean = image.mean(axes, keepdims=True)
        lowest, highest = image.min(axes, keepdims=True), image.max(axes, keepdims=True)
        stretched: Sample = image - mean
        stretched *= np.float32(parameters)
        stretched += mean
        np.clip(stretched, lowest, highest, out=stretched)
        return stretched


class Gamma(FactorTransform):
    """Raise the image, scaled to [0, 1] by its own range, to a power, and scale it back.

    `inverted` does it to the negative image; `keep_statistics` restores each channel's mean and standard deviation.
    """

    def __init__(
        self,
        probability: float,
        gamma: Range,
        *,
        two_sided: bool = False,
        inverted: bool = False,
        keep_statistics: bool = False,
    ) -> None:
        super().__init__(probability, gamma, two_sided=two_sided)
        self.inverted = inverted
        self.keep_statistics = keep_statistics

    def apply(self, image: Sample, parameters: float) -> Sample:
        axes = tuple(range(1, image.ndim))
        curved = self._curve(-image if self.inverted else image, parameters)
        if self.keep_statistics:
            mean, wanted = image.mean(axes, keepdims=True), image.std(axes, keepdims=True)
            curved -= curved.mean(axes, keepdims=True)
            curved *= wanted / np.maximum(curved.std(axes, keepdims=True), np.float32(1e-7))
            curved += -mean if self.inverted else mean
        return np.negative(curved, out=curved) if self.inverted else curved

    def _curve(self, image: Sample, parameters: float) -> Sample:
        axes = tuple(range(1, image.ndim))
        lowest = image.min(axes, keepdims=True)
        extent = np.maximum(image.max(axes, keepdims=True) - lowest, np.float32(1e-7))
        curved: Sample = image - lowest
        curved /= extent
        np.power(curved, np.float32(parameters), out=curved)
        curved *= extent
        curved += lowest
        return curved


class LowResolution(DrawnTransform):
    """Simulate a coarser scan: nearest voxels of a grid `scale` times as fine, interpolated linearly back.

    The grids share their borders, so a voxel's centre is at (i + 0.5) / n of the axis. `kept` axes stay as they are.
    """

    def __init__(self, probability: float, scale: Range, kept: Sequence[int] = ()) -> None:
        super().__init__(probability)
        self.scale = scale
        self.kept = tuple(kept)

    def draw(self, rng: np.random.Generator) -> float:
        return float(rng.uniform(*self.scale))

    def apply(self, image: Sample, parameters: float) -> Sample:
        result = image
        for axis, size in enumerate(image.shape[1:]):
            coarse = size if axis in self.kept else max(1, round(size * parameters))
            if coarse != size:
                result = _coarsened(result, axis + 1, coarse)
        return result


def _coarsened(image: Sample, axis: int, coarse: int) -> Sample:
    """Take `coarse` voxels along an axis, each the nearest to its centre, and interpolate linearly back."""
    size = image.shape[axis]
    picked = image.take(np.minimum(((np.arange(coarse) + 0.5) * size / coarse).astype(int), size - 1), axis)
    place = np.clip((np.arange(size) + 0.5) * coarse / size - 0.5, 0, coarse - 1)
    lower = np.minimum(place.astype(int), max(coarse - 2, 0))
    upper = np.minimum(lower + 1, coarse - 1)
    weight = (place - lower).astype(np.float32).reshape([-1 if number == axis else 1 for number in range(image.ndim)])
    return mixed(picked.take(lower, axis), picked.take(upper, axis), weight)


class PerChannel(DrawnTransform):
    """Another transform, drawn anew for each channel, of which each is changed with `channel_probability`."""

    def __init__(self, transform: DrawnTransform, channel_probability: float = 1.0) -> None:
        super().__init__(transform.probability)
        self.transform = transform
        self.channel_probability = channel_probability

    def draw(self, rng: np.random.Generator) -> int:
        return int(rng.integers(2**63))

    def apply(self, image: Sample, parameters: int) -> Sample:
        rng = np.random.Generator(np.random.SFC64(parameters))
        channels = []
        for number in range(len(image)):
            channel = image[number : number + 1]
            if rng.random() < self.channel_probability:
                channel = self.transform.apply(channel, self.transform.draw(rng))
            channels.append(channel)
        return channels[0] if len(channels) == 1 else np.concatenate(channels)


class Foreign:
    """Runs somebody else's batchgenerators transform reproducibly.

    Both global generators (`random` and `numpy.random`) are seeded from the sample's own for the call and restored.
    """

    def __init__(self, transform: AbstractTransform) -> None:
        self.transform = transform

    def __call__(self, **data: Any) -> dict[str, Any]:
        rng: np.random.Generator = data.pop("generator")
        states = random.getstate(), np.random.get_state()  # noqa: NPY002 (the foreign transform draws from it)
        try:
            seed = int(rng.integers(2**32))
            random.seed(seed)
            np.random.seed(seed)  # noqa: NPY002
            result: dict[str, Any] = self.transform(**data)
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])  # noqa: NPY002
        return {**result, "generator": rng}


def intensity_transforms(settings: AugmentationSettings) -> list[DrawnTransform]:
    """Return the transforms that have a probability above 0, in the order in which they are applied."""
    two_sided, keep = settings.factor_draw == "two_sided", settings.gamma_keeps_statistics
    gammas = [
        Gamma(probability, settings.gamma, two_sided=two_sided, inverted=inverted, keep_statistics=keep)
        for probability, inverted in (
            (settings.gamma_probability, False),
            (settings.inverted_gamma_probability, True),
        )
    ]
    kept = (0,) if settings.in_plane == "always" else ()
    there: dict[str, DrawnTransform] = {
        "intensity": IntensityScale(settings.intensity_probability, settings.intensity_factor, two_sided=two_sided),
        "noise": GaussianNoise(settings.noise_probability, settings.noise_std),
        "gamma": gammas[0],
        "contrast": Contrast(settings.contrast_probability, settings.contrast_factor, two_sided=two_sided),
        "smoothing": GaussianSmoothing(settings.smoothing_probability, settings.smoothing_sigma),
        "low_resolution": LowResolution(settings.low_resolution_probability, settings.low_resolution_scale, kept),
        "inverted_gamma": gammas[1],
    }
    wanted = [_by_channel(name, there[name], settings) for name in settings.order]
    return [transform for transform in wanted if transform.probability > 0]


def _by_channel(name: str, transform: DrawnTransform, settings: AugmentationSettings) -> DrawnTransform:
    if name in ("smoothing", "low_resolution") and (settings.channelwise or settings.channel_probability < 1):
        return PerChannel(transform, settings.channel_probability)
    return PerChannel(transform) if settings.channelwise and name != "noise" else transform


def apply_transforms(
    transforms: Sequence[AbstractTransform | Foreign], image: Sample, label: NDArray[Any], rng: np.random.Generator
) -> tuple[Sample, NDArray[Any]]:
    """Apply a list of transforms to one sample: image [c, *spatial], label [*spatial]."""
    data: dict[str, Any] = {"data": image[None], "seg": label[None, None], "generator": rng}
    for transform in transforms:
        ours = isinstance(transform, DrawnTransform | Foreign)
        data = (transform if ours else Foreign(transform))(**data)
    return np.asarray(data["data"][0], dtype=np.float32), np.asarray(data["seg"][0, 0])
