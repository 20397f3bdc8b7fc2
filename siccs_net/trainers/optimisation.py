"""Optimizer and schedule of the trainers that come with siccs_net."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import nn

from siccs_net.records.checkpoint import Numerics
from siccs_net.trainers.config import TrainerConfig


def adamw(network: nn.Module, config: TrainerConfig, numerics: Numerics) -> torch.optim.AdamW:
    """Return AdamW (with AMSGrad by default) whose weight decay spares biases, norms and GRN.

    Those are the parameters with at most one axis longer than 1. Epsilon is 1e-8, 1e-4 under float16 (with 1e-8
    half-precision gradients gave NaN in MedNeXt).
    """
    decayed: list[nn.Parameter] = []
    spared: list[nn.Parameter] = []
    for parameter in network.parameters():
        if parameter.requires_grad:
            (decayed if sum(size > 1 for size in parameter.shape) > 1 else spared).append(parameter)
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": spared, "weight_decay": 0.0}]
    epsilon = config.adam_epsilon or (1e-4 if numerics.precision == "float16" else 1e-8)
    return torch.optim.AdamW(groups, lr=config.learning_rate, eps=epsilon, amsgrad=config.amsgrad)


def schedule(config: TrainerConfig) -> Callable[[float], float]:
    """Return the factor on the learning rate at an epoch: linear warm-up, then a cosine to 0 (or constant).

    `cosine_per_epoch` holds the value during an epoch (Vahdani et al. 2026); the other falls every iteration.
    """

    def factor(epoch: float) -> float:
        if epoch < config.warmup_epochs:
            return (epoch + 1e-2) / (config.warmup_epochs + 1e-2)
        if config.schedule == "constant":
            return 1.0
        at = math.floor(epoch) if config.schedule == "cosine_per_epoch" else epoch
        length = max(config.epochs - config.warmup_epochs, 1e-9)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, max(0.0, at - config.warmup_epochs) / length)))

    return factor
