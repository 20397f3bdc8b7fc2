"""Networks as graphs for other programs: traced through plain operations, without our own fused functions."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from siccs_net.networks.blocks import ConvNeXtBlock


class _FinestLogits(nn.Module):
    """A network's logits of the input's size only."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        outputs: Any = self.network(image)
        finest: Tensor = outputs[0] if isinstance(outputs, list | tuple) else outputs
        return finest


@contextlib.contextmanager
def _plain_operations(network: nn.Module) -> Iterator[None]:
    """Switch the fused channel mixing off inside."""
    blocks = [module for module in network.modules() if isinstance(module, ConvNeXtBlock)]
    before = [block.fused for block in blocks]
    for block in blocks:
        block.fused = False
    try:
        yield
    finally:
        for block, fused in zip(blocks, before, strict=True):
            block.fused = fused


def onnx_graph(network: nn.Module, image: NDArray[np.float32], *, opset: int) -> bytes:
    """Return a network as an ONNX graph from "image" to "logits", traced with an image; any batch size."""
    stream = io.BytesIO()
    with torch.no_grad(), _plain_operations(network), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's advice about its two exporters and about constants of a trace
        torch.onnx.export(
            _FinestLogits(network).eval(),
            (torch.from_numpy(image),),
            stream,  # type: ignore[arg-type]
            input_names=["image"],
            output_names=["logits"],
            dynamic_axes={"image": {0: "batch"}, "logits": {0: "batch"}},
            opset_version=opset,
            dynamo=False,
        )
    return stream.getvalue()


def run_plain(network: nn.Module, images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the logits of images, computed by plain operations."""
    with torch.no_grad(), _plain_operations(network):
        logits: NDArray[np.float32] = _FinestLogits(network).eval()(torch.from_numpy(images)).numpy()
    return logits
