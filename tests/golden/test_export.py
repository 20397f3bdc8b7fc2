"""Streamed export of logits against scikit-image's resize of every class."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage
from scipy.special import expit, softmax
from skimage.transform import resize

from siccs_net.errors import DataError, ModelError, UsageError
from siccs_net.preprocessing.export import argmax_to_shape, probabilities_to_shape, regions_to_shape

Shape = tuple[int, int, int]


def slabs_of(logits: NDArray[np.float32], depth: int) -> Iterator[tuple[int, NDArray[np.float32]]]:
    for start in range(0, logits.shape[1], depth):
        yield start, logits[:, start : start + depth]


def noise(classes: int, shape: Shape, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=(classes, *shape)).astype(np.float32)


def smooth(classes: int, shape: Shape) -> NDArray[np.float32]:
    """Logits of large regions, so that most cells need no interpolation."""
    fields = [ndimage.gaussian_filter(field, 3) for field in noise(classes, shape)]
    return (np.stack(fields) * 100).astype(np.float32)


def dense(logits: NDArray[np.float32], target: Shape, separate_axis: int | None = None) -> NDArray[np.float64]:
    """Every class resized in float64; the separate axis by its nearest slice."""
    sizes = enumerate(zip(logits.shape[1:], target, strict=True))
    inner = tuple(old if axis == separate_axis else new for axis, (old, new) in sizes)
    options = {"order": 1, "mode": "edge", "anti_aliasing": False}
    resized = np.stack([resize(each, inner, **options) for each in logits.astype(float)])
    if separate_axis is None:
        return resized
    factors = [1.0, *(1 / (old / new) for old, new in zip(inner, target, strict=True))]
    nearest: NDArray[np.float64] = ndimage.zoom(resized, factors, order=0, mode="nearest", grid_mode=True)
    return nearest


def check_classes(ours: NDArray[Any], expected: NDArray[np.float64]) -> None:
    """Equal wherever float32 can tell the two largest logits apart."""
    if len(expected) > 1:
        ordered = np.sort(expected, axis=0)
        close = ordered[-1] - ordered[-2] < 1e-5 * (1 + np.abs(ordered[-1]))
        assert close.mean() < 0.01
        assert (np.take_along_axis(expected, ours[None].astype(int), 0)[0][close] >= ordered[-2][close] - 1e-3).all()
        ours, expected = ours[~close], expected[:, ~close]
    np.testing.assert_array_equal(ours, expected.argmax(axis=0))


@pytest.mark.parametrize("make", [noise, smooth])
@pytest.mark.parametrize("depth", [1, 2, 5, 18])
@pytest.mark.parametrize("target", [(18, 26, 30), (25, 40, 51), (7, 11, 13), (31, 12, 64), (18, 60, 30), (1, 1, 1)])
def test_argmax_equals_scikit_image(make: Any, depth: int, target: Shape) -> None:
    logits = make(4, (18, 26, 30))
    ours = argmax_to_shape(slabs_of(logits, depth), (18, 26, 30), 4, target)
    assert ours.dtype == np.uint8
    check_classes(ours, dense(logits, target))


@pytest.mark.parametrize("source", [(1, 26, 30), (9, 1, 12), (1, 1, 1)])
def test_axes_of_one_voxel(source: Shape) -> None:
    logits = noise(3, source)
    for target in [(1, 41, 17), (5, 3, 3)]:
        check_classes(argmax_to_shape(slabs_of(logits, 1), source, 3, target), dense(logits, target))


@settings(max_examples=80)
@given(
    source=st.tuples(st.integers(1, 7), st.integers(1, 8), st.integers(1, 8)),
    target=st.tuples(st.integers(1, 12), st.integers(1, 12), st.integers(1, 12)),
    classes=st.integers(1, 5),
    depth=st.integers(1, 7),
    separate=st.sampled_from([None, None, 0, 1, 2]),
    seed=st.integers(0, 999),
)
def test_any_shapes_and_slabs(
    source: Shape, target: Shape, classes: int, depth: int, separate: int | None, seed: int
) -> None:
    logits = np.random.default_rng(seed).integers(-3, 4, (classes, *source)).astype(np.float32) + noise(classes, source)
    expected = dense(logits, target, separate)
    ours = argmax_to_shape(slabs_of(logits, depth), source, classes, target, separate_axis=separate)
    best = expected.max(axis=0)
    assert (np.take_along_axis(expected, ours[None].astype(int), axis=0)[0] >= best - 1e-5).all()
    parts = list(probabilities_to_shape(slabs_of(logits, depth), source, classes, target, separate_axis=separate))
    assert [start for start, _ in parts] == list(range(target[0]))
    np.testing.assert_allclose(np.concatenate([part for _, part in parts], axis=1), softmax(expected, 0), atol=3e-6)


def test_the_lowest_class_wins_a_tie() -> None:
    logits = np.zeros((3, 4, 5, 6), dtype=np.float32)
    assert (argmax_to_shape(slabs_of(logits, 2), (4, 5, 6), 3, (9, 9, 9)) == 0).all()
    logits[1:, :, 2:] = 1
    assert set(np.unique(argmax_to_shape(slabs_of(logits, 2), (4, 5, 6), 3, (9, 9, 9)))) == {0, 1}


def test_more_classes_than_a_byte_holds() -> None:
    logits = noise(300, (2, 3, 3))
    ours = argmax_to_shape(slabs_of(logits, 1), (2, 3, 3), 300, (2, 3, 3))
    assert ours.dtype == np.uint16
    np.testing.assert_array_equal(ours, logits.argmax(axis=0))


def test_identity_is_the_argmax() -> None:
    logits = noise(5, (6, 7, 8))
    ours = argmax_to_shape(slabs_of(logits, 4), (6, 7, 8), 5, (6, 7, 8))
    np.testing.assert_array_equal(ours, logits.argmax(axis=0))


def made_slabs(classes: int, source: Shape, asked: list[int]) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Slabs of two planes that exist only when asked for, in a buffer that is used again."""
    ramp = np.linspace(-1, 1, source[2], dtype=np.float32)
    buffer = np.empty((classes, 2, *source[1:]), dtype=np.float32)
    for start in range(0, source[0], 2):
        asked.append(start)
        for number in range(classes):
            buffer[number] = ramp * (number - classes / 2) * (1 if start % 8 < 4 else -1)
        yield start, buffer


def test_neither_all_classes_nor_all_slabs_are_held() -> None:
    classes, source, target = 16, (80, 96, 96), (200, 192, 192)
    tracemalloc.start()
    argmax_to_shape(made_slabs(classes, source, []), source, classes, target)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    mask, source_plane, target_plane = 200 * 192 * 192, classes * 96 * 96 * 4, classes * 192 * 192 * 4
    assert peak < mask + 8 * source_plane + 5 * target_plane
    assert peak < classes * mask * 4 / 15


def test_a_reused_buffer_does_not_change_what_is_held() -> None:
    classes, source, target = 5, (12, 10, 10), (31, 17, 10)
    whole = np.concatenate([slab.copy() for _, slab in made_slabs(classes, source, [])], axis=1)
    streamed = argmax_to_shape(made_slabs(classes, source, []), source, classes, target)
    np.testing.assert_array_equal(streamed, argmax_to_shape([(0, whole)], source, classes, target))


def test_a_plane_comes_as_soon_as_its_neighbours_are_there() -> None:
    asked: list[int] = []
    planes = probabilities_to_shape(made_slabs(3, (8, 4, 4), asked), (8, 4, 4), 3, (16, 4, 4))
    next(planes)
    assert asked == [0]
    for _ in range(3):
        start, probabilities = next(planes)
    assert (start, asked) == (3, [0, 2])
    assert probabilities.shape == (3, 1, 4, 4)


@pytest.mark.parametrize(
    ("starts", "message"),
    [
        ([0], "end before the volume"),
        ([0, 4], "not follow"),
        ([2, 0], "not follow"),
        ([0, 2, 4], "at most 4"),
    ],
)
def test_slabs_that_do_not_cover_the_source_are_refused(starts: list[int], message: str) -> None:
    logits = noise(2, (2, 3, 3))
    with pytest.raises(DataError, match=message):
        argmax_to_shape([(start, logits) for start in starts], (4, 3, 3), 2, (4, 3, 3))
    with pytest.raises(DataError, match="not follow"):
        argmax_to_shape([(0, logits)], (2, 3, 4), 2, (4, 3, 3))


def test_logits_that_are_not_finite_are_refused() -> None:
    logits = noise(3, (3, 4, 4))
    logits[2, 1, 0, 0] = np.nan
    with pytest.raises(ModelError, match="not finite"):
        argmax_to_shape(slabs_of(logits, 1), (3, 4, 4), 3, (3, 4, 4))
    with pytest.raises(ModelError, match="not finite"):
        list(probabilities_to_shape(slabs_of(logits, 1), (3, 4, 4), 3, (3, 4, 4)))


def test_wrong_requests_are_named() -> None:
    with pytest.raises(UsageError, match="separate axis"):
        argmax_to_shape([], (3, 4, 4), 3, (3, 4, 4), separate_axis=3)
    with pytest.raises(UsageError, match="three positive sizes"):
        argmax_to_shape([], (3, 4, 4), 3, (3, 0, 4))


def check_regions(ours: NDArray[Any], expected: NDArray[np.float64]) -> None:
    """Painted one over another, equal wherever float32 can tell every logit's sign."""
    painted = np.zeros(expected.shape[1:], dtype=int)
    for number, values in enumerate(expected, start=1):
        painted[values > 0] = number
    close = (np.abs(expected) < 1e-5).any(axis=0)
    assert close.mean() < 0.01
    np.testing.assert_array_equal(ours[~close], painted[~close])


@pytest.mark.parametrize("make", [noise, smooth])
@pytest.mark.parametrize("depth", [1, 5])
@pytest.mark.parametrize("target", [(18, 26, 30), (25, 40, 51), (7, 11, 13), (31, 12, 64)])
def test_regions_equal_scikit_image(make: Any, depth: int, target: Shape) -> None:
    logits = make(3, (18, 26, 30))
    check_regions(regions_to_shape(slabs_of(logits, depth), (18, 26, 30), 3, target), dense(logits, target))


@settings(max_examples=30)
@given(st.integers(0, 99), st.integers(1, 4), st.tuples(*[st.integers(1, 9)] * 6), st.sampled_from([None, 0, 1, 2]))
def test_regions_of_any_shape(seed: int, regions: int, sizes: tuple[int, ...], separate: int | None) -> None:
    """Small odd shapes, a nearest axis, nested and overlapping signs."""
    source, target = sizes[:3], sizes[3:]
    logits = noise(regions, source, seed)
    ours = regions_to_shape(slabs_of(logits, 2), source, regions, target, separate_axis=separate)
    expected = dense(logits, target, separate)
    close = (np.abs(expected) < 1e-5).any(axis=0)
    painted = np.max([(values > 0) * number for number, values in enumerate(expected, start=1)], axis=0)
    np.testing.assert_array_equal(ours[~close], painted[~close])


def test_probabilities_of_regions_are_sigmoids() -> None:
    logits, target = 20 * noise(3, (4, 5, 6)), (7, 5, 9)
    slabs = probabilities_to_shape(slabs_of(logits, 2), (4, 5, 6), 3, target, regions=True)
    ours = np.concatenate([slab for _, slab in slabs], axis=1)
    np.testing.assert_allclose(ours, expit(dense(logits, target)), atol=2e-6)
    far = np.full((1, 1, 1, 1), -2e4, np.float32)
    ((_, never),) = probabilities_to_shape([(0, far)], (1, 1, 1), 1, (1, 1, 1), regions=True)
    assert never.tolist() == [[[[0.0]]]]


def test_many_regions_and_none() -> None:
    logits = np.full((300, 1, 1, 2), -1, np.float32)
    logits[299, ..., 1] = 1
    ours = regions_to_shape([(0, logits)], (1, 1, 2), 300, (1, 1, 2))
    assert (ours.dtype, ours.tolist()) == (np.uint16, [[[0, 300]]])
