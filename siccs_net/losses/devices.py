"""Sums over the processes of a training on several devices."""

from __future__ import annotations

from typing import Any

from torch import Tensor, autograd, distributed


def several_devices() -> bool:
    """Say whether this process trains together with others."""
    return distributed.is_available() and distributed.is_initialized()


def over_devices(sums: Tensor) -> Tensor:
    """Return sums added over the processes of a training on several devices; gradients reach all of them.

    Each process then has the same loss, and the mean of their gradients is the gradient of the loss of the whole
    batch. Without such processes the sums are returned as they are.
    """
    if not several_devices():
        return sums
    return _SumOverDevices.apply(sums)  # type: ignore[no-any-return, no-untyped-call]


class _SumOverDevices(autograd.Function):
    @staticmethod
    def forward(context: Any, sums: Tensor) -> Tensor:
        total = sums.contiguous().clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].contiguous().clone()
        distributed.all_reduce(total)
        return total
