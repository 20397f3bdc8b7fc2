"""Probabilities and ranges of augmentation: configuration, never a subclass."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from siccs_net.records.base import Record

Range = tuple[float, float]
Probability = float
Transform = Literal["intensity", "noise", "gamma", "contrast", "smoothing", "low_resolution", "inverted_gamma"]


class AugmentationSettings(Record):
    """Every probability is per sample. Ranges are uniform. Angles in degrees, sigmas in voxels.

    Defaults are those of self-configured plans: rotation, scaling, noise, smoothing, brightness and contrast as in
    nnU-Net's recipe (design notes 3.4), gamma 0.7-1.5. `scale` above 1 makes objects larger.

    `rotation_degrees` null is nnU-Net's rule: 30, in-plane 180, in 2-D 15 for patches longer than 1.5 times their
    width. `in_plane` says when volumes are rotated in-plane only: for `thick_slices` (spacings apart by a factor above
    3), for a `flat_patch` (axis 0 more than 3 times shorter than the longest, which then is left out of scaling and
    low resolution too), always or never. Rotations keep angles in `mm` or in `voxels`. `scale_draw` is uniform in the
    scale's logarithm or in its reciprocal. `factor_draw` two_sided draws brightness, contrast and gamma below and
    above 1 equally often; `channelwise` draws them for each channel. Smoothing and low resolution change a channel
    with their `channel_probability`. `gamma_keeps_statistics` restores mean and standard deviation. `order` is the
    order in which intensities are changed.

    The `stage_` settings disturb the previous stage's segmentation in a cascade, as nnU-Net does: a binary operation
    with a ball of so many voxels, and the removal of a component that covers less than `stage_removal_largest` of the
    patch; each label takes part with `stage_label_probability`.
    """

    rotation_probability: Probability = Field(default=0.2, ge=0, le=1)
    rotation_degrees: float | None = Field(default=20.0, ge=0, le=180)
    in_plane: Literal["thick_slices", "flat_patch", "always", "never"] = "thick_slices"
    rotation_in: Literal["mm", "voxels"] = "mm"
    scaling_probability: Probability = Field(default=0.2, ge=0, le=1)
    scale: Range = (0.75, 1.35)
    scale_draw: Literal["log_uniform", "reciprocal_uniform"] = "log_uniform"
    factor_draw: Literal["uniform", "two_sided"] = "uniform"
    channelwise: bool = False
    channel_probability: Probability = Field(default=1.0, gt=0, le=1)
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
    inverted_gamma_probability: Probability = Field(default=0.0, ge=0, le=1)
    gamma_keeps_statistics: bool = False
    low_resolution_probability: Probability = Field(default=0.0, ge=0, le=1)
    low_resolution_scale: Range = (0.5, 1.0)
    order: tuple[Transform, ...] = (
        "intensity",
        "noise",
        "gamma",
        "contrast",
        "smoothing",
        "low_resolution",
        "inverted_gamma",
    )
    stage_morphology_probability: Probability = Field(default=0.4, ge=0, le=1)
    stage_morphology_radius: tuple[int, int] = (1, 8)
    stage_removal_probability: Probability = Field(default=0.2, ge=0, le=1)
    stage_removal_largest: float = Field(default=0.15, ge=0, le=1)
    stage_label_probability: Probability = Field(default=0.5, ge=0, le=1)


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

NNUNET = AugmentationSettings(
    rotation_probability=0.2,
    rotation_degrees=None,
    in_plane="flat_patch",
    rotation_in="voxels",
    scaling_probability=0.2,
    scale=(1 / 1.4, 1 / 0.7),
    scale_draw="reciprocal_uniform",
    factor_draw="two_sided",
    channelwise=True,
    channel_probability=0.5,
    noise_probability=0.1,
    noise_std=(0.0, 0.1),
    smoothing_probability=0.2,
    smoothing_sigma=(0.5, 1.0),
    intensity_probability=0.15,
    intensity_factor=(0.75, 1.25),
    contrast_probability=0.15,
    contrast_factor=(0.75, 1.25),
    low_resolution_probability=0.25,
    low_resolution_scale=(0.5, 1.0),
    inverted_gamma_probability=0.1,
    gamma_probability=0.3,
    gamma=(0.7, 1.5),
    gamma_keeps_statistics=True,
    order=("noise", "smoothing", "intensity", "contrast", "low_resolution", "inverted_gamma", "gamma"),
)
"""nnU-Net 2.8.1's augmentation (design notes 3.4)."""

NONE = AugmentationSettings(
    rotation_probability=0.0,
    scaling_probability=0.0,
    noise_probability=0.0,
    smoothing_probability=0.0,
    intensity_probability=0.0,
    contrast_probability=0.0,
    gamma_probability=0.0,
    stage_morphology_probability=0.0,
    stage_removal_probability=0.0,
)
