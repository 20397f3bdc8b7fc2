"""Two-sided p values by rearranging the data: all arrangements, random ones, or the normal limit of all of them.

An arrangement counts when it lies at least as far from the centre as the data do, on either side. Ranks are doubled
and so whole numbers: their sums are compared exactly.
"""

from __future__ import annotations

import math
from itertools import permutations
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.special import erfc, stdtr

Integers: TypeAlias = NDArray[np.int64]
Floats: TypeAlias = NDArray[np.float64]

RANDOM_ARRANGEMENTS = 9999
EXACT_PAIRS = 8
T_FROM_PAIRS = 30
EXACT_FLIPS = 16
EXACT_POOLED = 100
EXACT_SIGNED = 200


def dense_ranks(values: NDArray[Any]) -> Integers:
    """Return the number of distinct smaller values below each value."""
    return np.unique(values, return_inverse=True)[1].astype(np.int64)


def doubled_ranks(values: NDArray[Any]) -> Integers:
    """Return twice the rank of each value, from 2; equal values share the average of their ranks."""
    dense = dense_ranks(values)
    counts = np.bincount(dense)
    return np.asarray((2 * np.cumsum(counts) - counts + 1)[dense], np.int64)


def rank_correlation_test(
    x: NDArray[Any], y: NDArray[Any], *, seed: int
) -> tuple[float, Literal["exact", "permutation", "t"]]:
    """Return p of no association of n pairs by Spearman's rho, and how it was found; neither may be constant.

    Up to 8 pairs all n! pairings, up to 29 pairs 9999 random ones and the one observed (so p >= 0.0001), from 30
    pairs Student's t with n - 2 degrees of freedom (0 for a rho of -1 or 1).
    """
    n = len(x)
    first, second = (doubled_ranks(values) - (n + 1) for values in (x, y))
    observed = int(first @ second)
    if n <= EXACT_PAIRS:
        sums = first[np.array(list(permutations(range(n))))] @ second
        return float((np.abs(sums) >= abs(observed)).mean()), "exact"
    if n < T_FROM_PAIRS:
        rng = np.random.default_rng(seed)
        sums = rng.permuted(np.tile(first, (RANDOM_ARRANGEMENTS, 1)), axis=1) @ second
        return _random_p(sums, abs(observed)), "permutation"
    return _t_test(observed / math.sqrt(int(first @ first) * int(second @ second)), n), "t"


def rank_sum_test(first: NDArray[Any], second: NDArray[Any]) -> tuple[float, Literal["exact", "normal"]]:
    """Return p of Mann and Whitney's test of two groups, neither empty, and how it was found.

    Up to 100 values together, all divisions of the pooled values into two groups of these sizes, ties included
    (Streitberg & Röhmel 1986); beyond, the normal limit with continuity and tie correction.
    """
    ranks = doubled_ranks(np.concatenate([first, second]))
    n, n_first = len(ranks), len(first)
    centre = n_first * (n + 1)
    distance = abs(int(ranks[:n_first].sum()) - centre)
    if n > EXACT_POOLED:
        variance = n_first * (n - n_first) / (n * (n - 1)) * float(((ranks - (n + 1)) ** 2).sum())
        return _normal_p(distance, variance), "normal"
    # counts[k, s]: the number of ways to choose k values whose doubled ranks add up to s.
    counts = np.zeros((n_first + 1, int(ranks.sum()) + 1))
    counts[0, 0] = 1
    for rank in ranks.tolist():
        counts[1:, rank:] += counts[:-1, :-rank]
    ways = counts[n_first]
    return _share(ways, np.abs(np.arange(len(ways)) - centre) >= distance), "exact"


def signed_rank_test(differences: Floats, tolerance: float) -> float:
    """Return p of Wilcoxon's signed-rank test, zeros after Pratt (1959): they are ranked, and then left out.

    Differences within `tolerance` of each other, or of 0, are ties: subtraction leaves rounding errors. Up to 200
    differences all signs, ties included; beyond, the normal limit with continuity and tie correction. 1 when all
    differences are 0.
    """
    kept = np.abs(differences) > tolerance
    sizes = np.where(kept, np.abs(differences), 0.0)
    ranks, positive = doubled_ranks(_merge_ties(sizes, tolerance))[kept], differences[kept] > 0
    total = int(ranks.sum())
    distance = abs(2 * int(ranks[positive].sum()) - total)
    if len(differences) > EXACT_SIGNED:
        # Half of the distance is that of the positive ranks' sum from its mean, total / 2.
        return _normal_p(distance / 2, float((ranks**2).sum()) / 4)
    # ways[s]: the share of signs whose positive doubled ranks add up to s.
    ways = np.zeros(total + 1)
    ways[0] = 1
    for rank in ranks.tolist():
        ways *= 0.5
        ways[rank:] += ways[:-rank]
    return _share(ways, np.abs(2 * np.arange(total + 1) - total) >= distance)


def sign_flip_test(differences: Floats, tolerance: float, *, seed: int) -> float:
    """Return p of a mean of 0 when each difference could as well have had the other sign.

    Up to 16 differences all signs, beyond 9999 random ones and those observed (so p >= 0.0001). Each difference is
    known within `tolerance`.
    """
    # Flips of the absolute values: the same test, and then neither order nor direction changes the random ones.
    sizes = np.sort(np.abs(differences))
    extreme = abs(float(differences.sum())) - tolerance * len(sizes)
    if len(sizes) <= EXACT_FLIPS:
        signs = 2.0 * (np.arange(2 ** len(sizes))[:, None] >> np.arange(len(sizes)) & 1) - 1
        return float((np.abs(signs @ sizes) >= extreme).mean())
    flips = np.random.default_rng(seed).integers(2, size=(RANDOM_ARRANGEMENTS, len(sizes)))
    return _random_p((2.0 * flips - 1) @ sizes, extreme)


def _merge_ties(sizes: Floats, tolerance: float) -> NDArray[np.intp]:
    """Return numbers in the order of `sizes`, the same for sizes that lie within `tolerance` of the next one."""
    ordered = np.sort(sizes)
    return np.searchsorted(ordered[np.diff(ordered, prepend=-np.inf) > tolerance], sizes, side="right")


def _random_p(sums: NDArray[Any], extreme: float) -> float:
    """Return the share of random arrangements as extreme, the one observed counted with them."""
    return float((1 + (np.abs(sums) >= extreme).sum()) / (1 + len(sums)))


def _share(ways: NDArray[np.float64], extreme: NDArray[np.bool_]) -> float:
    return min(1.0, float(ways[extreme].sum() / ways.sum()))


def _t_test(rho: float, n: int) -> float:
    if abs(rho) >= 1:
        return 0.0
    return float(2 * stdtr(n - 2, -abs(rho) * math.sqrt((n - 2) / (1 - rho**2))))


def _normal_p(distance: float, variance: float) -> float:
    """Return p of a sum of doubled ranks at a distance from its mean, less half a rank (1 in doubled ranks)."""
    return float(erfc(max(distance - 1, 0) / math.sqrt(2 * variance))) if variance else 1.0
