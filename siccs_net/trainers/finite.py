"""Where a training stopped being finite: the step, and the layer of the network that made it so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from siccs_net.errors import TrainingError


class NotFiniteError(TrainingError):
    """The loss or the gradient of a step is not finite; nothing has been updated with it."""


def describe_not_finite(loss: Tensor, network: nn.Module, run_again: Callable[[], Any]) -> tuple[str, str]:
    """Return what is not finite, "loss" or "gradient", and the layer where it begins.

    `run_again` repeats the step's forward pass. A gradient comes from the loss: of the layers whose parameters have
    one that is not finite, it began at the one that ran last.
    """
    order, spoilt = _watch(network, run_again)
    if not torch.isfinite(loss):
        return "loss", f"first at the output of {spoilt}" if spoilt else "first at the loss itself, of finite logits"
    broken = [
        name
        for name, parameter in network.named_parameters()
        if parameter.grad is not None and not torch.isfinite(parameter.grad).all()
    ]
    if not broken:
        return "gradient", "in no single parameter: the squares overflow"
    return "gradient", f"first, coming from the loss, at {max(broken, key=lambda name: _place(name, order))}"


def _watch(network: nn.Module, run_again: Callable[[], Any]) -> tuple[dict[str, int], str | None]:
    """Return when each layer finished, by name, and the first one whose output is not finite."""
    order: dict[str, int] = {}
    spoilt: list[str] = []

    def watch(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def look(module: nn.Module, inputs: Any, output: Any) -> None:
            order[name] = len(order)
            if not spoilt and isinstance(output, Tensor) and not torch.isfinite(output).all():
                spoilt.append(f"{name} ({type(module).__name__})")

        return look

    handles = [module.register_forward_hook(watch(name)) for name, module in network.named_modules() if name]
    try:
        with torch.no_grad():
            run_again()
    finally:
        for handle in handles:
            handle.remove()
    return order, spoilt[0] if spoilt else None


def _place(parameter: str, order: dict[str, int]) -> int:
    """Return when the layer of a parameter finished; of a layer that runs as a part of another, when that one did."""
    owner = parameter
    while owner:
        owner = owner.rpartition(".")[0]
        if owner in order:
            return order[owner]
    return -1
