"""nnU-Net's plans.json as a plan of ours: the same preprocessing, network and inference, step by step.

Whatever a plan asks for that is not done here to the letter is refused by name, never approximated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from siccs_net.errors import DataError, RecordError, UnavailableError
from siccs_net.records.base import explain
from siccs_net.records.dataset import DatasetDescription
from siccs_net.records.network import NetworkSpec
from siccs_net.records.plan import (
    AsStored,
    ChannelIntensities,
    ChannelNormalisation,
    Configuration,
    CropNonzero,
    InferenceSettings,
    Normalise,
    Resample,
    Step,
)

_RESAMPLING = "resample_data_or_seg_to_shape"
_ORDERS = {
    "SimpleITKIO": "file",
    "NibabelIO": "file",
    "NibabelIOWithReorient": "RAS+",
    "SimpleITKIOWithReorient": "RAS+",
}
"""nnU-Net's readers by the order of voxels that they hand on."""
_SCHEMES = {
    "CTNormalization": "ct",
    "ZScoreNormalization": "zscore",
    "NoNormalization": "none",
    "RescaleTo01Normalization": "rescale_to_0_1",
    "RGBTo01Normalization": "rgb_to_0_1",
}
_ARCHITECTURES = {"PlainConvUNet": "plain_unet", "ResidualEncoderUNet": "resenc_unet"}
_ITERATIONS_PER_EPOCH = 250


def translate(
    plans: Mapping[str, Any],
    name: str,
    description: DatasetDescription,
    mirror_axes: Sequence[int] | None,
    *,
    path: Path,
) -> Configuration:
    """Return configuration `name` of an nnU-Net v2 plan (plans.json, read from `path`) as one of ours.

    `mirror_axes` are the checkpoint's axes of the patch (None: not mirrored). Raises UnavailableError naming what is
    not reproduced here (cascades, other networks, resampling, readers), RecordError for a plan that lacks a key or
    contradicts itself.
    """
    try:
        theirs = _resolved(plans["configurations"], name, path)
        _refuse_others(theirs, path)
        return _configuration(plans, theirs, description, mirror_axes, path)
    except (KeyError, TypeError, IndexError) as error:
        raise RecordError("is not a plan of nnU-Net v2", path=path, found=f"{type(error).__name__} {error}") from error
    except ValidationError as error:
        raise RecordError("is a plan that cannot be translated", path=path, found=explain(error)) from error


def _resolved(configurations: Mapping[str, Any], name: str, path: Path) -> dict[str, Any]:
    """Return a configuration with what it inherits."""
    found: dict[str, Any] = {}
    chain = [name]
    while True:
        if chain[-1] not in configurations:
            raise RecordError("has no such configuration", path=path, found=list(configurations), expected=chain[-1])
        found = {**configurations[chain[-1]], **found}
        parent = found.pop("inherits_from", None)
        if parent is None:
            return found
        if parent in chain:
            raise RecordError("has configurations that inherit in a circle", path=path, found=[*chain, parent])
        chain.append(parent)


def _refuse_others(theirs: Mapping[str, Any], path: Path) -> None:
    """Raise UnavailableError for a configuration that is computed in a way that we do not have."""
    found = {
        "the preprocessor": (theirs["preprocessor_name"], "DefaultPreprocessor"),
        "resampling_fn_data": (theirs["resampling_fn_data"], _RESAMPLING),
        "resampling_fn_probabilities": (theirs["resampling_fn_probabilities"], _RESAMPLING),
        "order of the logits' resampling": (theirs["resampling_fn_probabilities_kwargs"].get("order", 3), 1),
        "order_z": (theirs["resampling_fn_data_kwargs"].get("order_z", 0), 0),
        "order_z of the logits": (theirs["resampling_fn_probabilities_kwargs"].get("order_z", 0), 0),
    }
    if theirs.get("previous_stage"):
        raise UnavailableError(
            "the second stage of a cascade is not imported", path=path, hint="Import 3d_lowres, 3d_fullres or 2d"
        )
    for what, (value, wanted) in found.items():
        if value != wanted:
            raise UnavailableError(f"{what} is not reproduced here", path=path, found=value, expected=wanted)


def _configuration(
    plans: Mapping[str, Any],
    theirs: Mapping[str, Any],
    description: DatasetDescription,
    mirror_axes: Sequence[int] | None,
    path: Path,
) -> Configuration:
    patch = tuple(theirs["patch_size"])
    flat = len(patch) == 2
    channels = _channels(plans, theirs, path)
    spacing = _triple(theirs["spacing"], None if flat else 1.0)
    network = network_of(theirs, len(channels), description, path)
    return Configuration(
        dimension=2 if flat else 3,
        steps=_steps(plans, theirs, channels, spacing, path),
        spacing_mm=spacing,
        median_shape=_triple(theirs["median_image_size_in_voxels"], 1.0),
        storage="float32",
        normalisation=(ChannelNormalisation(scheme="none"),) * len(channels),
        patch_size=patch,
        batch_size=theirs["batch_size"],
        iterations_per_epoch=_ITERATIONS_PER_EPOCH,
        batch_dice=theirs["batch_dice"],
        network=network,
        inference=_inference(theirs, mirror_axes),
    )


def _triple(values: Sequence[float], first: float | None) -> Any:
    """Return three numbers; those of a 2-D configuration lack the first."""
    numbers = tuple(map(float, values))
    return numbers if len(numbers) == 3 else (first, *numbers)


def _steps(
    plans: Mapping[str, Any],
    theirs: Mapping[str, Any],
    channels: tuple[ChannelIntensities, ...],
    spacing: tuple[float | None, float, float],
    path: Path,
) -> tuple[Step, ...]:
    reader = plans["image_reader_writer"]
    if reader not in _ORDERS:
        raise UnavailableError(
            "the plan's image reader is not known here", path=path, found=reader, expected=[*_ORDERS]
        )
    settings = theirs["resampling_fn_data_kwargs"]
    return (
        AsStored.model_validate({"order": _ORDERS[reader], "transpose": tuple(plans["transpose_forward"])}),
        CropNonzero(),
        Normalise(channels=channels),
        Resample(spacing_mm=spacing, order=settings.get("order", 3), separate_above=_separate_above(settings)),
    )


def _separate_above(settings: Mapping[str, Any]) -> float | None:
    """Return the ratio of spacings above which slices are resampled one by one; None never does, 0 always."""
    force = settings.get("force_separate_z", False)
    default = float(settings.get("separate_z_anisotropy_threshold", 3))
    return default if force is None else 0.0 if force else None


def _channels(plans: Mapping[str, Any], theirs: Mapping[str, Any], path: Path) -> tuple[ChannelIntensities, ...]:
    schemes, masked = theirs["normalization_schemes"], theirs["use_mask_for_norm"]
    properties = plans["foreground_intensity_properties_per_channel"]
    if unknown := [scheme for scheme in schemes if scheme not in _SCHEMES]:
        raise UnavailableError(
            "a normalisation scheme is not known here", path=path, found=unknown, expected=[*_SCHEMES]
        )
    return tuple(
        _channel(_SCHEMES[scheme], properties.get(str(number), {}), only)
        for number, (scheme, only) in enumerate(zip(schemes, masked, strict=True))
    )


def _channel(scheme: str, properties: Mapping[str, Any], nonzero_only: bool) -> ChannelIntensities:
    keys = {"lower": "percentile_00_5", "upper": "percentile_99_5", "mean": "mean", "std": "std"}
    numbers = {name: float(properties[key]) for name, key in keys.items()} if scheme == "ct" else {}
    masked = {"nonzero_only": bool(nonzero_only)} if scheme == "zscore" else {}
    return ChannelIntensities.model_validate({"scheme": scheme, **masked, **numbers})


def _inference(theirs: Mapping[str, Any], mirror_axes: Sequence[int] | None) -> InferenceSettings:
    return InferenceSettings.model_validate(
        {
            "gaussian_peak": "voxel",
            "export_separate_above": _separate_above(theirs["resampling_fn_probabilities_kwargs"]),
            "mirror_axes": tuple(int(axis) for axis in mirror_axes or ()),
        }
    )


def network_of(theirs: Mapping[str, Any], channels: int, description: DatasetDescription, path: Path) -> NetworkSpec:
    """Return the network of a configuration. Raises UnavailableError for one that is not built here."""
    name, settings = _architecture(theirs)
    kind = _ARCHITECTURES.get(name.rpartition(".")[2])
    if kind is None:
        raise UnavailableError(
            "the plan's network is not built here", path=path, found=name, expected=[*_ARCHITECTURES]
        )
    _refuse_other_layers(settings, path)
    stages, dimension = int(settings["n_stages"]), len(theirs["patch_size"])
    blocks = settings["n_conv_per_stage" if kind == "plain_unet" else "n_blocks_per_stage"]
    return NetworkSpec.model_validate(
        {
            "architecture": kind,
            "dimension": dimension,
            "in_channels": channels,
            "classes": description.label_scheme.outputs,
            "widths": _each(settings["features_per_stage"], stages),
            "strides": tuple(map(tuple, settings["strides"])),
            "kernel_sizes": tuple(map(tuple, settings["kernel_sizes"])),
            "blocks_encoder": _each(blocks, stages),
            "blocks_decoder": _each(settings["n_conv_per_stage_decoder"], stages - 1),
            "stem_stride": (1,) * dimension,
            "deep_supervision": True,
        }
    )


def _each(value: int | Sequence[int], count: int) -> tuple[int, ...]:
    return (value,) * count if isinstance(value, int) else tuple(value)


def _refuse_other_layers(settings: Mapping[str, Any], path: Path) -> None:
    """Raise UnavailableError for layers that differ from those of nnU-Net's own plans."""
    found = {
        "norm_op": (str(settings["norm_op"]).rpartition(".")[2][:-2], "InstanceNorm"),
        "norm_op_kwargs": (dict(settings["norm_op_kwargs"]), {"eps": 1e-5, "affine": True}),
        "nonlin": (str(settings["nonlin"]).rpartition(".")[2], "LeakyReLU"),
        "nonlin_kwargs": ((settings["nonlin_kwargs"] or {}).get("negative_slope", 0.01), 0.01),
        "conv_bias": (settings["conv_bias"], True),
        "dropout_op": (settings.get("dropout_op"), None),
        "nonlin_first": (settings.get("nonlin_first", False), False),
        "bottleneck_channels": (settings.get("bottleneck_channels"), None),
        "stem_channels": (settings.get("stem_channels"), None),
    }
    for what, (value, wanted) in found.items():
        if value != wanted:
            raise UnavailableError(
                f"the network's {what} is not built here", path=path, found=value, expected=str(wanted)
            )


def _architecture(theirs: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """Return the network's class name and settings; plans before nnU-Net 2.3 spread them over the configuration."""
    if "architecture" in theirs:
        return theirs["architecture"]["network_class_name"], theirs["architecture"]["arch_kwargs"]
    name = theirs["UNet_class_name"]
    stages = len(theirs["n_conv_per_stage_encoder"])
    width, most = theirs["UNet_base_num_features"], theirs["unet_max_num_features"]
    return name, {
        "n_stages": stages,
        "features_per_stage": [min(width * 2**stage, most) for stage in range(stages)],
        "kernel_sizes": theirs["conv_kernel_sizes"],
        "strides": theirs["pool_op_kernel_sizes"],
        "n_conv_per_stage": theirs["n_conv_per_stage_encoder"],
        "n_blocks_per_stage": theirs["n_conv_per_stage_encoder"],
        "n_conv_per_stage_decoder": theirs["n_conv_per_stage_decoder"],
        "conv_bias": True,
        "norm_op": "InstanceNorm3d",
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "nonlin": "LeakyReLU",
        "nonlin_kwargs": {},
    }


def check_labels(description: DatasetDescription, path: Path) -> None:
    """Raise DataError for plain label values with gaps, which nnU-Net does not train."""
    scheme = description.label_scheme
    if not scheme.regions and scheme.class_values != tuple(range(scheme.outputs)):
        raise DataError("nnU-Net's labels count from 0 without gaps", path=path, found=list(scheme.class_values))
