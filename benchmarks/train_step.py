"""Forward and backward of the ConvNeXt V2 U-Net on a CPU, beside the same network in plain PyTorch.

python benchmarks/train_step.py [--threads 2] [--repeats 5] [--full-resolution]

`plain` has nn.ConvNd with groups for the depthwise convolution, torch.linalg.vector_norm in GRN and contiguous memory;
`plain, channels last` the same in channels-last memory; `siccs_net` is the package's own. The weights are the same,
and the gradients are compared. Prints the median seconds of a step and the ratio to `plain`.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from siccs_net.cli.process import keep_heap
from siccs_net.networks import convnext_unet
from siccs_net.networks.blocks import ConvNeXtBlock, in_fast_memory
from siccs_net.networks.build import build_network
from siccs_net.records.network import NetworkSpec

SHAPES = {2: (4, 1, 256, 256), 3: (1, 1, 64, 64, 64)}


def describe(dimension: int, stem: int) -> NetworkSpec:
    """Five levels, blocks 1-1-3-1-1, deep supervision; a stem of stride 2 is what the `convnext` planner makes."""
    twos = (2,) * dimension
    return NetworkSpec(
        architecture="convnext_unet",
        dimension=dimension,
        in_channels=1,
        classes=4,
        widths=(32, 64, 128, 256, 320),
        strides=((1,) * dimension, twos, twos, twos, twos),
        kernel_sizes=((7,) * dimension,) * 5,
        blocks_encoder=(1, 1, 3, 1, 1),
        blocks_decoder=(1, 1, 3, 1, 1),
        stem_stride=(stem,) * dimension,
        deep_supervision=True,
    )


class PlainBlock(nn.Module):
    """The block as one writes it with torch's modules, sharing another block's parameters.

    GRN's norm is torch's, in `norm_dtype` (None: the input's): in float32 it is off by 1e-4 and more for large images.
    """

    norm_dtype: torch.dtype | None = None

    def __init__(self, block: ConvNeXtBlock) -> None:
        super().__init__()
        width, _, *kernel = block.depthwise.weight.shape
        kind = nn.Conv2d if len(kernel) == 2 else nn.Conv3d
        self.conv = kind(width, width, tuple(kernel), padding=tuple(size // 2 for size in kernel), groups=width)
        self.conv.weight, self.conv.bias = block.depthwise.weight, block.depthwise.bias
        self.block = block

    def forward(self, x: Tensor) -> Tensor:
        block = self.block
        hidden = nn.functional.gelu(block.expand(block.norm(self.conv(x).movedim(1, -1))))
        space = tuple(range(1, x.ndim - 1))
        norm = torch.linalg.vector_norm(hidden, dim=space, keepdim=True, dtype=self.norm_dtype).to(hidden.dtype)
        response = norm / (norm.mean(-1, keepdim=True) + 1e-6)
        hidden = block.grn.weight * (hidden * response) + block.grn.bias + hidden
        return x + block.project(hidden).movedim(-1, 1)


class PlainMerge(nn.Module):
    """A skip connection joined to the decoder's features before the pointwise convolution of both."""

    def __init__(self, merge: nn.Linear) -> None:
        super().__init__()
        self.weight, self.bias = merge.weight, merge.bias

    def forward(self, one: Tensor, other: Tensor) -> Tensor:
        joined = torch.cat([one, other], 1).movedim(1, -1)
        return nn.functional.linear(joined, self.weight, self.bias).movedim(-1, 1)


def plain_up(up: nn.Module) -> nn.Module:
    """Return torch's transposed convolution with the same parameters."""
    kind = nn.ConvTranspose2d if len(up.kernel_size) == 2 else nn.ConvTranspose3d
    plain = kind(up.in_channels, up.out_channels, up.kernel_size, up.stride)
    plain.weight, plain.bias = up.weight, up.bias
    return plain


def make_plain(network: nn.Module) -> nn.Module:
    """Replace every block, merge, upsampling and downsampling in place."""
    for number, up in enumerate(network.up):
        network.up[number] = plain_up(up)
    for number, (down, merge) in enumerate(zip(network.down, network.merge, strict=True)):
        network.down[number], network.merge[number] = nn.Sequential(*down), PlainMerge(merge)
    for level in (*network.encoder, *network.decoder):
        for number, block in enumerate(level):
            level[number] = PlainBlock(block)
    return network


@contextmanager
def memory(*, channels_last: bool) -> Iterator[None]:
    """Let the network keep contiguous memory inside."""
    convnext_unet.in_fast_memory = in_fast_memory if channels_last else lambda x: x
    try:
        yield
    finally:
        convnext_unet.in_fast_memory = in_fast_memory


def step(network: nn.Module, images: Tensor) -> tuple[float, Tensor]:
    """Return the seconds of one forward and backward, and the flat gradient."""
    network.zero_grad(set_to_none=True)
    started = time.perf_counter()
    loss = sum(logits.square().mean() for logits in network(images))
    loss.backward()
    seconds = time.perf_counter() - started
    return seconds, torch.cat([parameter.grad.flatten() for parameter in network.parameters()])


def measure(dimension: int, stem: int, kind: str, repeats: int) -> tuple[float, Tensor]:
    """Return the median seconds of a step and the gradient by one kind of network."""
    torch.manual_seed(0)
    network = build_network(describe(dimension, stem)).train()
    images = torch.randn(SHAPES[dimension])
    if kind != "siccs_net":
        make_plain(network)
    with memory(channels_last=kind != "plain"):
        runs = [step(network, images) for _ in range(repeats + 1)]
    return statistics.median(seconds for seconds, _ in runs[1:]), runs[0][1]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--full-resolution", action="store_true", help="also a 3D stem of stride 1 (about a minute)")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    keep_heap()
    print("| input, stem stride | implementation | s a step | ratio | gradient differs by |\n|---|---|---|---|---|")
    for dimension, stem in ((2, 2), (3, 2), (3, 1)) if args.full_resolution else ((2, 2), (3, 2)):
        compare(dimension, stem, args.repeats)


def compare(dimension: int, stem: int, repeats: int) -> None:
    """Print the rows of one input."""
    runs = {kind: measure(dimension, stem, kind, repeats) for kind in ("plain", "plain, channels last", "siccs_net")}
    baseline, reference = runs["plain"]
    size = "×".join(map(str, SHAPES[dimension]))
    for kind, (seconds, gradient) in runs.items():
        error = float((gradient - reference).norm() / reference.norm())
        print(f"| {size}, {stem} | {kind} | {seconds:.3f} | {baseline / seconds:.1f} | {error:.0e} |", flush=True)


if __name__ == "__main__":
    main()
