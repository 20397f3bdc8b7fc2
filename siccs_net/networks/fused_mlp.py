"""The channel mixing of a ConvNeXt V2 block on a CPU, in chunks of rows that stay in the processor's cache.

LayerNorm, expansion, GELU, GRN, projection and the sum with the input as one function of rows [b, rows, c]. The
expanded rows, four times as wide, never exist as a whole while the network learns: GRN needs only each channel's sum of
squares, so the expansion is computed once for it and once more for the projection, and again in the backward pass, for
which the normalised rows are kept. LayerNorm's scale
and shift are folded into the expansion's weights, GRN's into the projection's. For one sample, with h = LayerNorm(y)
without scale and shift, t = GELU((W1 diag(scale)) h + (W1 shift + b1)), s = 1 + gamma N(t) and N as in
`blocks.relative_response`:

    out = (W2 diag(s)) t + (W2 beta + b2) + x

`blocks.ConvNeXtBlock` has the same in torch's own operations; the tests compare the two, and gradients in float64.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

# ConvNeXt V2's epsilons: in LayerNorm, and in the division of GRN.
EPSILON = 1e-6
# The gradient of a square root is infinite at 0; this small number under it changes nothing else.
ROOT_GUARD = 1e-12
# Bytes of expanded rows in one chunk: few calls, and a chunk stays in a shared cache (benchmarks/fused_mlp.py).
CHUNK_BYTES = 2**23
# Bytes of expanded rows that are kept, where no gradient is needed, rather than computed twice.
KEPT_BYTES = 2**29
# While learning: from this size of the expansion on it is not kept; below, `whole_mlp` is faster.
WORTH_BYTES = 2**25


class MlpWeights(NamedTuple):
    """LayerNorm's scale and shift [c], expansion [e, c] and [e], gamma and beta [e], projection [c, e] and [c]."""

    norm_weight: Tensor
    norm_bias: Tensor
    expand_weight: Tensor
    expand_bias: Tensor
    gamma: Tensor
    beta: Tensor
    project_weight: Tensor
    project_bias: Tensor


def is_worth_fusing(y: Tensor, expansion: int, dtype: torch.dtype) -> bool:
    """Say whether rows [b, *spatial, c] are on a CPU and expand, `expansion` channels wide in `dtype`, to much memory.

    Where no gradient is needed every expansion is worth it: it is computed once.
    """
    if y.device.type != "cpu":
        return False
    only_forward = not torch.is_grad_enabled() and not torch.compiler.is_compiling()
    return only_forward or y.numel() // y.shape[-1] * expansion * dtype.itemsize >= WORTH_BYTES


def fused_mlp(
    y: Tensor, weights: MlpWeights, dtype: torch.dtype, residual: Tensor | None = None, *, overwrite: bool = False
) -> Tensor:
    """Return the mixed rows [b, rows, c] of y [b, rows, c], plus `residual` of that shape.

    Matrix products run in `dtype`, all sums in y's type. With `overwrite` the memory of y, which nobody may need
    afterwards, takes the normalised rows that are kept for the backward pass, or the result where there is none.
    """
    learns = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (y, *weights))
    how = (dtype, learns, overwrite)
    mixed: Tensor = _FusedMlp.apply(y.contiguous(), residual, how, *weights)  # type: ignore[no-untyped-call]
    return mixed


def linear_gelu(rows: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return GELU(rows [n, c] @ weight [e, c]^T + bias [e]) where no gradient is needed, in one pass of oneDNN."""
    if onednn_multiplies(rows.dtype):
        fused: Tensor = torch.ops.mkldnn._linear_pointwise(rows, weight, bias, "gelu", [None], "none")
        return fused
    expanded: Tensor = torch.ops.aten.gelu_(torch.addmm(bias, rows, weight.t()))
    return expanded


def onednn_multiplies(dtype: torch.dtype) -> bool:
    """Say whether oneDNN has matrix products of this type on this processor; bfloat16 it has from AVX-512 on."""
    available: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if dtype == torch.bfloat16:
        return available and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return available and dtype == torch.float32


class _Expansion(NamedTuple):
    """What turns rows into their expansion, in the type of the matrix products: LayerNorm's affine is folded in."""

    weight: Tensor
    bias: Tensor
    ones: Tensor
    zeros: Tensor

    def normalised(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return LayerNorm without scale and shift of rows [n, c], and each row's inverse deviation [n, 1].

        Ones and zeros stand for those: torch is slower without them.
        """
        normalised, _, inverse = torch.native_layer_norm(rows, rows.shape[1:], self.ones, self.zeros, EPSILON)
        return normalised, inverse

    def before_gelu(self, normalised: Tensor) -> Tensor:
        """Return the expansion [n, e] of normalised rows [n, c]; adding afterwards is faster than addmm's copy."""
        return torch.mm(normalised.to(self.weight.dtype), self.weight.t()).add_(self.bias)

    def of(self, normalised: Tensor) -> Tensor:
        """Return GELU of the expansion [n, e] of normalised rows [n, c]."""
        return linear_gelu(normalised.to(self.weight.dtype), self.weight, self.bias)


class _Normalised(NamedTuple):
    """LayerNorm of one sample without scale and shift, rows [n, c], and each row's inverse deviation [n, 1]."""

    rows: Tensor
    inverse: Tensor


class _FusedMlp(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, y: Tensor, residual: Tensor | None, how: tuple[torch.dtype, bool, bool], *tensors: Tensor
    ) -> Tensor:
        weights, (dtype, learns, overwrite) = MlpWeights(*tensors), how
        expansion = make_expansion(weights, dtype)
        # A chunk is written when it has been read for the last time.
        out = y.detach() if overwrite and not learns else torch.empty_like(y)
        norms: list[Tensor] = []
        normalised = inverse = None
        if learns:
            normalised, inverse = y if overwrite else torch.empty_like(y), y.new_empty(*y.shape[:2], 1)
        for number, rows in enumerate(y):
            room = None if normalised is None or inverse is None else _Normalised(normalised[number], inverse[number])
            kept: list[Tensor] | None = [] if room is None and _may_be_kept(rows, expansion) else None
            norms.append((_sum_of_squares(rows, expansion, room, kept) + ROOT_GUARD).sqrt())
            added = None if residual is None else residual[number]
            _project(rows, expansion, room, kept, weights, norms[-1], added, out[number])
        ctx.save_for_backward(normalised, inverse, torch.stack(norms), *tensors)
        ctx.dtype, ctx.adds = dtype, residual is not None
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        normalised, inverse, norms, *tensors = ctx.saved_tensors
        weights = MlpWeights(*tensors)
        expansion = make_expansion(weights, ctx.dtype)
        totals = MlpWeights(*(torch.zeros_like(tensor) for tensor in tensors))
        for_y = torch.empty_like(normalised)
        for number, above in enumerate(gradient.contiguous()):
            rows = _Normalised(normalised[number], inverse[number])
            _backward_of_sample(rows, norms[number], above, expansion, weights, totals, for_y[number])
        unfold_norm(weights, totals)
        return for_y, gradient if ctx.adds else None, None, *totals


def make_expansion(weights: MlpWeights, dtype: torch.dtype) -> _Expansion:
    """Return the expansion with LayerNorm's scale and shift in it."""
    matrix = weights.expand_weight * weights.norm_weight
    bias = weights.expand_bias + weights.expand_weight @ weights.norm_bias
    ones, zeros = torch.ones_like(weights.norm_weight), torch.zeros_like(weights.norm_bias)
    return _Expansion(matrix.to(dtype), bias.to(dtype), ones, zeros)


def unfold_norm(weights: MlpWeights, totals: MlpWeights) -> None:
    """Turn the gradient of the folded expansion, held in `totals`, into those of LayerNorm's affine and its own."""
    folded, bias = totals.expand_weight, totals.expand_bias
    totals.norm_weight.add_((weights.expand_weight * folded).sum(0))
    totals.norm_bias.add_(bias @ weights.expand_weight)
    folded.mul_(weights.norm_weight).add_(torch.outer(bias, weights.norm_bias))


def _chunks(rows: Tensor, expansion: _Expansion) -> list[slice]:
    step = max(1, CHUNK_BYTES // (expansion.bias.numel() * rows.element_size()))
    return [slice(start, start + step) for start in range(0, len(rows), step)]


def _may_be_kept(rows: Tensor, expansion: _Expansion) -> bool:
    """Say whether the expansion of rows [n, c] is small enough to be kept between its two uses."""
    return len(rows) * len(expansion.bias) * expansion.weight.element_size() <= KEPT_BYTES


def _sum_of_squares(rows: Tensor, expansion: _Expansion, room: _Normalised | None, kept: list[Tensor] | None) -> Tensor:
    """Return each expanded channel's sum of squares [e] over the rows of one sample; fill `room` and `kept`."""
    total = rows.new_zeros(len(expansion.bias), dtype=torch.float64)
    for chunk in _chunks(rows, expansion):
        normalised, inverse = expansion.normalised(rows[chunk])
        if room is not None:
            room.rows[chunk], room.inverse[chunk] = normalised, inverse
        expanded = expansion.of(normalised)
        if kept is not None:
            kept.append(expanded)
        total += _column_sums(expanded.to(rows.dtype).square())
    return total.to(rows.dtype)


def _column_sums(matrix: Tensor) -> Tensor:
    """Return the sums over the rows of [n, e]; a product with ones is faster than torch's sum."""
    return torch.mv(matrix.t(), matrix.new_ones(len(matrix)))


def _project(
    rows: Tensor,
    expansion: _Expansion,
    room: _Normalised | None,
    kept: list[Tensor] | None,
    weights: MlpWeights,
    norm: Tensor,
    residual: Tensor | None,
    out: Tensor,
) -> None:
    scale = 1 + weights.gamma * norm / (norm.mean() + EPSILON)
    matrix = (weights.project_weight * scale).t().to(expansion.weight.dtype)
    bias = weights.project_bias + weights.project_weight @ weights.beta
    for number, chunk in enumerate(_chunks(rows, expansion)):
        if kept is not None:
            expanded = kept[number]
        else:
            expanded = expansion.of(expansion.normalised(rows[chunk])[0] if room is None else room.rows[chunk])
        added = bias if residual is None else residual[chunk] + bias
        torch.add(torch.mm(expanded, matrix), added, out=out[chunk])


def _backward_of_sample(
    rows: _Normalised,
    norm: Tensor,
    above: Tensor,
    expansion: _Expansion,
    weights: MlpWeights,
    totals: MlpWeights,
    for_rows: Tensor,
) -> None:
    """Add one sample's gradients of the weights to `totals` and write that of its rows."""
    mean = norm.mean() + EPSILON
    response = norm / mean
    scale = 1 + weights.gamma * response
    met = _gradient_by_expansion(rows.rows, above, expansion)
    from_scale = (weights.project_weight * met).sum(0)
    bias = _column_sums(above)
    totals.project_weight.add_(met * scale).add_(torch.outer(bias, weights.beta))
    totals.project_bias.add_(bias)
    totals.beta.add_(bias @ weights.project_weight)
    totals.gamma.add_(from_scale * response)
    through_norm = gradient_of_norm(from_scale * weights.gamma, norm, mean) / norm
    _gradient_of_rows(rows, above, expansion, weights, scale, through_norm, totals, for_rows)


def _gradient_by_expansion(normalised: Tensor, above: Tensor, expansion: _Expansion) -> Tensor:
    """Return the sum over rows of gradient times expansion, [c, e]."""
    total = above.new_zeros(above.shape[1], len(expansion.bias))
    for chunk in _chunks(normalised, expansion):
        _add_product(total, above[chunk].to(expansion.weight.dtype).t(), expansion.of(normalised[chunk]))
    return total


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    if total.dtype == left.dtype:
        total.addmm_(left, right)
    else:
        total += left @ right


def gradient_of_norm(from_response: Tensor, norm: Tensor, mean: Tensor) -> Tensor:
    """Return the gradient of each channel's norm [..., e] from that of norm / mean, where mean [..., 1] holds all."""
    met = (from_response * norm).sum(-1, keepdim=True)
    return from_response / mean - met / (mean * mean * norm.shape[-1])


def _gradient_of_rows(
    rows: _Normalised,
    above: Tensor,
    expansion: _Expansion,
    weights: MlpWeights,
    scale: Tensor,
    through_norm: Tensor,
    totals: MlpWeights,
    for_rows: Tensor,
) -> None:
    dtype = expansion.weight.dtype
    projection, direct = (weights.project_weight * scale).to(dtype), through_norm.to(dtype)
    for chunk in _chunks(rows.rows, expansion):
        normalised = rows.rows[chunk]
        before = expansion.before_gelu(normalised)
        of_expanded = (above[chunk].to(dtype) @ projection).addcmul_(functional.gelu(before), direct)
        of_before = torch.ops.aten.gelu_backward(of_expanded, before)
        _add_product(totals.expand_weight, of_before.t(), normalised.to(dtype))
        totals.expand_bias.add_(_column_sums(of_before.to(normalised.dtype)))
        of_normalised = (of_before @ expansion.weight).to(normalised.dtype)
        torch.mul(without_norm(of_normalised, normalised), rows.inverse[chunk], out=for_rows[chunk])


def without_norm(gradient: Tensor, normalised: Tensor) -> Tensor:
    """Return what LayerNorm lets through of a gradient [n, c]: not what changes a row's mean or deviation."""
    mean, inverse = gradient.new_zeros(len(gradient), 1), gradient.new_ones(len(gradient), 1)
    passed: Tensor = torch.ops.aten.native_layer_norm_backward(
        gradient, normalised, normalised.shape[1:], mean, inverse, None, None, [True, False, False]
    )[0]
    return passed
