"""One plan for both sides of the stages that take a whole CT from file to file: ours and nnU-Net's way of writing it.

Both take the same steps, crop to nonzero and resample to 1 mm, so that both work on one grid. nnU-Net clips before it
resamples, ours when a patch is read: the bounds are the scan's own extremes, so that clipping changes nothing.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.compare.data import ONE_MM

if TYPE_CHECKING:
    from siccs_net.records.network import NetworkSpec
    from siccs_net.records.plan import Configuration
    from siccs_net.records.statistics import Normalisation

THREADS = 2
CASE = "scan"
DATASET = "Dataset900_Scan"
CONFIGURATION = "3d_fullres"
PATCH = (96, 96, 96)
MEAN, STD, LOWER, UPPER = -600.0, 420.0, -1024.0, 3071.0
LABELS = {"background": 0, "normal_lung": 1, "EF": 2, "GGO": 3}


def description() -> dict[str, Any]:
    """Return dataset.json, which both sides read."""
    return {"channel_names": {"0": "CT"}, "labels": LABELS, "numTraining": 1, "file_ending": ".nii.gz"}


def our_configuration() -> Configuration:
    """Return a configuration at 1 mm with the small network, as our planner would write it but for the crop."""
    from siccs_net.records.plan import (
        ChannelNormalisation,
        Configuration,
        CropNonzero,
        InferenceSettings,
        Orient,
        Resample,
    )

    return Configuration(
        dimension=3,
        steps=(Orient(), CropNonzero(), Resample(spacing_mm=ONE_MM)),
        spacing_mm=ONE_MM,
        median_shape=(230, 257, 360),
        storage="int16",
        normalisation=(ChannelNormalisation(scheme="ct"),),
        patch_size=PATCH,
        batch_size=2,
        iterations_per_epoch=250,
        network=small_network(),
        inference=InferenceSettings(overlap=0.5, gaussian_peak="voxel", export_separate_above=3.0),
    )


def small_network() -> NetworkSpec:
    """Return a ConvNeXt V2 U-Net with a stem of stride 2, half as wide as the demo's: seconds a scan on two cores."""
    from siccs_net.records.network import NetworkSpec

    return NetworkSpec(
        architecture="convnext_unet",
        dimension=3,
        in_channels=1,
        classes=len(LABELS),
        widths=(8, 16, 32, 64),
        strides=((1, 1, 1), *((2, 2, 2),) * 3),
        kernel_sizes=((3, 3, 3),) * 4,
        blocks_encoder=(1, 1, 1, 1),
        blocks_decoder=(1, 1, 1, 1),
        stem_stride=(2, 2, 2),
        deep_supervision=True,
        mlp_ratio=2,
        initialisation="fan_in",
    )


def their_plans() -> dict[str, Any]:
    """Return plans.json of nnU-Net with the same spacing, patch and normalisation; its network is given by hand."""
    resampling = {"is_seg": False, "order_z": 0, "force_separate_z": None}
    configuration = {
        "data_identifier": "compare",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": list(PATCH),
        "median_image_size_in_voxels": [230, 257, 360],
        "spacing": list(ONE_MM),
        "normalization_schemes": ["CTNormalization"],
        "use_mask_for_norm": [False],
        "resampling_fn_data": "resample_data_or_seg_to_shape",
        "resampling_fn_seg": "resample_data_or_seg_to_shape",
        "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
        "resampling_fn_data_kwargs": {**resampling, "order": 3},
        "resampling_fn_seg_kwargs": {**resampling, "is_seg": True, "order": 1},
        "resampling_fn_probabilities_kwargs": {**resampling, "order": 1},
        "architecture": {"network_class_name": "given by hand", "arch_kwargs": {}, "_kw_requires_import": []},
        "batch_dice": False,
    }
    intensities = {"mean": MEAN, "std": STD, "percentile_00_5": LOWER, "percentile_99_5": UPPER}
    return {
        "dataset_name": DATASET,
        "plans_name": "compare",
        "image_reader_writer": "SimpleITKIO",
        "label_manager": "LabelManager",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "foreground_intensity_properties_per_channel": {"0": intensities},
        "configurations": {CONFIGURATION: configuration},
    }


def our_normalisation() -> Normalisation:
    """Return the same numbers as `their_plans` has."""
    from siccs_net.records.statistics import ChannelScaling, Normalisation

    return Normalisation(channels=(ChannelScaling(scheme="ct", lower=LOWER, upper=UPPER, mean=MEAN, std=STD),))


def set_up_peer(folder: Path) -> None:
    """Set what nnU-Net reads from the environment when it is imported: folders, and threads for two cores."""
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        os.environ[name] = str(folder / name)
    os.environ["nnUNet_def_n_proc"] = str(THREADS)  # noqa: SIM112 (its name)
