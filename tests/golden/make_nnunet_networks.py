"""Writes nnunet_networks.json: logits of nnU-Net's own two networks for weights and an image made of sines.

Run where dynamic-network-architectures 0.4.4 (`pip install --no-deps`) and torch are: python make_nnunet_networks.py
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from make_timm_convnextv2_block import Stubs, sines
from torch import nn

OPTIONS: dict[str, Any] = {
    "conv_bias": True,
    "norm_op_kwargs": {"eps": 1e-5, "affine": True},
    "nonlin": nn.LeakyReLU,
    "nonlin_kwargs": {"inplace": True},
    "deep_supervision": True,
}
CASES: dict[str, dict[str, Any]] = {
    "plain_unet_2d": {
        "widths": [4, 6, 8],
        "strides": [[1, 1], [2, 2], [2, 2]],
        "kernel_sizes": [[3, 3], [3, 3], [3, 3]],
        "blocks_encoder": [2, 2, 2],
        "blocks_decoder": [2, 2],
        "image": [2, 1, 8, 12],
    },
    "plain_unet_3d": {
        "widths": [3, 4, 4, 4],
        "strides": [[1, 1, 1], [1, 2, 2], [2, 2, 2], [2, 2, 2]],
        "kernel_sizes": [[1, 3, 3], [3, 3, 3], [3, 3, 3], [3, 3, 3]],
        "blocks_encoder": [2, 2, 2, 2],
        "blocks_decoder": [2, 2, 2],
        "image": [1, 2, 8, 16, 16],
    },
    "resenc_unet_3d": {
        "widths": [3, 4, 5, 5],
        "strides": [[1, 1, 1], [1, 2, 2], [2, 2, 2], [2, 2, 2]],
        "kernel_sizes": [[1, 3, 3], [3, 3, 3], [3, 3, 3], [3, 3, 3]],
        "blocks_encoder": [1, 3, 2, 2],
        "blocks_decoder": [1, 1, 1],
        "image": [1, 2, 8, 16, 16],
    },
}


def build(name: str, case: dict[str, Any]) -> nn.Module:
    """nnU-Net's network of a case, with 3 classes."""
    from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet

    flat = len(case["strides"][0]) == 2
    conv, norm = (nn.Conv2d, nn.InstanceNorm2d) if flat else (nn.Conv3d, nn.InstanceNorm3d)
    kind = PlainConvUNet if name.startswith("plain") else ResidualEncoderUNet
    stages = (case["image"][1], len(case["widths"]), case["widths"], conv, case["kernel_sizes"], case["strides"])
    return kind(*stages, case["blocks_encoder"], 3, case["blocks_decoder"], norm_op=norm, **OPTIONS)


def ordered_parameters(network: Any) -> list[nn.Parameter]:
    """The encoder's parameters in its own order, then level by level, finest first: up, convolutions, head."""
    encoder, decoder = network.encoder, network.decoder
    modules = [encoder.stem] if getattr(encoder, "stem", None) is not None else []
    modules += list(encoder.stages)
    for level in reversed(range(len(decoder.stages))):
        modules += [decoder.transpconvs[level], decoder.stages[level], decoder.seg_layers[level]]
    unique = {id(parameter): parameter for module in modules for parameter in module.parameters()}
    return list(unique.values())


def main() -> None:
    """Fill each network with sines, run it in float64, write the rounded logits of every output."""
    Stubs.packages = ("torchvision", "huggingface_hub", "batchgenerators", "batchgeneratorsv2")
    sys.meta_path.insert(0, Stubs())
    body: dict[str, Any] = {"dynamic-network-architectures": version("dynamic-network-architectures"), "cases": {}}
    for name, case in CASES.items():
        network = build(name, case).double().train()
        parameters = ordered_parameters(network)
        with torch.no_grad():
            for number, parameter in enumerate(parameters):
                parameter.copy_(sines(tuple(parameter.shape), number, 0.5))
            outputs = network(sines(tuple(case["image"]), 100, 1.0))
        logits = [{"shape": list(o.shape), "values": [round(v, 6) for v in o.flatten()[::7].tolist()]} for o in outputs]
        body["cases"][name] = {**case, "parameters": [list(p.shape) for p in parameters], "logits": logits}
    Path(__file__).with_name("nnunet_networks.json").write_text(json.dumps(body) + "\n")


if __name__ == "__main__":
    main()
