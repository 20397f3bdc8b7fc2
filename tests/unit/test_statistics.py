"""Mergeable statistics against numpy on the concatenated voxels, and normalisation against its formulas."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from siccs_net.errors import DataError, DatasetError, RecordError, UsageError
from siccs_net.preprocessing.statistics import (
    apply_normalisation,
    fold_normalisation,
    image_normalisation,
    measure,
    merge,
    percentile,
    std,
)
from siccs_net.records.statistics import ChannelStatistics, Normalisation

INTEGERS = st.sampled_from([np.int16, np.uint16, np.uint8, np.int8])
FLOATS = st.floats(-1e6, 1e6, allow_subnormal=False, width=32)
PERCENTILES = (0.0, 0.5, 25.0, 50.0, 99.5, 100.0)


def ranked(values: NDArray[Any], q: float) -> tuple[float, float]:
    """The two voxels that a percentile lies between."""
    ordered, rank = np.sort(values, axis=None), q / 100 * (values.size - 1)
    return float(ordered[int(np.floor(rank))]), float(ordered[int(np.ceil(rank))])


def check(statistics: ChannelStatistics, values: NDArray[Any], bin_width: float) -> None:
    exact = values.astype(np.float64)
    scale = max(float(np.abs(exact).max()), 1e-30)
    assert statistics.count == values.size
    assert (statistics.minimum, statistics.maximum) == (exact.min(), exact.max())
    assert statistics.mean == pytest.approx(exact.mean(), rel=1e-9, abs=1e-13 * scale)
    assert std(statistics) == pytest.approx(exact.std(), rel=1e-9, abs=1e-9 * scale)
    for q in PERCENTILES:
        lower, upper = ranked(exact, q)
        widths = [bin_width * abs(edge) if abs(edge) > 2048 or edge != round(edge) else 0 for edge in (lower, upper)]
        slack = 1e-9 * scale
        assert lower - widths[0] - slack <= percentile(statistics, q) <= upper + widths[1] + slack


@st.composite
def integer_cases(draw: st.DrawFn) -> list[NDArray[Any]]:
    dtype = draw(INTEGERS)
    shapes = draw(st.lists(st.tuples(st.integers(1, 5), st.integers(1, 8)), min_size=1, max_size=5))
    return [draw(arrays(dtype, shape)) for shape in shapes]


@given(integer_cases())
def test_integers_equal_numpy_on_the_concatenation(cases: list[NDArray[Any]]) -> None:
    together = np.concatenate([case.ravel() for case in cases])
    check(merge([measure(case) for case in cases]), together, 1 / 1024)
    check(measure(together), together, 1 / 1024)


@given(st.lists(arrays(np.float32, st.integers(1, 40), elements=FLOATS), min_size=1, max_size=5))
def test_floats_equal_numpy_on_the_concatenation(cases: list[NDArray[Any]]) -> None:
    check(merge([measure(case) for case in cases]), np.concatenate(cases), 1 / 128)


def test_percentiles_of_whole_hounsfield_units_are_numpys() -> None:
    rng = np.random.default_rng(0)
    cases = [rng.normal(centre, 200, 5000).round().astype(np.int16) for centre in (-850, -600, 40)]
    merged = merge([measure(case) for case in cases])
    for q in (0, 0.5, 1, 10, 50, 99, 99.5, 100):
        assert percentile(merged, q) == pytest.approx(np.percentile(np.concatenate(cases), q), abs=1e-9)
    assert len(merged.histogram_values) <= 2 * 2048 + 2


@given(integer_cases(), st.randoms())
def test_the_order_of_a_merge_changes_nothing(cases: list[NDArray[Any]], random: Any) -> None:
    parts = [measure(case) for case in cases]
    expected = merge(parts)
    random.shuffle(parts)
    assert merge(parts) == expected
    halves = merge([merge(parts[:1]), merge(parts[1:] or parts[:1])])
    if len(parts) > 1:
        assert halves.histogram_counts == expected.histogram_counts
        assert halves.mean == pytest.approx(expected.mean, rel=1e-9, abs=1e-9)


def test_integers_and_their_float_copies_measure_alike() -> None:
    values = np.random.default_rng(1).integers(-1024, 3072, 4000).astype(np.int16)
    as_integer, as_float = measure(values), measure(values.astype(np.float32))
    assert as_float.histogram_values == as_integer.histogram_values
    assert as_float.histogram_counts == as_integer.histogram_counts
    assert as_float.mean == pytest.approx(as_integer.mean, rel=1e-12)
    assert measure(values.astype(np.int64)).histogram_counts == as_integer.histogram_counts


def test_views_of_any_layout_measure_alike() -> None:
    values = np.random.default_rng(1).integers(-1024, 3072, (7, 11, 13)).astype(np.int16)
    inner = values[1:6, ::-2, 3:]
    assert measure(inner) == measure(np.ascontiguousarray(inner)) == measure(inner.transpose(2, 0, 1))


def test_few_large_values_and_signed_zeros() -> None:
    values = np.array([-0.0, 0.0, 1e-42, -1e-42, 3.4e38, -3.4e38, 1.5], dtype=np.float32)
    statistics = measure(values)
    assert statistics.count == 7
    assert statistics.histogram_values[1:3] == (0.0, 1.5)
    assert statistics.histogram_counts == (1, 4, 1, 1)
    assert percentile(statistics, 100) == pytest.approx(3.4e38, rel=1 / 128)


def test_measuring_holds_only_a_part_of_a_scan() -> None:
    for dtype in (np.int16, np.float32):
        values = np.random.default_rng(0).integers(-1000, 1000, (120, 400, 400)).astype(dtype)
        tracemalloc.start()
        measure(values[:, 1:])
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 80e6 < values.size * 8


def test_what_cannot_be_measured_is_named() -> None:
    with pytest.raises(DataError, match="at least one voxel"):
        measure(np.zeros(0, dtype=np.int16))
    with pytest.raises(DataError, match="real numbers"):
        measure(np.ones(3, dtype=bool))
    for wrong in (np.nan, np.inf):
        with pytest.raises(DataError, match="finite"):
            measure(np.array([1.0, wrong]))
    with pytest.raises(DataError, match="no statistics"):
        merge([])
    with pytest.raises(UsageError, match="percentile"):
        percentile(measure(np.arange(3)), 101)


def test_records_survive_json_and_refuse_contradictions() -> None:
    statistics = measure(np.array([3, 5, 5, -7], dtype=np.int16))
    assert ChannelStatistics.from_json(statistics.to_json()) == statistics
    with pytest.raises(RecordError, match="add up"):
        ChannelStatistics.from_json(statistics.to_json().replace('"count": 4', '"count": 5'))
    normalisation = fold_normalisation(["ct", "none"], [[statistics, statistics]])
    assert Normalisation.from_json(normalisation.to_json()) == normalisation
    with pytest.raises(RecordError, match="needs lower"):
        Normalisation.from_json(normalisation.to_json().replace('"lower": -6.85', '"lower": null'))


# Normalisation


def two_channels(seed: int, size: int = 3000) -> NDArray[np.int16]:
    rng = np.random.default_rng(seed)
    return np.stack([rng.normal(-700, 250, size), rng.normal(5, 3, size)]).round().astype(np.int16)


def test_ct_normalisation_is_nnunets() -> None:
    """Percentiles, mean and standard deviation of all values; the mean and deviation are those before clipping."""
    cases = [two_channels(seed) for seed in range(3)]
    fold = fold_normalisation(["ct", "zscore"], [[measure(channel) for channel in case] for case in cases])
    patch = two_channels(9)[:, :1000].reshape(2, 10, 10, 10)
    before = patch.copy()
    ours = apply_normalisation(patch, fold)
    assert ours.dtype == np.float32
    np.testing.assert_array_equal(patch, before)
    ct, other = (np.concatenate([case[channel] for case in cases]).astype(np.float64) for channel in (0, 1))
    lower, upper = np.percentile(ct, [0.5, 99.5])
    np.testing.assert_allclose(ours[0], (np.clip(patch[0], lower, upper) - ct.mean()) / ct.std(), atol=1e-5)
    np.testing.assert_allclose(ours[1], (patch[1] - other.mean()) / other.std(), atol=1e-5)
    assert np.clip(ct, lower, upper).std() < ct.std()


def test_percentiles_are_the_callers() -> None:
    cases = [[measure(np.arange(1001, dtype=np.int16))]]
    (channel,) = fold_normalisation(["ct"], cases, lower_percentile=10, upper_percentile=80).channels
    assert (channel.lower, channel.upper) == (100.0, 800.0)


def test_image_schemes_take_the_images_own_numbers() -> None:
    fold = fold_normalisation(["zscore_image", "rescale_to_0_1"], [])
    image = two_channels(4).reshape(2, 10, 15, 20)
    with pytest.raises(UsageError, match="own statistics"):
        apply_normalisation(image, fold)
    ours = apply_normalisation(image, image_normalisation(fold, [measure(channel) for channel in image]))
    first, second = image.astype(np.float64)
    np.testing.assert_allclose(ours[0], (first - first.mean()) / first.std(), atol=1e-5)
    np.testing.assert_allclose(ours[1], (second - second.min()) / (second.max() - second.min()), atol=1e-6)
    assert (ours[1].min(), ours[1].max()) == (0, 1)


def test_fold_schemes_stay_as_they_are_for_an_image() -> None:
    cases = [[measure(channel) for channel in two_channels(0)]]
    fold = fold_normalisation(["ct", "none"], cases)
    assert image_normalisation(fold, [measure(channel) for channel in two_channels(1)]) == fold
    patch = two_channels(2)
    np.testing.assert_array_equal(apply_normalisation(patch, fold)[1], patch[1])


def test_a_constant_channel_becomes_zero() -> None:
    for scheme in ("ct", "zscore"):
        fold = fold_normalisation([scheme], [[measure(np.full(10, 7, np.int16))]])
        assert (apply_normalisation(np.full((1, 4, 4), 7, np.int16), fold) == 0).all()


def test_cases_without_voxels_are_left_out_and_none_at_all_is_named() -> None:
    one = [measure(np.arange(10, dtype=np.int16))]
    assert fold_normalisation(["zscore"], [one, ()]) == fold_normalisation(["zscore"], [one])
    with pytest.raises(DatasetError, match="no training case"):
        fold_normalisation(["zscore"], [(), ()])
    with pytest.raises(DatasetError, match="number of channels"):
        fold_normalisation(["zscore", "ct"], [one])
    with pytest.raises(UsageError, match="scheme"):
        fold_normalisation(["minmax"], [one])  # type: ignore[list-item]
    with pytest.raises(DataError, match="number of channels"):
        apply_normalisation(np.zeros((2, 3, 3)), fold_normalisation(["zscore"], [one]))
