"""Probabilities and ranges of augmentation: configuration, never a subclass."""

from __future__ import annotations

from pydantic import Field

from siccs_net.records.base import Record

Range = tuple[float, float]
Probability = float


class AugmentationSettings(Record):
    """Every probability is per sample. Ranges are uniform. Angles in degrees, sigmas in voxels.

    Defaults are those of self-configured plans: rotation, scaling, noise, smoothing, brightness and contrast as in
    nnU-Net's recipe (design notes 3.4), gamma 0.7-1.5. `scale` above 1 makes objects larger.
    """

    rotation_probability: Probability = Field(default=0.2, ge=0, le=1)
    rotation_degrees: float = Field(default=20.0, ge=0, le=180)
    scaling_probability: Probability = Field(default=0.2, ge=0, le=1)
    scale: Range = (0.75, 1.35)
    noise_probability: Probability = Field(default=0.1, ge=0, le=1)
    noise_std: Range = (0.0, 0.1)
    smoothing_probability: Probability = Field(default=0.2, ge=0, le=1)
    smoothing_sigma: Range = (0.5, 1.0)
    intensity_probability: Probability = Field(default=0.15, ge=0, le=1)
    intensity_factor: Range = (0.75, 1.25)
    contrast_probability: Probability = Field(default=0.15, ge=0, le=1)
    contrast_factor: Range = (0.75, 1.25)
    gamma_probability: Probability = Field(default=0.3, ge=0, le=1)
    gamma: Range = (0.7, 1.5)


PAPER = AugmentationSettings(
    rotation_probability=0.0,
    scaling_probability=0.0,
    noise_probability=0.1,
    noise_std=(0.0, 0.1),
    smoothing_probability=0.1,
    smoothing_sigma=(0.25, 1.5),
    intensity_probability=0.1,
    intensity_factor=(0.9, 1.1),
    contrast_probability=0.0,
    gamma_probability=0.1,
    gamma=(0.5, 4.5),
)
"""The four augmentations of Vahdani et al. 2026 with MONAI's defaults; the scale factor is assumed (paper.md 7)."""

NONE = AugmentationSettings(
    rotation_probability=0.0,
    scaling_probability=0.0,
    noise_probability=0.0,
    smoothing_probability=0.0,
    intensity_probability=0.0,
    contrast_probability=0.0,
    gamma_probability=0.0,
)
