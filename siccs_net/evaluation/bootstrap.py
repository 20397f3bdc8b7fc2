"""BCa bootstrap intervals. A resample is told by how often it drew each case, so statistics are matrix products."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from siccs_net.errors import UsageError

Floats: TypeAlias = NDArray[np.float64]
Statistic: TypeAlias = Callable[..., Floats]

RESAMPLES = 9999
_LEVELS = (0.025, 0.975)
# Resamples at a time: memory grows with the cases alone, and products of few are too small to be split over threads,
# which wait for one another on a busy machine.
_BLOCK = 100
# The acceleration is at most 1/6. With a bias below 4 its formula never divides by 0 or less.
_LARGEST_BIAS = 4
# Two values of a statistic are one when they differ by less than this part of the largest.
_SAME = 1e-12


def bca_interval(
    statistic: Statistic, sizes: Sequence[int], *, seed: int, resamples: int = RESAMPLES
) -> tuple[float, float] | None:
    """Return the 95 % BCa bootstrap interval of a statistic of one or more independent groups of cases.

    `sizes` holds the number of cases of each group, and each group is resampled by itself. `statistic` takes weights
    [resamples, cases] of each group (how often a resample drew each case) and returns its values [resamples], NaN
    where it is undefined. Those resamples are left out, and so are undefined values of the jackknife, which the
    acceleration comes from. A resample at the estimate counts half below it.

    None where the bootstrap cannot tell: no resample differs from the estimate, or (nearly) all lie on one side of it.
    Raises UsageError for fewer than one resample.
    Efron & Tibshirani, An Introduction to the Bootstrap, 1993, section 14.3; Davison & Hinkley, Bootstrap Methods and
    their Application, 1997, section 5.3 for several groups.
    """
    if resamples < 1:
        raise UsageError("a bootstrap needs resamples", found=resamples, expected="1 or more")
    estimate = float(statistic(*(np.ones((1, size)) for size in sizes))[0])
    values = _defined(_replicates(statistic, sizes, seed, resamples))
    bias = _bias(estimate, values)
    if bias is None:
        return None
    acceleration = _acceleration([_defined(_jackknife(statistic, sizes, left_out)) for left_out in range(len(sizes))])
    low, high = np.quantile(values, [_adjusted(level, bias, acceleration) for level in _LEVELS])
    return float(low), float(high)


def ratio(numerator: Floats, denominator: Floats) -> Floats:
    """Divide element by element; NaN where the denominator is 0."""
    quotient = np.full(np.broadcast_shapes(numerator.shape, denominator.shape), np.nan)
    np.divide(numerator, denominator, out=quotient, where=denominator != 0)
    return quotient


def _replicates(statistic: Statistic, sizes: Sequence[int], seed: int, resamples: int) -> Floats:
    rng = np.random.default_rng(seed)
    blocks = [min(_BLOCK, resamples - start) for start in range(0, resamples, _BLOCK)]
    return np.concatenate([statistic(*(_weights(size, block, rng) for size in sizes)) for block in blocks])


def _weights(size: int, resamples: int, rng: np.random.Generator) -> Floats:
    """Return how often each of `size` draws with replacement hit each case [resamples, cases]."""
    cells = rng.integers(size, size=(resamples, size)) + size * np.arange(resamples)[:, None]
    return np.bincount(cells.ravel(), minlength=resamples * size).reshape(resamples, size).astype(np.float64)


def _jackknife(statistic: Statistic, sizes: Sequence[int], left_out: int) -> Floats:
    """Return the statistic without each case of group `left_out` in turn, the other groups whole."""
    rows = sizes[left_out]
    weights = [np.ones((rows, size)) for size in sizes]
    weights[left_out] -= np.eye(rows)
    return statistic(*weights)


def _defined(values: Floats) -> Floats:
    return values[~np.isnan(values)]


def _bias(estimate: float, values: Floats) -> float | None:
    """Return z0, the normal quantile of the share of resamples below the estimate; None where it says nothing."""
    tolerance = _SAME * max(abs(estimate), float(np.abs(values).max(initial=0.0)))
    ties = np.abs(values - estimate) <= tolerance
    if ties.all():
        return None
    below = float(((values < estimate) & ~ties).mean() + ties.mean() / 2)
    bias = float(ndtri(below))
    return bias if abs(bias) < _LARGEST_BIAS else None


def _acceleration(jackknife: Sequence[Floats]) -> float:
    """Return a, a sixth of the skewness of the jackknife's influence values; 0 when no case has an influence."""
    cubes = squares = 0.0
    for values in (values for values in jackknife if len(values)):
        # (n - 1) / n as in the empirical influence: it weighs groups of different sizes against one another.
        influence = (values.mean() - values) * (len(values) - 1) / len(values)
        cubes += float((influence**3).sum())
        squares += float((influence**2).sum())
    return cubes / (6 * math.pow(squares, 1.5)) if squares else 0.0


def _adjusted(level: float, bias: float, acceleration: float) -> float:
    """Return the share of resamples at which the interval of nominal `level` ends."""
    shifted = bias + float(ndtri(level))
    return float(ndtr(bias + shifted / (1 - acceleration * shifted)))
