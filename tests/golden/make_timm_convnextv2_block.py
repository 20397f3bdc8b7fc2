"""Writes timm_convnextv2_block.json: what timm's ConvNeXt V2 block returns for weights and an image made of sines.

Run in an environment with timm (`pip install --no-deps timm`) beside torch: python make_timm_convnextv2_block.py
torchvision is stubbed, because its wheel does not fit the CPU build of torch and the block does not need it.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import json
import math
import sys
import types
from pathlib import Path

import torch

CHANNELS, SHAPE = 6, (2, 6, 9, 8)


def sines(shape: tuple[int, ...], number: int, scale: float) -> torch.Tensor:
    """Numbers without a generator: scale * sin(0.7 i + number) for the i-th entry."""
    index = torch.arange(math.prod(shape), dtype=torch.float64)
    return (scale * torch.sin(0.7 * index + number)).reshape(shape)


class _AnyName(type):
    def __getattr__(cls, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        return f"{cls.__name__}.{name}"


class _Stub(types.ModuleType):
    """A module that has every name; nothing of it is called."""

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        return _AnyName(name, (), {})


class Stubs(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Gives an empty module for packages that timm imports and the block does not use."""

    packages = ("torchvision", "huggingface_hub")

    def find_spec(self, name: str, path: object = None, target: object = None) -> object:
        wanted = name.partition(".")[0] in self.packages
        return importlib.machinery.ModuleSpec(name, self, is_package=True) if wanted else None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        return _Stub(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        """There is nothing to run."""


def main() -> None:
    """Fill timm's block with sines, run it in float64, write the rounded output."""
    sys.meta_path.insert(0, Stubs())
    import timm
    from timm.models.convnext import ConvNeXtBlock

    block = ConvNeXtBlock(CHANNELS, CHANNELS, ls_init_value=None, use_grn=True).double().eval()
    with torch.no_grad():
        for number, (_, parameter) in enumerate(sorted(block.named_parameters())):
            parameter.copy_(sines(tuple(parameter.shape), number, 0.3))
        output = block(sines(SHAPE, 100, 1.0))
    body = {
        "timm": timm.__version__,
        "torch": torch.__version__,
        "parameters": {name: list(parameter.shape) for name, parameter in sorted(block.named_parameters())},
        "shape": list(SHAPE),
        "output": [round(value, 9) for value in output.flatten().tolist()],
    }
    Path(__file__).with_name("timm_convnextv2_block.json").write_text(json.dumps(body) + "\n")


if __name__ == "__main__":
    main()
