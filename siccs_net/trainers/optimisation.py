"""Optimizer and schedule of the trainers that come with siccs_net."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from siccs_net.records.checkpoint import Numerics
from siccs_net.trainers.config import TrainerConfig


def optimizer(network: nn.Module, config: TrainerConfig, numerics: Numerics) -> torch.optim.Optimizer:
    """Return the optimizer that the settings name, over the network's parameters that are trained.

    The Adams are torch's fused ones: one pass over a parameter and its state, where the others take one for each
    operation. (Its fused SGD keeps momentum that it never wrote when a scaler skips the first step.)
    """
    if config.optimizer == "adamw":
        return adamw(network, config, numerics)
    groups = decay_groups(network, config)
    if config.optimizer == "sgd":
        nesterov = config.nesterov and config.momentum > 0
        return torch.optim.SGD(groups, lr=config.learning_rate, momentum=config.momentum, nesterov=nesterov)
    return torch.optim.Adam(groups, lr=config.learning_rate, **_adam(config, numerics))


def adamw(network: nn.Module, config: TrainerConfig, numerics: Numerics) -> torch.optim.AdamW:
    """Return AdamW, with AMSGrad by default.

    Epsilon is 1e-8, 1e-4 under float16 (with 1e-8 half-precision gradients gave NaN in MedNeXt).
    """
    groups = decay_groups(network, config)
    return torch.optim.AdamW(groups, lr=config.learning_rate, **_adam(config, numerics))


def decay_groups(network: nn.Module, config: TrainerConfig) -> list[dict[str, Any]]:
    """Return the parameters in two groups, with weight decay and, unless `decay_everything`, without.

    Spared are biases, norms and GRN: the parameters with at most one axis longer than 1.
    """
    decayed: list[nn.Parameter] = []
    spared: list[nn.Parameter] = []
    for parameter in network.parameters():
        if parameter.requires_grad:
            matrix = sum(size > 1 for size in parameter.shape) > 1
            (decayed if matrix or config.decay_everything else spared).append(parameter)
    groups = [(decayed, config.weight_decay), (spared, 0.0)]
    return [{"params": members, "weight_decay": decay} for members, decay in groups if members]


def _adam(config: TrainerConfig, numerics: Numerics) -> dict[str, Any]:
    epsilon = config.adam_epsilon or (1e-4 if numerics.precision == "float16" else 1e-8)
    return {"eps": epsilon, "amsgrad": config.amsgrad, "fused": True}


def schedule(config: TrainerConfig) -> Callable[[float], float]:
    """Return the factor on the learning rate at an epoch: linear warm-up, then a cosine or a power to 0.

    `cosine_per_epoch` (Vahdani et al. 2026) and `poly` (nnU-Net's, (1 - t)^exponent) hold the value during an epoch;
    `cosine_per_iteration` falls every iteration.
    """

    def factor(epoch: float) -> float:
        if epoch < config.warmup_epochs:
            return (epoch + 1e-2) / (config.warmup_epochs + 1e-2)
        if config.schedule == "constant":
            return 1.0
        at = epoch if config.schedule == "cosine_per_iteration" else math.floor(epoch)
        length = max(config.epochs - config.warmup_epochs, 1e-9)
        done = min(1.0, max(0.0, at - config.warmup_epochs) / length)
        if config.schedule == "poly":
            return float((1 - done) ** config.poly_exponent)
        return 0.5 * (1 + math.cos(math.pi * done))

    return factor
