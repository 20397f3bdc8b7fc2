"""Presets: whole plans that state their settings themselves, each with where it came from."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from siccs_net.errors import UsageError
from siccs_net.io.dataset import Dataset
from siccs_net.planners.drafts import DatasetShape
from siccs_net.planners.rules import median_resampled_shape
from siccs_net.preprocessing.resample import resampled_shape
from siccs_net.records.fingerprint import Fingerprint
from siccs_net.records.network import NetworkSpec
from siccs_net.records.plan import (
    ChannelNormalisation,
    Clahe,
    Configuration,
    CropBody,
    InferenceSettings,
    Orient,
    Plan,
    Resample,
    Resize,
    Step,
)

DEFAULT_TRAINER = "SiccsTrainer"
TRAINER_OF = {
    "nnunet": "NnUNetTrainer",
    "nnunet_resenc": "NnUNetResEncTrainer",
    "nnunet_resenc_m": "NnUNetResEncTrainer",
    "nnunet_resenc_l": "NnUNetResEncTrainer",
    "nnunet_resenc_xl": "NnUNetResEncTrainer",
    "vahdani2026": "Vahdani2026Trainer",
    "vahdani2026_patch": "Vahdani2026Trainer",
    "demo": DEFAULT_TRAINER,
}
PAPER_SHAPE = (40, 320, 320)
PAPER_FOLDS = 8
PAPER_BLOCKS = (1, 1, 3, 1)
PAPER_WIDTHS = (32, 64, 128, 256)
PAPER_WINDOW_HU = (-1024.0, 600.0)
DEMO_SPACING_MM = (5.0, 4.0, 4.0)
DEMO_PATCH = (32, 48, 64)
_ISOTROPIC_MM = (1.0, 1.0, 1.0)
_PATCH_VARIANT_SIZE = (96, 128, 128)


def _paper_network(dataset: Dataset) -> NetworkSpec:
    """Four levels, blocks 1-1-3-1 in encoder and decoder, three halvings on all axes, full-resolution stem."""
    levels = len(PAPER_WIDTHS)
    return NetworkSpec(
        architecture="convnext_unet",
        dimension=3,
        in_channels=dataset.description.channels,
        classes=dataset.labels.outputs,
        widths=PAPER_WIDTHS,
        strides=((1, 1, 1), *(((2, 2, 2),) * (levels - 1))),
        kernel_sizes=((7, 7, 7),) * levels,
        blocks_encoder=PAPER_BLOCKS,
        blocks_decoder=PAPER_BLOCKS,
        stem_stride=(1, 1, 1),
        deep_supervision=False,
    )


def _need_one_ct_channel(dataset: Dataset, preset: str) -> None:
    names = dataset.description.channel_names
    if len(names) != 1 or names["0"].strip().lower() != "ct":
        raise UsageError(f"preset {preset!r} is for one channel named CT", path=dataset.folder, found=str(names))


_PAPER_PROVENANCE = {
    "steps.orient": "assumed",
    "steps.resample.spacing_mm": "paper",
    "steps.resample.order": "library_default",
    "steps.resize.shape": "paper",
    "steps.resize.mode": "library_default",
    "steps.clahe": "paper",
    "steps.clahe.window_hu": "assumed",
    "steps.clahe.clip_limit": "library_default",
    "steps.clahe.bins": "library_default",
    "steps.clahe.kernel_divisor": "library_default",
    "steps.order": "assumed",
    "normalisation.scheme": "paper",
    "normalisation.region": "assumed",
    "patch_size": "paper",
    "batch_size": "assumed",
    "iterations_per_epoch": "assumed",
    "network.blocks_encoder": "paper",
    "network.blocks_decoder": "paper",
    "network.strides": "paper",
    "network.widths": "assumed",
    "network.kernel_sizes": "assumed",
    "network.stem_stride": "paper",
    "network.deep_supervision": "assumed",
    "network.upsampling": "assumed",
    "inference.mirror_axes": "assumed",
}
_PAPER_TRAINING_PROVENANCE = {
    "training.epochs": "paper",
    "training.optimizer": "paper",
    "training.schedule": "paper",
    "training.schedule.per_epoch": "assumed",
    "training.loss": "paper",
    "training.loss.weights": "assumed",
    "training.loss.gamma": "assumed",
    "training.learning_rate": "assumed",
    "training.weight_decay": "assumed",
    "training.gradient_clip": "assumed",
    "training.augmentation": "paper",
    "training.augmentation.probabilities": "library_default",
    "training.augmentation.intensity_factor": "assumed",
}


def _paper_plan(dataset: Dataset, configuration: Configuration, *, folds: int, name: str | None, preset: str) -> Plan:
    provenance = {f"configurations.3d_fullres.{key}": value for key, value in _PAPER_PROVENANCE.items()}
    of_folds = "paper" if folds == PAPER_FOLDS else "user"
    return Plan(
        name=name or preset,
        dataset_name=dataset.name,
        planner="preset",
        preset=preset,
        trainer=TRAINER_OF[preset],
        folds=folds,
        configurations={"3d_fullres": configuration},
        provenance={**provenance, **_PAPER_TRAINING_PROVENANCE, "folds": of_folds},
    )


def _training_cases(dataset: Dataset, folds: int) -> int:
    return max(1, len(dataset.cases) - len(dataset.cases) // folds)


def vahdani2026(
    dataset: Dataset, fingerprint: Fingerprint, shape: DatasetShape, *, folds: int, name: str | None
) -> Plan:
    """Vahdani et al. 2026 on whole volumes: 1 mm, 320x320x40, CLAHE, z-score of the fold's training cases."""
    _need_one_ct_channel(dataset, "vahdani2026")
    steps: tuple[Step, ...] = (
        Orient(),
        Resample(spacing_mm=_ISOTROPIC_MM, order=1, separate_above=None),
        Resize(shape=PAPER_SHAPE, mode="area"),
        Clahe(window_hu=PAPER_WINDOW_HU),
    )
    z, y, x = median_resampled_shape(shape, _ISOTROPIC_MM)
    spacing = (z / PAPER_SHAPE[0], y / PAPER_SHAPE[1], x / PAPER_SHAPE[2])
    configuration = Configuration(
        dimension=3,
        steps=steps,
        spacing_mm=spacing,
        median_shape=(float(PAPER_SHAPE[0]), float(PAPER_SHAPE[1]), float(PAPER_SHAPE[2])),
        storage="uint16",
        normalisation=(ChannelNormalisation(scheme="zscore", region="all"),),
        patch_size=PAPER_SHAPE,
        batch_size=1,
        iterations_per_epoch=_training_cases(dataset, folds),
        network=_paper_network(dataset),
    )
    return _paper_plan(dataset, configuration, folds=folds, name=name, preset="vahdani2026")


def vahdani2026_patch(
    dataset: Dataset, fingerprint: Fingerprint, shape: DatasetShape, *, folds: int, name: str | None
) -> Plan:
    """The paper's network and training at 1 mm on patches, without the resize to 320x320x40."""
    _need_one_ct_channel(dataset, "vahdani2026_patch")
    steps: tuple[Step, ...] = (
        Orient(),
        Resample(spacing_mm=_ISOTROPIC_MM, order=1, separate_above=None),
        Clahe(window_hu=PAPER_WINDOW_HU),
    )
    configuration = Configuration(
        dimension=3,
        steps=steps,
        spacing_mm=_ISOTROPIC_MM,
        median_shape=median_resampled_shape(shape, _ISOTROPIC_MM),
        storage="uint16",
        normalisation=(ChannelNormalisation(scheme="zscore", region="all"),),
        patch_size=_PATCH_VARIANT_SIZE,
        batch_size=1,
        iterations_per_epoch=_training_cases(dataset, folds),
        network=_paper_network(dataset),
    )
    return _paper_plan(dataset, configuration, folds=folds, name=name, preset="vahdani2026_patch")


def demo(dataset: Dataset, fingerprint: Fingerprint, shape: DatasetShape, *, folds: int, name: str | None) -> Plan:
    """Small and fast-learning, for the demo's phantoms on two processor cores; every number is assumed."""
    _need_one_ct_channel(dataset, "demo")
    widths = (16, 32, 64, 128)
    levels = len(widths)
    shapes = [resampled_shape(case.cropped_shape, case.spacing_mm, DEMO_SPACING_MM) for case in fingerprint.cases]
    z, y, x = (float(sorted(sizes)[len(sizes) // 2]) for sizes in zip(*shapes, strict=True))
    network = NetworkSpec(
        architecture="convnext_unet",
        dimension=3,
        in_channels=1,
        classes=dataset.labels.outputs,
        widths=widths,
        strides=((1, 1, 1), *(((2, 2, 2),) * (levels - 1))),
        kernel_sizes=((3, 5, 5),) * levels,
        blocks_encoder=(1, 1, 2, 1),
        blocks_decoder=(1, 1, 1, 1),
        stem_stride=(2, 2, 2),
        deep_supervision=True,
        mlp_ratio=2,
        initialisation="fan_in",
    )
    configuration = Configuration(
        dimension=3,
        steps=(
            Orient(),
            CropBody(),
            Resample(spacing_mm=DEMO_SPACING_MM, order=1, separate_above=None, antialias=True),
        ),
        spacing_mm=DEMO_SPACING_MM,
        median_shape=(z, y, x),
        storage="int16",
        normalisation=(ChannelNormalisation(scheme="ct", region="all"),),
        patch_size=DEMO_PATCH,
        batch_size=2,
        iterations_per_epoch=math.ceil(_training_cases(dataset, folds) * 2),
        network=network,
        inference=InferenceSettings(overlap=0.25),
    )
    return Plan(
        name=name or "demo",
        dataset_name=dataset.name,
        planner="preset",
        preset="demo",
        trainer=TRAINER_OF["demo"],
        folds=folds,
        training={
            "epochs": 7,
            "learning_rate": 1e-2,
            "validation_patches": 6,
            "validate_every": 2,
            "augmentation": {"rotation_probability": 0.0, "scaling_probability": 0.0},
        },
        configurations={"3d_fullres": configuration},
        provenance={"configurations.3d_fullres": "assumed", "training": "assumed"},
    )


PRESETS: dict[str, Callable[..., Any]] = {
    "vahdani2026": vahdani2026,
    "vahdani2026_patch": vahdani2026_patch,
    "demo": demo,
}
