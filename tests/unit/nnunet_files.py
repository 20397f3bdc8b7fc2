"""Model folders as nnU-Net v2 writes them, made of networks of ours: weights under its names, saved by torch."""

from __future__ import annotations

import json
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from siccs_net.networks.build import build_network
from siccs_net.records.network import NetworkSpec

DESCRIPTION = {
    "channel_names": {"0": "CT"},
    "labels": {"background": 0, "normal_lung": 1, "EF": 2},
    "numTraining": 5,
    "file_ending": ".nii.gz",
}
INTENSITIES = {"mean": -600.0, "std": 250.0, "percentile_00_5": -1000.0, "percentile_99_5": 100.0}
RESAMPLING = {"is_seg": False, "order_z": 0, "force_separate_z": None}


def spec_of(kind: str, dimension: int) -> NetworkSpec:
    """A small network with three levels."""
    plain = kind == "plain_unet"
    ones, twos = (1,) * dimension, (2,) * dimension
    return NetworkSpec(
        architecture=kind,
        dimension=dimension,
        in_channels=1,
        classes=3,
        widths=(4, 6, 8),
        strides=(ones, twos, twos),
        kernel_sizes=((3,) * dimension,) * 3,
        blocks_encoder=(2, 2, 2) if plain else (1, 2, 3),
        blocks_decoder=(2, 2) if plain else (1, 1),
        stem_stride=ones,
        deep_supervision=True,
    )


def plans_of(spec: NetworkSpec, configuration: str, **changes: Any) -> dict[str, Any]:
    """plans.json with one configuration; `changes` are keys of that configuration."""
    flat = spec.dimension == 2
    plain = spec.architecture == "plain_unet"
    settings = {
        "n_stages": 3,
        "features_per_stage": list(spec.widths),
        "conv_op": f"torch.nn.modules.conv.Conv{spec.dimension}d",
        "kernel_sizes": [list(kernel) for kernel in spec.kernel_sizes],
        "strides": [list(stride) for stride in spec.strides],
        "n_conv_per_stage" if plain else "n_blocks_per_stage": list(spec.blocks_encoder),
        "n_conv_per_stage_decoder": list(spec.blocks_decoder),
        "conv_bias": True,
        "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{spec.dimension}d",
        "norm_op_kwargs": {"eps": 1e-05, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }
    name = "PlainConvUNet" if plain else "ResidualEncoderUNet"
    body = {
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": [16, 16] if flat else [8, 16, 16],
        "median_image_size_in_voxels": [40.0, 48.0] if flat else [16.0, 40.0, 48.0],
        "spacing": [5.0, 5.0] if flat else [6.0, 5.0, 5.0],
        "normalization_schemes": ["CTNormalization"],
        "use_mask_for_norm": [False],
        "resampling_fn_data": "resample_data_or_seg_to_shape",
        "resampling_fn_data_kwargs": {**RESAMPLING, "order": 3},
        "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
        "resampling_fn_probabilities_kwargs": {**RESAMPLING, "order": 1},
        "architecture": {
            "network_class_name": f"dynamic_network_architectures.architectures.unet.{name}",
            "arch_kwargs": settings,
            "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
        },
        "batch_dice": False,
    }
    return {
        "dataset_name": "Dataset777_Foreign",
        "plans_name": "nnUNetPlans",
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "foreground_intensity_properties_per_channel": {"0": INTENSITIES},
        "configurations": {configuration: {**body, **changes}},
    }


def their_name(ours: str) -> list[str]:
    """nnU-Net's names of a weight of ours; its networks list what stands in a block, and the encoder, twice."""
    parts = ours.split(".")
    if parts[0] == "stem":
        block = "encoder.stem.convs.0"
    elif parts[:2] == ["decoder", "levels"]:
        block = f"decoder.stages.{1 - int(parts[2])}.convs.{parts[3]}"
    elif parts[0] == "decoder":
        kind = {"up": "transpconvs", "heads": "seg_layers"}[parts[1]]
        return [f"decoder.{kind}.{1 - int(parts[2])}.{parts[3]}"]
    elif len(parts) == 5 and parts[3] in ("conv", "norm") and parts[2].isdigit():
        block = f"encoder.stages.{parts[1]}.0.convs.{parts[2]}"
    else:
        part = {"first": "conv1", "second": "conv2", "skip": f"skip.{parts[4]}"}[parts[3]]
        block = f"encoder.stages.{parts[1]}.blocks.{parts[2]}.{part}"
    unit, leaf = parts[-2:]
    names = [f"{block}.{unit}.{leaf}", f"{block}.all_modules.{0 if unit == 'conv' else 1}.{leaf}"]
    return names + [f"decoder.{name}" for name in names if name.startswith("encoder")]


def checkpoint_of(network: nn.Module, plans: dict[str, Any], configuration: str, **changes: Any) -> dict[str, Any]:
    """What nnU-Net's trainer saves; plain numbers, numpy numbers and a device among them."""
    weights = OrderedDict()
    for name, value in network.state_dict().items():
        for theirs in their_name(name):
            weights[theirs] = value
    weights._metadata = OrderedDict({"": {"version": 1}})
    return {
        "network_weights": weights,
        "optimizer_state": {"state": {0: {"momentum_buffer": torch.zeros(3)}}, "param_groups": [{"lr": 0.01}]},
        "grad_scaler_state": None,
        "logging": {"mean_fg_dice": [np.float64(0.5)], "dice_per_class": [[np.float32(0.5)]], "all": np.arange(3.0)},
        "_best_ema": np.float64(0.4),
        "current_epoch": 7,
        "init_args": {
            "plans": plans,
            "configuration": configuration,
            "fold": 0,
            "dataset_json": DESCRIPTION,
            "device": torch.device("cuda", 0),
        },
        "trainer_name": "nnUNetTrainer",
        "inference_allowed_mirroring_axes": tuple(range(network.spec.dimension)),
        **changes,
    }


def write_foreign_model(
    root: Path,
    kind: str = "plain_unet",
    dimension: int = 3,
    *,
    folds: tuple[str, ...] = ("0",),
    checkpoint: dict[str, Any] | None = None,
    plans: dict[str, Any] | None = None,
    description: dict[str, Any] | None = None,
    **changes: Any,
) -> tuple[Path, list[nn.Module]]:
    """Write DATASET/TRAINER__PLANS__CONFIGURATION; return it and the folds' networks."""
    configuration = "2d" if dimension == 2 else "3d_fullres"
    spec = spec_of(kind, dimension)
    body = {**plans_of(spec, configuration, **changes), **(plans or {})}
    folder = root / "Dataset777_Foreign" / f"nnUNetTrainer__nnUNetPlans__{configuration}"
    networks = []
    for number, fold in enumerate(folds):
        torch.manual_seed(number)
        network = build_network(spec).eval()
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        (folder / f"fold_{fold}").mkdir(parents=True)
        saved = checkpoint_of(network, body, configuration, **(checkpoint or {}))
        torch.save(saved, folder / f"fold_{fold}" / "checkpoint_final.pth")
        networks.append(network)
    (folder / "plans.json").write_text(json.dumps(body))
    (folder / "dataset.json").write_text(json.dumps({**DESCRIPTION, **(description or {})}))
    return folder, networks
