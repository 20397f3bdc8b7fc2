"""Stages of the ConvNeXt V2 U-Net with the paper's widths. Peer: the same network in plain PyTorch modules.

The plain network runs in contiguous memory with the default allocator; one stage gives it channels-last memory.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from benchmarks.compare.agreement import Agreement, largest_difference
from benchmarks.compare.harness import Run, Stage

if TYPE_CHECKING:
    from torch import Tensor, nn

THREADS = 2
WIDE, WHOLE, SMALL = (96, 96, 96), (40, 320, 320), (64, 64, 64)
LIBRARIES = (16, 32, 32)
LOGITS_LIMIT, GRADIENT_LIMIT = 1e-4, 1e-5


def _network(patch: tuple[int, ...], *, plain: bool) -> tuple[nn.Module, Tensor]:
    """Return the network, the same numbers in both sides' processes, and an image."""
    import torch

    from benchmarks.expected_cost import paper_network
    from benchmarks.train_step import make_plain
    from siccs_net.networks.build import build_network

    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    network = build_network(paper_network())
    for _, parameter in sorted(network.named_parameters()):
        torch.nn.init.normal_(parameter, std=0.1 if parameter.ndim == 1 else parameter[0].numel() ** -0.5)
    image = torch.randn(1, 1, *patch)  # before the plain modules, which draw weights of their own
    network = make_plain(network) if plain else network
    # Loads what torch loads at a first pass, which would be part of the memory.
    network.train()(torch.randn(1, 1, *LIBRARIES)).square().mean().backward()
    return network, image


def forward(patch: tuple[int, ...], plain: bool, folder: Path) -> Run:
    """Prepare one forward pass."""
    import torch

    from benchmarks.train_step import memory

    network, image = _network(patch, plain=plain)
    network.eval()

    def run() -> Any:
        with torch.inference_mode(), memory(channels_last=not plain):
            return network(image).numpy()

    return run


@dataclass(frozen=True)
class LogitsAgree:
    """Compares logits with those of the plain network whose norm in GRN is taken in float64.

    In float32 torch's vector_norm over millions of voxels is the least exact number of either network.
    """

    patch: tuple[int, ...]

    def __call__(self, ours: NDArray[Any], peer: NDArray[Any]) -> Agreement:
        exact, rounded = (largest_difference(ours, other) for other in (self._reference(), peer))
        text = f"max difference {exact:.1e} in the logits with the norm in float64 ({rounded:.1e} with it in float32)"
        return Agreement(text, exact <= LOGITS_LIMIT)

    def _reference(self) -> NDArray[Any]:
        import torch

        from benchmarks.train_step import PlainBlock, memory

        network, image = _network(self.patch, plain=True)
        for module in network.eval().modules():
            if isinstance(module, PlainBlock):
                module.norm_dtype = torch.float64
        with torch.inference_mode(), memory(channels_last=False):
            logits: NDArray[Any] = network(image).numpy()
        return logits


def training_step(patch: tuple[int, ...], plain: bool, channels_last: bool, folder: Path) -> Run:
    """Prepare one forward and backward pass; the result is the gradient by parameter name."""
    from benchmarks.train_step import memory

    network, image = _network(patch, plain=plain)
    network.train()

    def run() -> dict[str, Any]:
        network.zero_grad(set_to_none=True)
        with memory(channels_last=channels_last):
            network(image).square().mean().backward()
        return {name: parameter.grad for name, parameter in network.named_parameters()}

    return run


def gradients_agree(own: dict[str, Any], theirs: dict[str, Any]) -> Agreement:
    """Compare two gradients by the norm of their difference."""
    import torch

    mine, other = (torch.cat([grad.flatten() for grad in grads.values()]) for grads in (own, _renamed(own, theirs)))
    relative = float((mine - other).norm() / other.norm())
    return Agreement(f"gradient differs by {relative:.1e} of its norm", relative <= GRADIENT_LIMIT)


def _renamed(own: dict[str, Any], theirs: dict[str, Any]) -> dict[str, Any]:
    """Return the plain network's gradients in the order of ours: a plain block holds our block's parameters."""
    by_name = {name.replace(".block.", "."): grad for name, grad in theirs.items()}
    by_name |= {name.replace(".conv.", ".depthwise."): grad for name, grad in theirs.items() if ".conv." in name}
    return {name: by_name[name] for name in own}


def _forward_stage(name: str, patch: tuple[int, ...]) -> Stage:
    ours, theirs = (functools.partial(forward, patch, plain) for plain in (False, True))
    return Stage(name, "plain PyTorch", ours, theirs, LogitsAgree(patch))


def _step_stage(name: str, peer: str, *, channels_last: bool) -> Stage:
    ours = functools.partial(training_step, SMALL, False, True)
    theirs = functools.partial(training_step, SMALL, True, channels_last)
    return Stage(name, peer, ours, theirs, gradients_agree)


STAGES = (
    _forward_stage("forward", WIDE),
    _forward_stage("forward_320x320x40", WHOLE),
    _step_stage("training_step", "plain PyTorch", channels_last=False),
    _step_stage("training_step_channels_last", "plain PyTorch, channels last", channels_last=True),
)
