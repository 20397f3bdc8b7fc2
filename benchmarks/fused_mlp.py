"""Where the fused channel mixing pays: python -m benchmarks.fused_mlp [--repeats 5]

One ConvNeXt V2 block, forward and backward, in chunks (`networks.fused_mlp`), whole (`networks.whole_mlp`) and
operation by operation, for several sizes in 2-D and 3-D. Prints medians, and the largest relative error of each way's
gradients in float32 against float64. --bfloat16 takes the times under autocast.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import statistics
import time

import torch
from torch import Tensor

from siccs_net.cli.process import keep_heap
from siccs_net.networks import fused_mlp, whole_mlp
from siccs_net.networks.blocks import ConvNeXtBlock

WAYS = ("chunks", "whole", "plain")
SIZES = (
    *((32, (4, 96, 96)), (64, (4, 48, 48)), (128, (4, 24, 24)), (256, (4, 12, 12)), (512, (4, 6, 6))),
    *((32, (1, 32, 32, 32)), (32, (1, 48, 48, 48)), (64, (1, 32, 32, 32)), (128, (1, 16, 16, 16))),
)
"""Width, and batch and edges."""


def make_block(width: int, dimension: int) -> ConvNeXtBlock:
    """Return a block whose GRN does something."""
    torch.manual_seed(0)
    block = ConvNeXtBlock(width, (7,) * dimension)
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.3 if parameter.ndim == 1 else parameter[0].numel() ** -0.5)
    return block


def step(block: ConvNeXtBlock, image: Tensor, way: str, *, autocast: bool = False) -> list[Tensor]:
    """Return the gradients of the image and of all parameters."""
    block.fused = way != "plain"
    fused_mlp.WORTH_BYTES = 0 if way == "chunks" else 2**60
    whole_mlp.ROWS_A_CHANNEL = 0
    block.zero_grad()
    image = image.detach().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16) if autocast else contextlib.nullcontext():
        output = block(image)
    wave = torch.cos(torch.arange(output.numel(), dtype=torch.float64)).to(output.dtype)
    output.backward(wave.view(output.shape))
    return [image.grad, *(parameter.grad.clone() for parameter in block.parameters())]


def seconds(block: ConvNeXtBlock, image: Tensor, repeats: int, *, autocast: bool) -> list[float]:
    """Return the medians of the ways' steps, taken in turns."""
    times: dict[str, list[float]] = {way: [] for way in WAYS}
    for _ in range(repeats + 1):
        for way, taken in times.items():
            started = time.perf_counter()
            step(block, image, way, autocast=autocast)
            taken.append(time.perf_counter() - started)
    return [statistics.median(taken[1:]) for taken in times.values()]


def error(found: list[Tensor], exact: list[Tensor]) -> float:
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(found, exact, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--bfloat16", action="store_true")
    args = parser.parse_args()
    keep_heap()
    torch.set_num_threads(2)
    print("| width, batch×edges | expansion MiB | chunks s | whole s | plain s | plain / best | errors |")
    print("|---|---|---|---|---|---|---|")
    for width, size in SIZES:
        block, image = make_block(width, len(size) - 1), torch.randn(size[0], width, *size[1:])
        exact = step(copy.deepcopy(block).double(), image.double(), "plain")
        errors = [f"{error(step(block, image, way), exact):.0e}" for way in WAYS]
        taken = seconds(block, image, args.repeats, autocast=args.bfloat16)
        mib = 4 * 4 * image.numel() / 2**20
        print(
            f"| {width}, {'×'.join(map(str, size))} | {mib:.0f} | {' | '.join(f'{one:.4f}' for one in taken)} "
            f"| {taken[2] / min(taken):.2f} | {', '.join(errors)} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
