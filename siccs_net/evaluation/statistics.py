"""Statistics of the report: means, correlations, agreement, comparisons of groups and pairs, each with its interval.

A value of None is not known and is left out (of pairs, the whole pair). Values are sorted first, so that a result
depends on the values and the seed, never on the order of the cases. Intervals are 95 %.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.special import fdtri, stdtrit

from siccs_net.errors import DataError, UsageError
from siccs_net.evaluation.bootstrap import RESAMPLES, Floats, bca_interval, ratio
from siccs_net.evaluation.permutation_tests import (
    dense_ranks,
    rank_correlation_test,
    rank_sum_test,
    sign_flip_test,
    signed_rank_test,
)
from siccs_net.records.report import Agreement, Correlation, GroupComparison, MeanEstimate, PairedComparison

Values: TypeAlias = Sequence[float | None]

_UPPER = 0.975
_LIMITS_OF_AGREEMENT = 1.96
# The error of a difference as a part of the largest value: rounding must not break a tie.
_ROUNDING = 1e-12


def mean_estimate(values: Values) -> MeanEstimate:
    """Return the mean, its standard error and its interval by Student's t.

    The last two are None for fewer than two values, the mean for none. Raises DataError for a value that is not
    finite.
    """
    known = _known(values, "values")
    n = len(known)
    if not n:
        return MeanEstimate(n=0, mean=None, standard_error=None, low=None, high=None)
    # Taken from the first value, so that equal values have exactly their mean and no spread.
    shifted = known - known[0]
    mean = float(known[0] + shifted.mean())
    if n < 2:
        return MeanEstimate(n=1, mean=mean, standard_error=None, low=None, high=None)
    error = float(shifted.std(ddof=1)) / math.sqrt(n)
    half = float(stdtrit(n - 1, _UPPER)) * error
    return MeanEstimate(n=n, mean=mean, standard_error=error, low=mean - half, high=mean + half)


def spearman(x: Values, y: Values, *, seed: int = 0, resamples: int = RESAMPLES) -> Correlation:
    """Return Spearman's rho (the correlation of average ranks), its BCa bootstrap interval over cases, and p.

    p is that of |rho|: of all pairings up to 8 pairs, of 9999 random ones up to 29, by Student's t from 30. Resamples
    in which one of the two is constant have no rho and are left out of the interval. The interval is None where no
    resample differs from rho, as when rho is -1 or 1: the bootstrap then knows nothing of its error. All is None for
    fewer than 3 pairs or a constant. Raises DataError for a value that is not finite, UsageError for x and y of two
    lengths.
    """
    pairs = _known_pairs(x, y, ("x", "y"))
    n, missing = len(pairs), len(x) - len(pairs)
    if n < 3 or (pairs == pairs[0]).all(axis=0).any():
        return Correlation(n=n, missing=missing, rho=None, low=None, high=None, p=None, p_method=None)
    orders = [_order_signs(column, column) for column in pairs.T]

    def rho(weights: Floats) -> Floats:
        # A case's losses less its wins against the cases drawn are twice its average rank, from the middle down.
        first, second = (weights @ order for order in orders)
        spread = (weights * first**2).sum(axis=1) * (weights * second**2).sum(axis=1)
        return np.clip(ratio((weights * first * second).sum(axis=1), np.sqrt(spread)), -1, 1)

    low, high = bca_interval(rho, [n], seed=seed, resamples=resamples) or (None, None)
    p, method = rank_correlation_test(pairs[:, 0], pairs[:, 1], seed=seed)
    return Correlation(
        n=n, missing=missing, rho=float(rho(np.ones((1, n)))[0]), low=low, high=high, p=p, p_method=method
    )


def agreement(predicted: Values, reference: Values) -> Agreement:
    """Return Bland and Altman's bias (predicted minus reference) and limits of agreement, and ICC(2,1).

    The bias has its interval by Student's t, the limits are the bias -+ 1.96 standard deviations of the differences.
    Intervals, limits and ICC are None for fewer than two pairs, the ICC also when neither side varies. Raises
    DataError for a value that is not finite, UsageError for two lengths.
    Bland & Altman, Lancet 1986, i:307-310.
    """
    pairs = _known_pairs(predicted, reference, ("predicted", "reference"))
    bias = mean_estimate((pairs[:, 0] - pairs[:, 1]).tolist())
    lower = upper = None
    if bias.mean is not None and bias.standard_error is not None:
        half = _LIMITS_OF_AGREEMENT * bias.standard_error * math.sqrt(bias.n)
        lower, upper = bias.mean - half, bias.mean + half
    icc, icc_low, icc_high = absolute_agreement(pairs)
    return Agreement(
        n=bias.n,
        bias=bias.mean,
        bias_low=bias.low,
        bias_high=bias.high,
        lower_limit=lower,
        upper_limit=upper,
        icc=icc,
        icc_low=icc_low,
        icc_high=icc_high,
    )


def absolute_agreement(ratings: NDArray[np.float64]) -> tuple[float | None, float | None, float | None]:
    """Return ICC(2,1) of ratings [targets, raters] and its interval: two-way random, absolute agreement, single.

    None for fewer than two targets or raters, and when no rater tells the targets apart or the ICC is 0/0; the
    interval alone is None when all targets have one mean.
    Shrout & Fleiss, Psychological Bulletin 1979, 86:420-428; the interval is McGraw & Wong's, Psychological Methods
    1996, 1:30-46, table 7.
    """
    n, k = ratings.shape
    if n < 2 or k < 2:
        return None, None, None
    between, raters, error = _mean_squares(ratings)
    whole = between + (k - 1) * error + k * (raters - error) / n
    if between + error == 0 or whole <= 0:
        return None, None, None
    low, high = _icc_interval(between, raters, error, n, k) if between else (None, None)
    return (between - error) / whole, low, high


def mann_whitney(first: Values, second: Values, *, seed: int = 0) -> GroupComparison:
    """Return Mann and Whitney's U of the first group, p, and the rank-biserial effect 2 U / (n1 n2) - 1.

    p is exact, ties included, up to 100 values together, and beyond normal with continuity and tie correction. The
    interval of the effect is BCa over 9999 resamples of each group by itself; None where no resample differs from the
    effect, as when it is -1 or 1. U, p and effect are None when a group is empty. Raises DataError for a value that
    is not finite.
    """
    groups = [_known(first, "first"), _known(second, "second")]
    n_first, n_second = map(len, groups)
    medians = [float(np.median(group)) if len(group) else None for group in groups]
    u = p = method = effect = low = high = None
    if n_first and n_second:
        wins = _order_signs(*groups)

        def rank_biserial(firsts: Floats, seconds: Floats) -> Floats:
            return ratio(((firsts @ wins) * seconds).sum(axis=1), firsts.sum(axis=1) * seconds.sum(axis=1))

        effect, u = float(wins.mean()), float(wins.sum() + n_first * n_second) / 2
        p, method = rank_sum_test(*groups)
        low, high = bca_interval(rank_biserial, [n_first, n_second], seed=seed) or (None, None)
    return GroupComparison(
        n_first=n_first,
        n_second=n_second,
        median_first=medians[0],
        median_second=medians[1],
        u=u,
        p=p,
        p_method=method,
        effect=effect,
        effect_low=low,
        effect_high=high,
    )


def paired_comparison(first: Values, second: Values, *, seed: int = 0) -> PairedComparison:
    """Return the mean of first minus second with its BCa interval, the median, and two tests of no difference.

    Wilcoxon's signed-rank test ranks zeros and then leaves them out (Pratt) and is exact up to 200 pairs; the test of
    the mean flips signs, all ways up to 16 pairs, else 9999 random ones. Both are 1 when all differences are 0. The
    interval is None when all differences are the same. All is None without a pair. Raises DataError for a value that
    is not finite, UsageError for two lengths.
    """
    pairs = _known_pairs(first, second, ("first", "second"))
    n = len(pairs)
    if not n:
        return PairedComparison(
            n=0,
            mean_difference=None,
            low=None,
            high=None,
            median_difference=None,
            wilcoxon_p=None,
            permutation_p=None,
        )
    differences = np.sort(pairs[:, 0] - pairs[:, 1])
    tolerance = _ROUNDING * float(np.abs(pairs).max())
    low, high = bca_interval(lambda weights: ratio(weights @ differences, weights.sum(axis=1)), [n], seed=seed) or (
        None,
        None,
    )
    return PairedComparison(
        n=n,
        mean_difference=mean_estimate(differences.tolist()).mean,
        low=low,
        high=high,
        median_difference=float(np.median(differences)),
        wilcoxon_p=signed_rank_test(differences, tolerance),
        permutation_p=sign_flip_test(differences, tolerance, seed=seed),
    )


def holm(p_values: Values) -> list[float | None]:
    """Return p values adjusted for their number by Holm's step-down method, in their order; None is not counted.

    Raises DataError for a p that is not within 0..1.
    Holm, Scandinavian Journal of Statistics 1979, 6:65-70.
    """
    _known(p_values, "p_values")
    known = sorted((p, position) for position, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, position) in enumerate(known):
        if not 0 <= p <= 1:
            raise DataError("a p value is out of range", found=f"{p} at position {position}", expected="0 to 1")
        largest = max(largest, min(1.0, (len(known) - rank) * p))
        adjusted[position] = largest
    return adjusted


def _known(values: Values, name: str) -> Floats:
    """Return the values that are not None, ascending. Raises DataError for one that is not finite."""
    for position, value in enumerate(values):
        if value is not None and not math.isfinite(value):
            raise DataError(
                f"{name} holds a value that is not finite",
                found=f"{value} at position {position} (the first is 0)",
                expected="finite numbers, and None for what is not known",
            )
    return np.array(sorted(value for value in values if value is not None), np.float64)


def _known_pairs(first: Values, second: Values, names: tuple[str, str]) -> Floats:
    """Return pairs [pairs, 2] of which both values are known, ascending by the first, then by the second."""
    if len(first) != len(second):
        raise UsageError(
            f"{names[0]} and {names[1]} must be of the same cases",
            found=f"{len(first)} and {len(second)} values",
            expected="two of the same length",
        )
    for values, name in zip((first, second), names, strict=True):
        _known(values, name)
    pairs = [(one, other) for one, other in zip(first, second, strict=True) if one is not None and other is not None]
    return np.array(sorted(pairs), np.float64).reshape(-1, 2)


def _order_signs(first: Floats, second: Floats) -> Floats:
    """Return [first, second]: 1 where the first value is the larger, -1 where the second is, 0 where they are equal."""
    ranks = dense_ranks(np.concatenate([first, second]))
    return np.sign(np.subtract.outer(ranks[: len(first)], ranks[len(first) :])).astype(np.float64)


def _mean_squares(ratings: Floats) -> tuple[float, float, float]:
    """Return the mean squares of targets, raters and error of ratings [targets, raters], one rating a cell."""
    n, k = ratings.shape
    # Without each rater's first rating: it bears on the raters' mean square alone, and equal ratings become exact 0.
    shifted = ratings - ratings[0]
    targets, by_rater = shifted.mean(axis=1), shifted.mean(axis=0)
    error = shifted - targets[:, None] - by_rater + by_rater.mean()
    raters = ratings[0] + by_rater
    return (
        k * float(((targets - by_rater.mean()) ** 2).sum()) / (n - 1),
        n * float(((raters - raters.mean()) ** 2).sum()) / (k - 1),
        float((error**2).sum()) / ((n - 1) * (k - 1)),
    )


def _icc_interval(
    between: float, raters: float, error: float, n: int, k: int
) -> tuple[float, float] | tuple[None, None]:
    """Return the interval of ICC(2,1) from the mean squares; Satterthwaite's degrees of freedom for the raters."""
    if raters + error == 0:
        return 1.0, 1.0
    # a and b of the table, written without 1 - ICC, so that a near perfect agreement does not divide by 0.
    a = (between - error) / (raters + (n - 1) * error)
    b = 1 + a * (n - 1)
    freedom = between**2 / ((a * raters) ** 2 / (k - 1) + (b * error) ** 2 / ((n - 1) * (k - 1)))
    below, above = float(fdtri(n - 1, freedom, _UPPER)), float(fdtri(freedom, n - 1, _UPPER))
    rest = k * raters + (k * n - k - n) * error
    low = n * (between - below * error) / (below * rest + n * between)
    high = n * (above * between - error) / (rest + n * above * between)
    return (low, high) if math.isfinite(low) and math.isfinite(high) else (None, None)
