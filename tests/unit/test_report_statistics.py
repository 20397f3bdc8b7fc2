"""The report's statistics against scipy, brute force and formulas written another way, and by their properties."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from itertools import combinations, permutations, product
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import optimize, stats

from siccs_net.errors import DataError, UsageError
from siccs_net.evaluation.bootstrap import bca_interval
from siccs_net.evaluation.statistics import (
    absolute_agreement,
    agreement,
    holm,
    mann_whitney,
    mean_estimate,
    paired_comparison,
    spearman,
)

# Whole numbers tie often, fractions of them seldom.
FEW = st.integers(-4, 4).map(float)
MANY = st.floats(-1e6, 1e6, allow_subnormal=False, width=32)
VALUES = st.one_of(FEW, MANY)


def pairs(size: int, most: int = 12) -> st.SearchStrategy[list[tuple[float, float]]]:
    return st.lists(st.tuples(VALUES, VALUES), min_size=size, max_size=most)


def columns(of_pairs: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [one for one, _ in of_pairs], [other for _, other in of_pairs]


def normal_pairs(n: int, correlation: float, seed: int) -> tuple[list[float], list[float]]:
    drawn = np.random.default_rng(seed).multivariate_normal([0, 0], [[1, correlation], [correlation, 1]], n)
    return drawn[:, 0].tolist(), drawn[:, 1].tolist()


def coverage(intervals: Sequence[tuple[float | None, float | None]], truth: float) -> float:
    return float(np.mean([low <= truth <= high for low, high in intervals if low is not None and high is not None]))


# Mean


@given(st.lists(VALUES, min_size=2, max_size=30))
def test_mean_as_scipy(values: list[float]) -> None:
    found, scale = mean_estimate(values), max(1e-30, *map(abs, values))
    assert found.mean == pytest.approx(np.mean(values), rel=1e-9, abs=1e-12 * scale)
    assert found.standard_error == pytest.approx(float(stats.sem(values)), rel=1e-9, abs=1e-12 * scale)
    if len(set(values)) > 1:
        expected = stats.t.interval(0.95, len(values) - 1, np.mean(values), stats.sem(values))
        assert (found.low, found.high) == pytest.approx(expected, rel=1e-9, abs=1e-9 * scale)
    assert found.mean is not None
    assert found.low is not None
    assert found.high is not None
    assert found.low <= found.mean <= found.high
    assert mean_estimate([None, *reversed(values)]) == found


def test_mean_of_equal_values_has_no_error() -> None:
    found = mean_estimate([0.1] * 7)
    assert (found.n, found.mean, found.standard_error, found.low, found.high) == (7, 0.1, 0, 0.1, 0.1)


def test_mean_of_too_few() -> None:
    one, none = mean_estimate([None, 3]), mean_estimate([None])
    assert (one.n, one.mean, one.standard_error, one.low, one.high) == (1, 3, None, None, None)
    assert (none.n, none.mean, none.standard_error, none.low) == (0, None, None, None)


# Spearman


@given(pairs(3), st.integers(0, 3))
def test_rho_as_scipy(of_pairs: list[tuple[float, float]], seed: int) -> None:
    x, y = columns(of_pairs)
    found = spearman(x, y, seed=seed, resamples=99)
    if len(set(x)) == 1 or len(set(y)) == 1:
        assert (found.rho, found.low, found.high, found.p, found.p_method) == (None,) * 5
        return
    assert found.rho == pytest.approx(float(stats.spearmanr(x, y).statistic), abs=1e-12)
    assert found.rho is not None
    assert found.p is not None
    assert -1 <= found.rho <= 1
    assert 0 < found.p <= 1
    if found.low is not None and found.high is not None:
        assert -1 <= found.low <= found.high <= 1


@given(pairs(3), st.randoms())
def test_spearman_knows_order_alone(of_pairs: list[tuple[float, float]], random: Any) -> None:
    """Increasing maps change nothing, a decreasing one the sign, the order of the cases nothing."""
    x, y = columns(of_pairs)
    found = spearman(x, y, resamples=99)
    ranks = stats.rankdata(x, "dense")
    assert spearman((ranks**3 - 5).tolist(), y, resamples=99) == found
    mirrored = spearman([-one for one in x], y, resamples=99)
    assert mirrored.rho == (None if found.rho is None else -found.rho)
    shuffled = list(of_pairs)
    random.shuffle(shuffled)
    assert spearman(*columns(shuffled), resamples=99) == found


@given(pairs(3, most=6))
def test_exact_p_by_brute_force(of_pairs: list[tuple[float, float]]) -> None:
    x, y = columns(of_pairs)
    found = spearman(x, y, resamples=9)
    if found.rho is None:
        return
    rho = abs(float(stats.spearmanr(x, y).statistic))
    a, b = stats.rankdata(x), stats.rankdata(y)
    others = [abs(np.corrcoef(a, b[list(order)])[0, 1]) for order in permutations(range(len(x)))]
    assert (found.p, found.p_method) == (pytest.approx(np.mean(np.array(others) >= rho - 1e-9)), "exact")


def test_exact_p_as_scipy() -> None:
    x, y = normal_pairs(7, 0.5, 3)
    expected = stats.permutation_test(
        (x,), lambda one: stats.spearmanr(one, y).statistic, permutation_type="pairings", n_resamples=np.inf
    )
    assert spearman(x, y).p == pytest.approx(expected.pvalue, rel=1e-12)


@pytest.mark.parametrize("n", [30, 40, 100])
def test_t_as_scipy(n: int) -> None:
    x, y = normal_pairs(n, 0.4, n)
    x[1], y[3] = x[0], y[4]
    expected, found = stats.spearmanr(x, y), spearman(x, y)
    assert (found.n, found.p_method) == (n, "t")
    assert (found.rho, found.p) == pytest.approx((expected.statistic, expected.pvalue), rel=1e-9)


def test_random_permutations() -> None:
    """The smallest p is that of the pairing observed, alone among 10000; a weak rho has nearly Student's p."""
    rising = spearman(range(29), range(29))
    assert (rising.p, rising.p_method) == (1 / 10000, "permutation")
    x, y = normal_pairs(29, 0.3, 8)
    expected = float(stats.spearmanr(x, y).pvalue)
    assert 0.02 < expected < 0.5
    assert spearman(x, y).p == pytest.approx(expected, abs=0.02)


def test_perfect_order_has_no_bootstrap_interval() -> None:
    for n in (3, 20, 40):
        found = spearman(range(n), [-value for value in range(n)])
        assert (found.rho, found.low, found.high) == (-1, None, None)
    assert found.p == 0


def test_spearman_of_a_column_that_most_resamples_make_constant() -> None:
    """One case differs: a third of the resamples lack it, and so does one of the jackknife."""
    x = [0] * 15 + [1] + [0] * 4
    found = spearman(x, range(20))
    assert found.rho == pytest.approx(float(stats.spearmanr(x, range(20)).statistic))
    assert found.low is not None
    assert found.high is not None
    assert -0.5 < found.low < found.rho < found.high < 0.5


def test_spearman_leaves_out_what_is_not_known() -> None:
    x: list[float | None] = [1, None, 3, 4, 2, 6]
    y: list[float | None] = [2, 5, None, 4, 1, 9]
    found, known = spearman(x, y), spearman([1, 4, 2, 6], [2, 4, 1, 9])
    assert (found.n, found.missing, known.missing) == (4, 2, 0)
    assert found.model_copy(update={"missing": 0}) == known
    few = spearman([1, None, 3], [3, 4, 5])
    assert (few.n, few.missing, few.rho, few.p) == (2, 1, None, None)


def test_spearman_is_fast() -> None:
    x, y = normal_pairs(40, 0.5, 0)
    spearman(x, y)
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        spearman(x, y)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.3


# BCa


def skewed(n: int, seed: int) -> list[float]:
    return (np.random.default_rng(seed).exponential(size=n) ** 2).tolist()


def rank_rows(x: NDArray[Any], y: NDArray[Any], axis: int = -1) -> NDArray[Any]:
    """Spearman's rho along an axis, by Pearson's formula on ranks."""
    ranks = [stats.rankdata(values, axis=axis) for values in (x, y)]
    one, other = (values - values.mean(axis=axis, keepdims=True) for values in ranks)
    return np.asarray((one * other).sum(axis) / np.sqrt((one**2).sum(axis) * (other**2).sum(axis)))


def rank_biserial(first: NDArray[Any], second: NDArray[Any], axis: int = -1) -> NDArray[Any]:
    """The effect along an axis, by the sum of the pooled ranks."""
    n, m = first.shape[axis], second.shape[axis]
    ranks = stats.rankdata(np.concatenate([first, second], axis=axis), axis=axis)
    total = np.take(ranks, range(n), axis=axis).sum(axis)
    return np.asarray(2 * (total - n * (n + 1) / 2) / (n * m) - 1)


def difference_of_means(first: NDArray[Any], second: NDArray[Any], axis: int = -1) -> NDArray[Any]:
    return np.asarray(first.mean(axis) - second.mean(axis))


def scipy_interval(
    data: Any, statistic: Callable[..., Any], method: str = "BCa", *, paired: bool = False, resamples: int = 19999
) -> tuple[float, float]:
    found = stats.bootstrap(
        data, statistic, n_resamples=resamples, method=method, paired=paired, rng=np.random.default_rng(9)
    )
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


def test_bca_of_a_skewed_mean_as_scipy() -> None:
    """Within Monte-Carlo error, which is less than half of what tells BCa from the percentile interval."""
    values = np.array(skewed(25, 1))
    expected = np.array(scipy_interval((values,), np.mean, resamples=49999))
    percentile = np.array(scipy_interval((values,), np.mean, "percentile"))
    found = bca_interval(lambda weights: weights @ values / weights.sum(axis=1), [25], seed=0, resamples=49999)
    tolerance = 0.02 * np.ptp(expected)
    assert np.abs(percentile - expected).min() > 2 * tolerance
    assert found == pytest.approx(expected, abs=tolerance)


def test_bca_of_rho_as_scipy() -> None:
    x, y = normal_pairs(25, 0.85, 4)
    y[3], x[7] = y[5], x[9]
    expected = scipy_interval((x, y), rank_rows, paired=True)
    found = spearman(x, y, resamples=19999)
    assert (found.low, found.high) == pytest.approx(expected, abs=0.03 * (expected[1] - expected[0]))


def test_bca_of_two_groups_as_scipy() -> None:
    """Groups of very different sizes, whose cases weigh differently in the acceleration."""
    first, second = np.array([0, 2.0]), np.array(skewed(30, 1))
    expected = np.array(scipy_interval((first, second), difference_of_means, resamples=49999))
    percentile = np.array(scipy_interval((first, second), difference_of_means, "percentile"))
    found = bca_interval(
        lambda *weights: weights[0] @ first / weights[0].sum(axis=1) - weights[1] @ second / weights[1].sum(axis=1),
        [2, 30],
        seed=0,
        resamples=49999,
    )
    tolerance = 0.04 * np.ptp(expected)
    assert np.abs(percentile - expected).max() > 3 * tolerance
    assert found == pytest.approx(expected, abs=tolerance)


def test_bca_of_the_effect_as_scipy() -> None:
    first, second = normal_pairs(9, 0, 2)[0], [value + 0.6 for value in normal_pairs(24, 0, 3)[0]]
    expected = scipy_interval((first, second), rank_biserial)
    found = mann_whitney(first, second)
    assert found.effect == pytest.approx(float(rank_biserial(np.array(first), np.array(second))))
    assert (found.effect_low, found.effect_high) == pytest.approx(expected, abs=0.05 * (expected[1] - expected[0]))


@pytest.mark.parametrize(("n", "ones"), [(10, 4), (40, 8)])
def test_bca_of_many_ties(n: int, ones: int) -> None:
    """Of ones and zeros the number of ones drawn is binomial: the ends without a bootstrap, ties counted half."""
    drawn, values = stats.binom(n, ones / n), np.repeat([1, 0], [ones, n - ones])
    influence = values - values.mean()
    acceleration = (influence**3).sum() / 6 / (influence**2).sum() ** 1.5
    bias = stats.norm.ppf(drawn.cdf(ones - 1) + drawn.pmf(ones) / 2)
    z = bias + stats.norm.ppf([0.025, 0.975])
    expected = drawn.ppf(stats.norm.cdf(bias + z / (1 - acceleration * z))) / n
    found = paired_comparison(values.tolist(), [0] * n)
    assert (found.low, found.high) == pytest.approx(expected, abs=1e-12)


def test_bca_says_nothing_of_a_statistic_that_lies_outside_of_its_resamples() -> None:
    def number_of_cases(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray((weights > 0).sum(axis=1), np.float64)

    assert bca_interval(number_of_cases, [30], seed=0) is None
    with pytest.raises(UsageError, match="a bootstrap needs resamples; found 0"):
        spearman([1, 2, 3], [2, 1, 3], resamples=0)


def test_rho_interval_covers() -> None:
    truth = 6 / math.pi * math.asin(0.6 / 2)
    found = [spearman(*normal_pairs(40, 0.6, seed), seed=seed, resamples=499) for seed in range(300)]
    assert 0.91 <= coverage([(one.low, one.high) for one in found], truth) <= 0.98


def test_effect_interval_covers() -> None:
    """Normal groups, a standard deviation apart: the effect is 2 Phi(1 / sqrt 2) - 1."""
    truth = 2 * float(stats.norm.cdf(math.sqrt(0.5))) - 1
    found = []
    for seed in range(100):
        rng = np.random.default_rng(seed)
        found.append(mann_whitney((rng.normal(size=20) + 1).tolist(), rng.normal(size=20).tolist(), seed=seed))
    assert 0.88 <= coverage([(one.effect_low, one.effect_high) for one in found], truth) <= 0.99


# Agreement


def analysis_of_variance(ratings: NDArray[Any]) -> tuple[float, float, float]:
    """Mean squares of targets, raters and error: what least squares leaves without and with their indicators."""
    n, k = ratings.shape
    target, rater = (np.eye(size)[index.ravel()] for size, index in zip((n, k), np.indices((n, k)), strict=True))

    def left(*terms: NDArray[Any]) -> float:
        design = np.hstack([np.ones((n * k, 1)), *terms])
        solution = np.linalg.lstsq(design, ratings.ravel(), rcond=None)[0]
        return float(((ratings.ravel() - design @ solution) ** 2).sum())

    error = left(target, rater)
    return (left(rater) - error) / (n - 1), (left(target) - error) / (k - 1), error / ((n - 1) * (k - 1))


def icc_by_variance_components(ratings: NDArray[Any]) -> tuple[float, float, float]:
    """ICC(2,1) from estimated variances, and its limits as the roots of McGraw and Wong's F equations."""
    n, k = ratings.shape
    targets, raters, error = analysis_of_variance(ratings)
    of_targets, of_raters = (targets - error) / k, (raters - error) / n
    icc = of_targets / (of_targets + of_raters + error)

    def parts(rho: float) -> tuple[float, float]:
        odds = k * rho / (n * (1 - rho))
        return odds * raters, (1 + odds * (n - 1)) * error

    first, second = parts(icc)
    freedom = (first + second) ** 2 / (first**2 / (k - 1) + second**2 / ((n - 1) * (k - 1)))

    def root(quantile: float) -> float:
        return float(optimize.brentq(lambda rho: targets - quantile * sum(parts(rho)), -0.9, 1 - 1e-9, xtol=1e-13))

    return icc, root(stats.f.ppf(0.975, n - 1, freedom)), root(1 / stats.f.ppf(0.975, freedom, n - 1))


@pytest.mark.parametrize(("n", "k", "spread", "seed"), [(40, 2, 3, 0), (12, 2, 1, 1), (8, 5, 2, 2), (25, 3, 0.7, 3)])
def test_icc_by_variance_components(n: int, k: int, spread: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    ratings = 50 + spread * rng.normal(size=(n, 1)) + 0.5 * rng.normal(size=k) + rng.normal(size=(n, k))
    expected = icc_by_variance_components(ratings)
    assert absolute_agreement(ratings) == pytest.approx(expected, abs=1e-8)
    if k == 2:
        found = agreement(*ratings.T.tolist())
        assert (found.icc, found.icc_low, found.icc_high) == pytest.approx(expected, abs=1e-8)


def test_limits_of_agreement() -> None:
    x, y = normal_pairs(30, 0.9, 6)
    found, differences = agreement([None, *x], [1, *y]), np.subtract(x, y)
    bias, sd = differences.mean(), differences.std(ddof=1)
    assert found.n == 30
    assert (found.bias, found.lower_limit, found.upper_limit) == pytest.approx(
        (bias, bias - 1.96 * sd, bias + 1.96 * sd)
    )
    expected = stats.ttest_rel(x, y).confidence_interval()
    assert (found.bias_low, found.bias_high) == pytest.approx((expected.low, expected.high))


@given(pairs(2))
def test_agreement_turns_round(of_pairs: list[tuple[float, float]]) -> None:
    x, y = columns(of_pairs)
    found, turned, itself = agreement(x, y), agreement(y, x), agreement(x, x)
    scale = max(1e-30, *map(abs, x + y))
    assert found.bias == pytest.approx(-(turned.bias or 0), abs=1e-12 * scale)
    assert found.lower_limit == pytest.approx(-(turned.upper_limit or 0), abs=1e-9 * scale)
    assert found.icc == (None if turned.icc is None else pytest.approx(turned.icc, abs=1e-6))
    assert (itself.icc, itself.icc_low, itself.icc_high) == ((1, 1, 1) if len(set(x)) > 1 else (None, None, None))


def test_agreement_undefined() -> None:
    one, constant = agreement([3, None], [1, 2]), agreement([0.3] * 4, [0.1] * 4)
    assert (one.n, one.bias, one.bias_low, one.lower_limit, one.icc) == (1, 2, None, None, None)
    assert (constant.lower_limit, constant.icc, constant.icc_low) == (constant.bias, None, None)
    assert agreement([], []).bias is None
    crossed = agreement([0, 1], [1, 0])
    assert (crossed.icc, crossed.bias) == (None, 0)
    assert absolute_agreement(np.ones((5, 1))) == (None, None, None)


# Mann and Whitney


@given(st.lists(VALUES, min_size=1, max_size=6), st.lists(VALUES, min_size=1, max_size=5))
def test_u_by_brute_force(first: list[float], second: list[float]) -> None:
    """Of all ways to take the first group from the pooled values, ties included."""
    n, m, pooled = len(first), len(second), first + second

    def doubled_u(chosen: Sequence[int]) -> int:
        others = [place for place in range(n + m) if place not in chosen]
        return sum(int(np.sign(pooled[one] - pooled[two])) + 1 for one, two in product(chosen, others))

    ways = np.array([doubled_u(chosen) for chosen in combinations(range(n + m), n)])
    observed = doubled_u(range(n))
    found, turned = mann_whitney(first, second), mann_whitney(second, first)
    assert (found.u, found.p_method) == (observed / 2, "exact")
    assert found.p == pytest.approx((np.abs(ways - n * m) >= abs(observed - n * m)).mean(), rel=1e-9)
    assert found.effect == pytest.approx(observed / (n * m) - 1, abs=1e-12)
    assert turned.effect == pytest.approx(-(found.effect or 0), abs=1e-15)
    assert (turned.p, turned.median_first) == (pytest.approx(found.p, rel=1e-9), found.median_second)


@pytest.mark.parametrize(("n", "m"), [(5, 8), (15, 25), (39, 1)])
def test_exact_mann_whitney_as_scipy(n: int, m: int) -> None:
    rng = np.random.default_rng(n)
    first, second = (rng.normal(size=n) + 0.5).tolist(), rng.normal(size=m).tolist()
    expected, found = stats.mannwhitneyu(first, second, method="exact"), mann_whitney([*first, None], second)
    assert (found.u, found.n_first, found.n_second, found.p_method) == (expected.statistic, n, m, "exact")
    assert found.p == pytest.approx(expected.pvalue, rel=1e-9)
    assert (found.median_first, found.median_second) == (np.median(first), np.median(second))


def test_normal_mann_whitney_as_scipy() -> None:
    rng = np.random.default_rng(5)
    first, second = rng.integers(9, size=60).tolist(), rng.integers(1, 10, size=50).tolist()
    expected, found = stats.mannwhitneyu(first, second, method="asymptotic"), mann_whitney(first, second)
    assert (found.u, found.p, found.p_method) == (expected.statistic, pytest.approx(expected.pvalue), "normal")


def test_groups_of_one_value_or_none() -> None:
    same, empty = mann_whitney([1] * 70, [1] * 60), mann_whitney([2, 4], [None])
    assert (same.p, same.effect, same.effect_low) == (1, 0, None)
    assert (empty.n_second, empty.median_first, empty.median_second) == (0, 3, None)
    assert (empty.u, empty.p, empty.p_method, empty.effect, empty.effect_low) == (None,) * 5
    apart = mann_whitney([1, 2, 3], [4, 5, 6])
    assert (apart.effect, apart.p, apart.effect_low, apart.effect_high) == (-1, pytest.approx(0.1), None, None)


# Pairs


@given(st.lists(FEW, min_size=1, max_size=9))
def test_flips_by_brute_force(differences: list[float]) -> None:
    """Both tests over all signs; Pratt's ranks counted with the zeros."""
    d = np.array(differences)
    ranks = np.where(d == 0, 0, stats.rankdata(np.abs(d)))
    signs = np.array(list(product([-1, 1], repeat=len(d))))
    found = paired_comparison(differences, [0] * len(d))
    assert found.permutation_p == pytest.approx((np.abs(signs @ np.abs(d)) >= abs(d.sum())).mean())
    assert found.wilcoxon_p == pytest.approx((np.abs(signs @ ranks) >= abs((np.sign(d) * ranks).sum())).mean())
    turned = paired_comparison([0] * len(d), differences)
    assert (turned.wilcoxon_p, turned.permutation_p) == (found.wilcoxon_p, found.permutation_p)
    assert turned.median_difference == -(found.median_difference or 0)


@pytest.mark.parametrize("n", [6, 15, 40])
def test_wilcoxon_as_scipy(n: int) -> None:
    x, y = normal_pairs(n, 0.5, n)
    x = [value + 0.2 for value in x]
    found = paired_comparison([*x, None], [*y, 3])
    assert (found.n, found.mean_difference) == (n, pytest.approx(np.mean(np.subtract(x, y))))
    assert found.wilcoxon_p == pytest.approx(stats.wilcoxon(x, y, method="exact").pvalue, rel=1e-9)


def test_normal_wilcoxon_as_scipy() -> None:
    """230 differences with ties and zeros."""
    differences = np.random.default_rng(2).integers(-5, 7, size=230).tolist()
    assert 0 in differences
    expected = stats.wilcoxon(differences, zero_method="pratt", method="asymptotic", correction=True).pvalue
    assert 1e-6 < expected < 0.9
    assert paired_comparison(differences, [0] * 230).wilcoxon_p == pytest.approx(expected, rel=1e-9)


def test_rounding_does_not_break_ties() -> None:
    """Tenths, whose differences are not exact: the same tests as of whole numbers."""
    first, second = [3, 9, 4, 7, 1, 8, 5, 5], [1, 7, 6, 3, 2, 3, 5, 1]
    tenths = paired_comparison([value / 10 for value in first], [value / 10 for value in second])
    assert len({round(abs(one - other), 12) for one, other in zip(first, second, strict=True)}) < len(
        {abs(one / 10 - other / 10) for one, other in zip(first, second, strict=True)}
    )
    whole = paired_comparison(first, second)
    assert (tenths.wilcoxon_p, tenths.permutation_p) == (whole.wilcoxon_p, whole.permutation_p)


def test_random_flips() -> None:
    """About scipy's t test for normal differences, and 1 in 10000 when all have one sign."""
    x, y = normal_pairs(40, 0.5, 11)
    x = [value + 0.25 for value in x]
    expected = float(stats.ttest_rel(x, y).pvalue)
    assert 0.01 < expected < 0.6
    assert paired_comparison(x, y).permutation_p == pytest.approx(expected, abs=0.02)
    assert paired_comparison(range(1, 31), [0] * 30).permutation_p == 1 / 10000


def test_mean_difference_interval_as_scipy() -> None:
    first, second = skewed(25, 1), [0.0] * 25
    expected = scipy_interval((first,), np.mean)
    found = paired_comparison(first, second)
    assert (found.low, found.high) == pytest.approx(expected, abs=0.05 * (expected[1] - expected[0]))


def test_no_difference() -> None:
    for n in (1, 5, 40, 300):
        found = paired_comparison([0.3] * n, [0.3] * n)
        assert (found.n, found.mean_difference, found.wilcoxon_p, found.permutation_p) == (n, 0, 1, 1)
        assert (found.low, found.high) == (None, None)
    none = paired_comparison([None, 1], [2, None])
    assert (none.n, none.mean_difference, none.median_difference, none.wilcoxon_p, none.permutation_p) == (
        0,
        *(None,) * 4,
    )


# Holm


@given(st.lists(st.one_of(st.none(), st.floats(0, 1)), max_size=12), st.randoms())
def test_holm_by_its_definition(p_values: list[float | None], random: Any) -> None:
    """Adjusted p is the largest of (m - rank) p over all p values up to it."""
    known = sorted(p for p in p_values if p is not None)
    adjusted = holm(p_values)
    for p, found in zip(p_values, adjusted, strict=True):
        steps = [(len(known) - rank) * other for rank, other in enumerate(known) if p is not None and other <= p]
        assert found == (None if p is None else pytest.approx(min(1, max(steps))))
        assert p is None or (found is not None and p <= found <= 1)
    order = list(range(len(p_values)))
    random.shuffle(order)
    assert holm([p_values[place] for place in order]) == [adjusted[place] for place in order]


def test_holm_refuses_what_is_no_p() -> None:
    with pytest.raises(DataError, match=r"a p value is out of range; found 1\.5 at position 1; expected 0 to 1"):
        holm([0.5, 1.5])


# All


@pytest.mark.parametrize("function", [spearman, agreement, mann_whitney, paired_comparison])
def test_refuses_what_is_not_finite(function: Callable[..., Any]) -> None:
    for value in (math.nan, math.inf, -math.inf):
        with pytest.raises(DataError, match=f"is not finite; found {value} at position 2"):
            function([1, None, 2], [None, 4, value])
        with pytest.raises(DataError, match=f"is not finite; found {value} at position 0"):
            function([value, 3, 2], [1, 4, 2])
    for alone in (mean_estimate, holm):
        with pytest.raises(DataError, match="is not finite; found nan at position 1"):
            alone([0.5, math.nan])


@pytest.mark.parametrize("function", [spearman, agreement, paired_comparison])
def test_refuses_two_lengths(function: Callable[..., Any]) -> None:
    with pytest.raises(UsageError, match="of the same cases; found 2 and 3 values; expected two of the same length"):
        function([1, 2], [1, 2, 3])


@pytest.mark.parametrize("function", [spearman, mann_whitney, paired_comparison])
def test_the_seed_decides(function: Callable[..., Any]) -> None:
    x, y = normal_pairs(25, 0.5, 2)
    assert function(x, y, seed=5) == function(x, y, seed=5)
    assert function(x[::-1], y[::-1], seed=5) == function(x, y, seed=5)
    assert function(x, y, seed=5) != function(x, y, seed=6)
