"""Smoothing by a band of weights is scipy's Gaussian filter."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from siccs_net.augment.smoothing import smooth


@given(
    st.lists(st.integers(1, 40), min_size=2, max_size=3),
    st.lists(st.floats(0.05, 3.0), min_size=3, max_size=3),
    st.integers(0, 9),
)
def test_it_equals_scipys_at_borders_and_on_axes_shorter_than_the_gaussian(shape, sigmas, seed):
    image = np.random.default_rng(seed).normal(size=(2, *shape)).astype(np.float32)
    kept = image.copy()
    found = smooth(image, sigmas[: len(shape)])
    expected = [gaussian_filter(channel.astype(np.float64), sigmas[: len(shape)]) for channel in image]
    assert found.dtype == np.float32
    assert np.abs(found - expected).max() < 2e-6
    assert np.array_equal(image, kept)


@pytest.mark.parametrize("shape", [(1, 20, 600, 30), (1, 600, 20, 20), (1, 6, 5, 700), (1, 3, 900, 3)])
def test_products_are_split_where_axes_are_long(shape):
    image = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    assert np.abs(smooth(image, (1.5, 0.7, 1.1))[0] - gaussian_filter(image[0], (1.5, 0.7, 1.1))).max() < 2e-6
