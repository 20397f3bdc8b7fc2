"""Where the fused channel mixing pays: python -m benchmarks.fused_mlp [--repeats 5]

One ConvNeXt V2 block, forward and backward, fused (`networks.fused_mlp`) and operation by operation, for several sizes
of the expansion. Prints medians, their ratio, and the largest relative error of either's gradients in float32 against
float64.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time

import torch
from torch import Tensor

from siccs_net.cli.process import keep_heap
from siccs_net.networks import fused_mlp
from siccs_net.networks.blocks import ConvNeXtBlock

SIZES = ((32, 16), (32, 32), (128, 16), (32, 48), (64, 32))


def make_block(width: int) -> ConvNeXtBlock:
    """Return a block whose GRN does something."""
    torch.manual_seed(0)
    block = ConvNeXtBlock(width, (7, 7, 7))
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.3 if parameter.ndim == 1 else parameter[0].numel() ** -0.5)
    return block


def step(block: ConvNeXtBlock, image: Tensor, *, fused: bool) -> list[Tensor]:
    """Return the gradients of the image and of all parameters."""
    block.fused = fused
    block.zero_grad()
    image = image.detach().requires_grad_()
    output = block(image)
    wave = torch.cos(torch.arange(output.numel(), dtype=torch.float64)).to(output.dtype)
    output.backward(wave.view(output.shape))
    return [image.grad, *(parameter.grad.clone() for parameter in block.parameters())]


def seconds(block: ConvNeXtBlock, image: Tensor, repeats: int) -> tuple[float, float]:
    """Return the medians of fused and plain steps, taken in turns."""
    times: dict[bool, list[float]] = {True: [], False: []}
    for _ in range(repeats + 1):
        for fused, taken in times.items():
            started = time.perf_counter()
            step(block, image, fused=fused)
            taken.append(time.perf_counter() - started)
    return statistics.median(times[True][1:]), statistics.median(times[False][1:])


def error(found: list[Tensor], exact: list[Tensor]) -> float:
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(found, exact, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    keep_heap()
    torch.set_num_threads(2)
    fused_mlp.WORTH_BYTES = 0
    print("| width, edge | expansion MiB | fused s | plain s | plain / fused | error fused | error plain |")
    print("|---|---|---|---|---|---|---|")
    for width, edge in SIZES:
        block, image = make_block(width), torch.randn(1, width, edge, edge, edge)
        exact = step(copy.deepcopy(block).double(), image.double(), fused=False)
        errors = [error(step(block, image, fused=way), exact) for way in (True, False)]
        fused, plain = seconds(block, image, args.repeats)
        mib = 4 * 4 * width * edge**3 / 2**20
        print(
            f"| {width}, {edge} | {mib:.0f} | {fused:.4f} | {plain:.4f} | {plain / fused:.2f} | {errors[0]:.0e} "
            f"| {errors[1]:.0e} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
