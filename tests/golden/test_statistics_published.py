"""The report's statistics against worked examples in the literature, figure for figure as printed there."""

from __future__ import annotations

import numpy as np
import pytest

from siccs_net.evaluation.statistics import (
    absolute_agreement,
    agreement,
    holm,
    mann_whitney,
    mean_estimate,
    paired_comparison,
    spearman,
)


def test_bland_and_altman_1986() -> None:
    """Peak flow in l/min, first readings of a Wright and a mini Wright meter: bias -2.1 (-22.0 to 17.8), sd 38.8.

    The article prints the limits -79.7 and 75.5 with 2 standard deviations; these are with 1.96.
    """
    wright = [494, 395, 516, 434, 476, 557, 413, 442, 650, 433, 417, 656, 267, 478, 178, 423, 427]
    mini = [512, 430, 520, 428, 500, 600, 364, 380, 658, 445, 432, 626, 260, 477, 259, 350, 451]
    found = agreement(wright, mini)
    assert found.bias is not None
    assert found.lower_limit is not None
    assert found.upper_limit is not None
    assert found.bias == pytest.approx(-2.1, abs=0.05)
    assert (found.bias_low, found.bias_high) == pytest.approx((-22.0, 17.8), abs=0.06)
    sd = (found.upper_limit - found.lower_limit) / (2 * 1.96)
    assert (sd, found.bias - 2 * sd, found.bias + 2 * sd) == pytest.approx((38.8, -79.7, 75.5), abs=0.1)


def test_shrout_and_fleiss_1979() -> None:
    """Six targets, four judges: ICC(2,1) is 0.29; the interval 0.019 to 0.761 is what R's psych gives for them."""
    judges = [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]]
    assert absolute_agreement(np.array(judges, np.float64)) == pytest.approx((0.290, 0.019, 0.761), abs=0.0005)


def test_fisher_1935_on_darwins_maize() -> None:
    """Of all 32768 signs of the 15 differences, 863 reach the observed sum 314; two-sided twice as many."""
    eighths = [49, -67, 8, 16, 6, 23, 28, 41, 14, 29, 56, 24, 75, 60, -48]
    found = paired_comparison(eighths, [0] * 15)
    assert found.permutation_p == 1726 / 32768
    assert found.mean_difference == pytest.approx(314 / 15)
    crossed_inches = [188 / 8 + eighth / 8 for eighth in eighths]
    assert paired_comparison(crossed_inches, [188 / 8] * 15).permutation_p == 1726 / 32768


def test_hollander_and_wolfe_1973_depression() -> None:
    """Depression scores at two visits: V is 40 of 45, one-sided p 0.01953 (R's wilcox.test)."""
    before = [1.83, 0.50, 1.62, 2.48, 1.68, 1.88, 1.55, 3.06, 1.30]
    after = [0.878, 0.647, 0.598, 2.05, 1.06, 1.29, 1.06, 3.14, 1.29]
    assert paired_comparison(before, after).wilcoxon_p == pytest.approx(2 * 0.01953, abs=1e-5)


def test_hollander_and_wolfe_1973_permeability() -> None:
    """Permeability of the chorioamnion at term and earlier: U is 35, one-sided p 0.1272 (R's wilcox.test)."""
    term = [0.80, 0.83, 1.89, 1.04, 1.45, 1.38, 1.91, 1.64, 0.73, 1.46]
    earlier = [1.15, 0.88, 0.90, 0.74, 1.21]
    found = mann_whitney(term, earlier)
    assert (found.u, found.p_method, found.effect) == (35, "exact", pytest.approx(2 * 35 / 50 - 1))
    assert found.p == pytest.approx(2 * 0.1272, abs=1e-4)


def test_hollander_and_wolfe_1973_tuna() -> None:
    """Colour and quality of canned tuna: rho 0.6, exact p 0.0968 (R's cor.test), here by random permutations."""
    lightness = [44.4, 45.9, 41.9, 53.3, 44.7, 44.1, 50.7, 45.2, 60.1]
    quality = [2.6, 3.1, 2.5, 5.0, 3.6, 4.0, 5.2, 2.8, 3.8]
    found = spearman(lightness, quality)
    assert (found.rho, found.p_method) == (pytest.approx(0.6, abs=1e-15), "permutation")
    assert found.p == pytest.approx(0.0968, abs=4 * (0.0968 * 0.9032 / 9999) ** 0.5)


def test_student_1908_sleep() -> None:
    """Additional hours of sleep with the first and second drug: difference -1.58 (-2.46 to -0.70), R's t.test."""
    first = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
    second = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]
    found = mean_estimate([one - other for one, other in zip(first, second, strict=True)])
    assert (found.mean, found.low, found.high) == pytest.approx((-1.58, -2.4598858, -0.7001142), abs=1e-7)


def test_holm_by_hand() -> None:
    """0.005 x 4, 0.01 x 3, 0.03 x 2, and 0.04 x 1, which may not be below the one before it."""
    assert holm([0.01, 0.04, None, 0.03, 0.005]) == [0.03, 0.06, None, 0.06, 0.02]
    assert holm([0.7, 0.6, 0.5]) == [1.0, 1.0, 1.0]
    assert holm([]) == []
