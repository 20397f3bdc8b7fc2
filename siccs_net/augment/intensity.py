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
from scipy.ndimage import gaussian_filter

from siccs_net.augment.settings import AugmentationSettings, Range

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
        return image + np.float32(std) * noise


class GaussianSmoothing(DrawnTransform):
    """Smooth with a Gaussian whose sigma (voxels) is uniform in `sigma`, drawn for each axis."""

    def __init__(self, probability: float, sigma: Range) -> None:
        super().__init__(probability)
        self.sigma = sigma

    def draw(self, rng: np.random.Generator) -> tuple[float, float, float]:
        z, y, x = (float(value) for value in rng.uniform(*self.sigma, size=3))
        return z, y, x

    def apply(self, image: Sample, parameters: tuple[float, float, float]) -> Sample:
        sigmas = parameters[-(image.ndim - 1) :]
        return np.stack([gaussian_filter(channel, sigmas, truncate=4.0) for channel in image])


class IntensityScale(DrawnTransform):
    """Multiply by a factor uniform in `factor`."""

    def __init__(self, probability: float, factor: Range) -> None:
        super().__init__(probability)
        self.factor = factor

    def draw(self, rng: np.random.Generator) -> float:
        return float(rng.uniform(*self.factor))

    def apply(self, image: Sample, parameters: float) -> Sample:
        return image * np.float32(parameters)


class Contrast(DrawnTransform):
    """Scale about the mean by a factor uniform in `factor`, within the original range."""

    def __init__(self, probability: float, factor: Range) -> None:
        super().__init__(probability)
        self.factor = factor

    def draw(self, rng: np.random.Generator) -> float:
        return float(rng.uniform(*self.factor))

    def apply(self, image: Sample, parameters: float) -> Sample:
        axes = tuple(range(1, image.ndim))
        mean = image.mean(axes, keepdims=True)
        lowest, highest = image.min(axes, keepdims=True), image.max(axes, keepdims=True)
        stretched: Sample = np.clip((image - mean) * np.float32(parameters) + mean, lowest, highest)
        return stretched


class Gamma(DrawnTransform):
    """Raise the image, scaled to [0, 1] by its own range, to a power uniform in `gamma`, and scale it back."""

    def __init__(self, probability: float, gamma: Range) -> None:
        super().__init__(probability)
        self.gamma = gamma

    def draw(self, rng: np.random.Generator) -> float:
        return float(rng.uniform(*self.gamma))

    def apply(self, image: Sample, parameters: float) -> Sample:
        axes = tuple(range(1, image.ndim))
        lowest = image.min(axes, keepdims=True)
        extent = np.maximum(image.max(axes, keepdims=True) - lowest, np.float32(1e-7))
        curved: Sample = ((image - lowest) / extent) ** np.float32(parameters) * extent + lowest
        return curved


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
    wanted: list[DrawnTransform] = [
        IntensityScale(settings.intensity_probability, settings.intensity_factor),
        GaussianNoise(settings.noise_probability, settings.noise_std),
        Gamma(settings.gamma_probability, settings.gamma),
        Contrast(settings.contrast_probability, settings.contrast_factor),
        GaussianSmoothing(settings.smoothing_probability, settings.smoothing_sigma),
    ]
    return [transform for transform in wanted if transform.probability > 0]


def apply_transforms(
    transforms: Sequence[AbstractTransform | Foreign], image: Sample, label: NDArray[Any], rng: np.random.Generator
) -> tuple[Sample, NDArray[Any]]:
    """Apply a list of transforms to one sample: image [c, *spatial], label [*spatial]."""
    data: dict[str, Any] = {"data": image[None], "seg": label[None, None], "generator": rng}
    for transform in transforms:
        ours = isinstance(transform, DrawnTransform | Foreign)
        data = (transform if ours else Foreign(transform))(**data)
    return np.asarray(data["data"][0], dtype=np.float32), np.asarray(data["seg"][0, 0])
