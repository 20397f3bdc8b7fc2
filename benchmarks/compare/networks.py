"""Stages of the ConvNeXt V2 U-Net with the paper's widths. Peer: the same network in plain PyTorch modules."""

from __future__ import annotations

from typing import Any

from benchmarks.compare.data import largest_difference
from benchmarks.compare.harness import Pair, Stage

THREADS = 2


def _networks(patch: tuple[int, ...]) -> tuple[Any, Any, Any]:
    """Return our network, the plain one with the same weights, and an image."""
    import torch

    from benchmarks.expected_cost import paper_network
    from benchmarks.train_step import make_plain
    from siccs_net.cli.process import keep_heap
    from siccs_net.networks.build import build_network

    keep_heap()
    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    ours, plain = build_network(paper_network()), build_network(paper_network())
    for parameter in ours.parameters():
        torch.nn.init.normal_(parameter, std=0.1 if parameter.ndim == 1 else parameter[0].numel() ** -0.5)
    plain.load_state_dict(ours.state_dict())
    return ours, make_plain(plain), torch.randn(1, 1, *patch)


def forward(patch: tuple[int, ...], *, channels_last: bool = False) -> Pair:
    import torch

    from benchmarks.train_step import memory

    ours, plain, image = _networks(patch)
    ours.eval()
    plain.eval()

    def run(network: Any, fast: bool) -> Any:
        with torch.inference_mode(), memory(channels_last=fast):
            return network(image).numpy()

    return Pair(lambda: run(ours, True), lambda: run(plain, channels_last), largest_difference("in the logits"))


def training_step(patch: tuple[int, ...], *, channels_last: bool) -> Pair:
    from benchmarks.train_step import memory

    ours, plain, image = _networks(patch)
    ours.train()
    plain.train()

    def run(network: Any, fast: bool) -> Any:
        network.zero_grad(set_to_none=True)
        with memory(channels_last=fast):
            network(image).square().mean().backward()
        return {name: parameter.grad for name, parameter in network.named_parameters()}

    def differ(own: dict[str, Any], theirs: dict[str, Any]) -> str:
        import torch

        mine, other = (torch.cat([grad.flatten() for grad in grads.values()]) for grads in (own, _renamed(own, theirs)))
        return f"gradient differs by {float((mine - other).norm() / other.norm()):.1e} of its norm"

    return Pair(lambda: run(ours, True), lambda: run(plain, channels_last), differ)


def _renamed(own: dict[str, Any], theirs: dict[str, Any]) -> dict[str, Any]:
    """Return the plain network's gradients in the order of ours: a plain block holds our block's parameters."""
    by_name = {name.replace(".block.", "."): grad for name, grad in theirs.items()}
    by_name |= {name.replace(".conv.", ".depthwise."): grad for name, grad in theirs.items() if ".conv." in name}
    return {name: by_name[name] for name in own}


def forward_96() -> Pair:
    return forward((96, 96, 96))


def forward_whole() -> Pair:
    return forward((40, 320, 320))


def step() -> Pair:
    return training_step((64, 64, 64), channels_last=False)


def step_channels_last() -> Pair:
    return training_step((64, 64, 64), channels_last=True)


STAGES = (
    Stage("forward", "plain PyTorch", forward_96),
    Stage("forward_320x320x40", "plain PyTorch", forward_whole, repeats=3),
    Stage("training_step", "plain PyTorch", step),
    Stage("training_step_channels_last", "plain PyTorch, channels last", step_channels_last),
)
