"""The channel mixing of a ConvNeXt V2 block on a CPU for images that fit the cache: in one piece, a batch at a time.

The same function as `fused_mlp`, whose notation this follows, without its chunks and without a loop over samples: small
images cost calls rather than bandwidth. What is kept for the backward pass are the normalised rows and the expansion
before GELU. Operation by operation (`blocks.ConvNeXtBlock`) there are more passes over the expansion, many of them in
float32 whatever the type of the matrix products (benchmarks/fused_mlp.py).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from siccs_net.networks.fused_mlp import (
    EPSILON,
    ROOT_GUARD,
    MlpWeights,
    gradient_of_norm,
    make_expansion,
    unfold_norm,
    without_norm,
)

# Fewer rows a sample than this for each channel: the weights, scaled anew for each sample, cost more than the rows.
ROWS_A_CHANNEL = 4


def has_many_rows(y: Tensor) -> bool:
    """Say whether rows [b, *spatial, c] are on a CPU and many enough beside the weights."""
    return y.device.type == "cpu" and math.prod(y.shape[1:]) >= ROWS_A_CHANNEL * y.shape[-1] ** 2


def whole_mlp(y: Tensor, weights: MlpWeights, dtype: torch.dtype, residual: Tensor | None = None) -> Tensor:
    """Return the mixed rows [b, rows, c] of y [b, rows, c], plus `residual` of that shape.

    Matrix products and the expansion are in `dtype`, the sum of the expansion's gradient for its bias too; all other
    sums are in y's type.
    """
    mixed: Tensor = _WholeMlp.apply(y.contiguous(), residual, dtype, *weights)  # type: ignore[no-untyped-call]
    return mixed


class _WholeMlp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, y: Tensor, residual: Tensor | None, dtype: torch.dtype, *tensors: Tensor) -> Tensor:
        weights = MlpWeights(*tensors)
        expansion = make_expansion(weights, dtype)
        normalised, inverse = expansion.normalised(y.flatten(0, 1))
        before = expansion.before_gelu(normalised)
        expanded = functional.gelu(before).view(*y.shape[:2], -1)
        wide = expanded.to(y.dtype)
        squares = wide.square() if wide is expanded else wide.square_()
        norm = (_row_sums(squares) + ROOT_GUARD).sqrt()
        mixed = torch.bmm(expanded, _projection(weights, norm, dtype).mT)
        shift = weights.project_bias + weights.project_weight @ weights.beta
        ctx.save_for_backward(normalised, inverse, before, norm, *tensors)
        ctx.dtype, ctx.adds = dtype, residual is not None
        return (shift if residual is None else residual + shift) + mixed

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        normalised, inverse, before, norm, *tensors = ctx.saved_tensors
        weights, dtype = MlpWeights(*tensors), ctx.dtype
        expansion = make_expansion(weights, dtype)
        above = gradient.contiguous().to(dtype)
        expanded = functional.gelu(before).view(*above.shape[:2], -1)
        response, mean = _response(norm)
        met = torch.bmm(above.mT, expanded).to(norm.dtype)  # the sum over rows of gradient times expansion, [b, c, e]
        from_scale = (weights.project_weight * met).sum(1)
        totals = _of_projection(weights, gradient, met, from_scale, response)
        through_norm = gradient_of_norm(from_scale * weights.gamma, norm, mean) / norm
        of_expanded = torch.bmm(above, _projection(weights, norm, dtype))
        of_expanded.addcmul_(expanded, through_norm.unsqueeze(1).to(dtype))
        of_before = torch.ops.aten.gelu_backward(of_expanded.flatten(0, 1), before)
        totals.expand_weight.copy_(of_before.t() @ normalised.to(dtype))
        totals.expand_bias.copy_(torch.mv(of_before.t(), of_before.new_ones(len(of_before))))
        unfold_norm(weights, totals)
        of_normalised = (of_before @ expansion.weight).to(normalised.dtype)
        for_y = without_norm(of_normalised, normalised).mul_(inverse).view(gradient.shape)
        return for_y, gradient if ctx.adds else None, None, *totals


def _row_sums(rows: Tensor) -> Tensor:
    """Return the sums over the rows of [b, n, e]; a product with ones is faster than torch's sum."""
    return torch.bmm(rows.new_ones(len(rows), 1, rows.shape[1]), rows).squeeze(1)


def _response(norm: Tensor) -> tuple[Tensor, Tensor]:
    """Return N [b, e] of the norms [b, e], and their means [b, 1]."""
    mean = norm.mean(1, keepdim=True) + EPSILON
    return norm / mean, mean


def _projection(weights: MlpWeights, norm: Tensor, dtype: torch.dtype) -> Tensor:
    """Return each sample's projection [b, c, e], with GRN's scale in it."""
    scale = 1 + weights.gamma * _response(norm)[0]
    return (weights.project_weight * scale.unsqueeze(1)).to(dtype)


def _of_projection(
    weights: MlpWeights, gradient: Tensor, met: Tensor, from_scale: Tensor, response: Tensor
) -> MlpWeights:
    """Return the gradients of all weights, those of the expansion still to be filled."""
    totals = MlpWeights(*(torch.zeros_like(tensor) for tensor in weights))
    scale = 1 + weights.gamma * response
    bias = _row_sums(gradient).sum(0)
    totals.project_weight.copy_((met * scale.unsqueeze(1)).sum(0)).add_(torch.outer(bias, weights.beta))
    totals.project_bias.copy_(bias)
    totals.beta.copy_(bias @ weights.project_weight)
    totals.gamma.copy_((from_scale * response).sum(0))
    return totals
