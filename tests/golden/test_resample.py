"""Image and label resampling against scikit-image, scipy, torch, batchgenerators and exact arithmetic."""

from __future__ import annotations

import tracemalloc
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from scipy import ndimage
from skimage.transform import resize

from siccs_net.errors import DataError, UsageError
from siccs_net.preprocessing.resample import decide_separate_axis, resample_image, resampled_shape
from siccs_net.preprocessing.resample_labels import resample_labels

HU = 2e-3
SHAPES = st.tuples(st.integers(1, 9), st.integers(1, 14), st.integers(1, 14))


def hounsfield(shape: tuple[int, ...], seed: int = 0) -> NDArray[np.int16]:
    return np.random.default_rng(seed).integers(-1024, 3072, shape).astype(np.int16)


def skimage_resize(volume: NDArray[Any], shape: tuple[int, ...], order: int, **settings: Any) -> NDArray[np.float64]:
    options = {"mode": "edge", "anti_aliasing": False, "clip": True, "preserve_range": True, **settings}
    resized: NDArray[np.float64] = resize(volume.astype(np.float64), shape, order=order, **options)
    return resized


@pytest.mark.parametrize("order", [0, 1, 3])
@pytest.mark.parametrize(
    ("before", "after"),
    [((40, 70, 90), (55, 50, 61)), ((70, 40, 33), (20, 80, 75)), ((1, 97, 61), (1, 131, 40)), ((9, 1, 50), (4, 1, 9))],
)
def test_splines_equal_scikit_image(order: Any, before: tuple[int, ...], after: tuple[int, ...]) -> None:
    volume = hounsfield(before)
    ours = resample_image(volume, after, order=order)
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, skimage_resize(volume, after, order), rtol=0, atol=HU)


@settings(max_examples=60)
@given(before=SHAPES, after=SHAPES, order=st.sampled_from([0, 1, 3]), seed=st.integers(0, 99))
def test_splines_equal_scikit_image_for_any_shapes(before: Any, after: Any, order: Any, seed: int) -> None:
    volume = hounsfield(before, seed)
    expected = skimage_resize(volume, after, order)
    np.testing.assert_allclose(resample_image(volume, after, order=order), expected, rtol=0, atol=HU)


def test_splines_equal_scikit_image_on_a_real_scan(shared_data: Path) -> None:
    import nibabel as nib

    scan = nib.load(shared_data / "ct3d" / "ricord1a_001012_2mm_0000.nii.gz")
    volume = np.asanyarray(scan.dataobj).T[20:70]
    shape = resampled_shape(volume.shape, (2.0, 2.0, 2.0), (1.25, 1.6, 2.9))
    assert shape == (80, 161, 124)
    difference = np.abs(resample_image(volume, shape, order=3) - skimage_resize(volume, shape, 3))
    assert difference.max() < HU


@pytest.mark.parametrize("order", [1, 3])
def test_antialias_equals_scikit_image(order: Any) -> None:
    volume = hounsfield((50, 64, 40))
    ours = resample_image(volume, (20, 30, 55), order=order, antialias=True)
    expected = skimage_resize(volume, (20, 30, 55), order, anti_aliasing=True)
    np.testing.assert_allclose(ours, expected, rtol=0, atol=HU)
    assert np.abs(ours - resample_image(volume, (20, 30, 55), order=order)).max() > 100


@pytest.mark.parametrize("after", [(40, 32, 32), (7, 50, 61), (30, 44, 50), (100, 13, 1)])
def test_area_and_linear_equal_torch(after: tuple[int, ...]) -> None:
    import torch
    from torch.nn.functional import interpolate

    volume = hounsfield((30, 44, 50))
    tensor = torch.from_numpy(volume.astype(np.float64))[None, None]  # float32 would round torch's positions
    area = interpolate(tensor, size=after, mode="area")[0, 0].numpy()
    linear = interpolate(tensor, size=after, mode="trilinear", align_corners=False)[0, 0].numpy()
    np.testing.assert_allclose(resample_image(volume, after, order="area"), area, rtol=0, atol=HU)
    np.testing.assert_allclose(resample_image(volume, after, order=1), linear, rtol=0, atol=HU)


def by_slices(volume: NDArray[Any], after: tuple[int, ...], axis: int, order: int, order_separate: int) -> Any:
    """nnU-Net's procedure: every slice in its plane, then map_coordinates along the axis."""
    plane = after[:axis] + after[axis + 1 :]
    slices = np.stack([skimage_resize(each, plane, order) for each in np.moveaxis(volume, axis, 0)])
    scale = len(slices) / after[axis]
    centres = scale * (np.arange(after[axis]) + 0.5) - 0.5
    grid = np.meshgrid(centres, *(np.arange(size) for size in plane), indexing="ij")
    return np.moveaxis(ndimage.map_coordinates(slices, grid, order=order_separate, mode="nearest"), 0, axis)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("order_separate", [0, 1])
@pytest.mark.parametrize("after", [(14, 40, 21), (6, 15, 50), (9, 22, 60)])
def test_separate_axis_equals_slice_by_slice(axis: int, order_separate: Any, after: tuple[int, ...]) -> None:
    volume = hounsfield((9, 31, 28))
    ours = resample_image(volume, after, order=3, separate_axis=axis, order_separate=order_separate)
    np.testing.assert_allclose(ours, by_slices(volume, after, axis, 3, order_separate), rtol=0, atol=HU)


def test_channels_are_clipped_to_their_own_range() -> None:
    channels = np.stack([hounsfield((8, 20, 20)), hounsfield((8, 20, 20), 1) // 100])
    ours = resample_image(channels, (12, 31, 17), order=3)
    for channel, own in zip(channels, ours, strict=True):
        np.testing.assert_array_equal(own, resample_image(channel, (12, 31, 17), order=3))
        assert own.min() >= channel.min()
        assert own.max() <= channel.max()


def test_constant_identity_and_views() -> None:
    volume = hounsfield((12, 30, 26))
    np.testing.assert_array_equal(resample_image(volume, volume.shape, order=3), volume)
    assert (resample_image(np.full((5, 6, 7), -1000, np.int16), (9, 4, 20), order=3) == -1000).all()
    view = volume[::-1, 2:29, 3:].transpose(2, 0, 1)
    expected = resample_image(np.ascontiguousarray(view), (20, 20, 20), order=3)
    np.testing.assert_array_equal(resample_image(view, (20, 20, 20), order=3), expected)


def test_resampling_needs_little_more_memory_than_its_result() -> None:
    volume = hounsfield((160, 128, 128))
    tracemalloc.start()
    resample_image(volume, (200, 128, 120), order=3)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 200 * 128 * 120 * 4 + 12e6


@pytest.mark.parametrize(
    ("current", "wanted", "axis"),
    [
        ((5.0, 0.7, 0.7), (1.0, 1.0, 1.0), 0),
        ((0.7, 0.7, 5.0), (1.0, 1.0, 1.0), 2),
        ((1.0, 1.0, 1.0), (5.0, 1.0, 1.0), 0),
        ((3.0, 1.0, 1.0), (3.0, 1.0, 1.0), None),
        ((5.0, 5.0, 0.7), (5.0, 0.7, 0.7), None),
        ((1.0, 1.0, 1.0), (1.0, 1.0, 1.0), None),
    ],
)
def test_thick_slices(current: Any, wanted: Any, axis: int | None) -> None:
    assert decide_separate_axis(current, wanted) == axis


def test_resampled_shape_rounds_half_to_even_and_keeps_one_voxel() -> None:
    assert resampled_shape((184, 366, 512), (1.25, 0.703125, 0.703125), (1.0, 1.0, 1.0)) == (230, 257, 360)
    assert resampled_shape((5, 7, 1), (1.0, 1.0, 1.0), (2.0, 2.0, 4.0)) == (2, 4, 1)


def test_wrong_requests_are_named() -> None:
    with pytest.raises(UsageError, match="interpolation order"):
        resample_image(np.zeros((2, 2, 2)), (2, 2, 2), order=2)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="three positive sizes"):
        resample_image(np.zeros((2, 2, 2)), (2, 0, 2), order=1)
    with pytest.raises(DataError, match="real numbers"):
        resample_image(np.zeros((2, 2)), (2, 2, 2), order=1)
    with pytest.raises(DataError, match="integers"):
        resample_labels(np.zeros((2, 2, 2)), (2, 2, 2))
    with pytest.raises(UsageError, match="axis"):
        resample_labels(np.zeros((2, 2, 2), np.uint8), (2, 2, 2), separate_axis=3)


# Labels


def exact_weights(before: int, after: int, nearest_only: bool) -> NDArray[np.int64]:
    """Linear weights [outputs, inputs] times 2 * after, in exact arithmetic."""
    matrix = np.zeros((after, before), dtype=np.int64)
    for output in range(after):
        if nearest_only:
            place = ndimage.map_coordinates(
                np.arange(before), [[before / after * (output + 0.5) - 0.5]], order=0, mode="nearest"
            )
            matrix[output, int(place[0])] = 2 * after
            continue
        centre = min(max(Fraction((2 * output + 1) * before, 2 * after) - Fraction(1, 2), Fraction(0)), before - 1)
        lower = int(centre)
        share = int((centre - lower) * 2 * after)
        matrix[output, lower] += 2 * after - share
        matrix[output, min(lower + 1, before - 1)] += share
    return matrix


def shares_of(
    labels: NDArray[Any], after: tuple[int, ...], separate: int | None
) -> tuple[list[int], NDArray[np.int64]]:
    """All labels, and the interpolated one-hot [label, z, y, x] as whole numbers."""
    values = sorted(np.unique(labels).tolist())
    sizes = zip(labels.shape, after, strict=True)
    weights = [exact_weights(*size, axis == separate) for axis, size in enumerate(sizes)]
    one_hot = np.stack([labels == value for value in values]).astype(np.int64)
    return values, np.einsum("czyx,Zz,Yy,Xx->cZYX", one_hot, *weights, optimize=True)


def brute_force(labels: NDArray[Any], after: tuple[int, ...], separate: int | None = None) -> NDArray[Any]:
    values, shares = shares_of(labels, after, separate)
    tied = shares == shares.max(axis=0)
    result = np.array(values, dtype=labels.dtype)[tied.argmax(axis=0)]
    factors = [1 / (before / size) for before, size in zip(labels.shape, after, strict=True)]
    nearest = ndimage.zoom(labels, factors, order=0, mode="nearest", grid_mode=True)
    for value, wins in zip(values, tied, strict=True):
        result[wins & (nearest == value)] = value
    return result


@st.composite
def label_maps(draw: st.DrawFn) -> NDArray[Any]:
    dtype = draw(st.sampled_from([np.uint8, np.int16, np.int64]))
    values = draw(st.sampled_from([[0, 1], [0, 1, 2, 3], [0, 2, 117, 100], [5], [1, 2, 3]]))
    shape = draw(st.tuples(st.integers(1, 6), st.integers(1, 6), st.integers(1, 6)))
    return draw(arrays(dtype, shape, elements=st.sampled_from(values)))


@settings(max_examples=250)
@given(labels=label_maps(), after=SHAPES, separate=st.sampled_from([None, None, 0, 1, 2]))
def test_labels_equal_exact_arithmetic(labels: NDArray[Any], after: tuple[int, ...], separate: int | None) -> None:
    ours = resample_labels(labels, after, separate_axis=separate)
    assert ours.dtype == labels.dtype
    np.testing.assert_array_equal(ours, brute_force(labels, after, separate))


@settings(max_examples=40)
@given(labels=label_maps(), after=SHAPES)
def test_labels_are_the_argmax_of_scikit_images_one_hot(labels: NDArray[Any], after: tuple[int, ...]) -> None:
    values = np.unique(labels)
    shares = np.stack([skimage_resize(labels == value, after, 1) for value in values])
    ordered = np.sort(shares, axis=0)
    clear = np.ones(after, bool) if len(values) == 1 else ordered[-1] - ordered[-2] > 1e-9
    np.testing.assert_array_equal(resample_labels(labels, after)[clear], values[shares.argmax(axis=0)][clear])


def regions(count: int) -> NDArray[np.uint8]:
    """Smooth regions that fill a volume and meet everywhere, three and more at a time."""
    rng = np.random.default_rng(3)
    fields = [ndimage.gaussian_filter(rng.normal(size=(24, 40, 44)), 3) for _ in range(count)]
    return np.stack(fields).argmax(axis=0).astype(np.uint8)


def test_labels_of_smooth_regions_and_their_views() -> None:
    labels = regions(4)
    for after in ((31, 29, 60), (10, 70, 20), (24, 40, 44)):
        np.testing.assert_array_equal(resample_labels(labels, after), brute_force(labels, after))
    view = labels[::-1, 3:38, 1:].transpose(2, 1, 0)
    np.testing.assert_array_equal(resample_labels(view, (50, 50, 20)), brute_force(view, (50, 50, 20)))


def test_an_equal_share_goes_to_the_nearest_voxel_or_else_the_smallest_label() -> None:
    pair = np.array([[[7, 3]]], dtype=np.int16)
    np.testing.assert_array_equal(resample_labels(pair, (1, 1, 2)), pair)
    assert resample_labels(pair, (1, 1, 1)).item() == 3  # exactly between: the upper of two equally near voxels
    corner = np.array([[[9, 9, 1], [9, 4, 1], [4, 4, 1]]], dtype=np.int16)
    assert resample_labels(corner, (1, 1, 1)).item() == 4


def threshold_rule(labels: NDArray[Any], after: tuple[int, ...]) -> NDArray[Any]:
    """nnU-Net with older versions of batchgenerators: the last label whose own share reaches a half, else 0."""
    result = np.zeros(after, dtype=labels.dtype)
    for value in np.unique(labels):
        result[skimage_resize(labels == value, after, 1) >= 0.5] = value
    return result


def test_no_hole_where_three_labels_meet() -> None:
    labels, after = regions(3) + 1, (31, 57, 66)
    threshold, ours = threshold_rule(labels, after), resample_labels(labels, after)
    _, shares = shares_of(labels, after, None)
    majority = 2 * shares.max(axis=0) > shares.sum(axis=0)
    assert np.count_nonzero(threshold == 0) > 100
    assert ours.min() > 0
    np.testing.assert_array_equal(ours[majority], threshold[majority])


def test_labels_equal_batchgenerators_where_a_label_has_most_of_a_voxel() -> None:
    from batchgenerators.augmentations.utils import resize_segmentation

    labels, after = regions(4), (40, 31, 70)
    _, shares = shares_of(labels, after, None)
    majority = 2 * shares.max(axis=0) > shares.sum(axis=0)
    peer = resize_segmentation(labels, after, order=1)
    np.testing.assert_array_equal(resample_labels(labels, after)[majority], peer[majority])


def test_integers_are_the_rounded_floats_without_a_float_volume() -> None:
    volume = hounsfield((160, 96, 128))
    floats = resample_image(volume, (200, 128, 120), order=3)
    tracemalloc.start()
    whole = resample_image(volume, (200, 128, 120), order=3, dtype="int16")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert whole.dtype == np.int16
    np.testing.assert_array_equal(whole, np.rint(floats))
    assert peak < whole.nbytes + 14e6
    np.testing.assert_array_equal(
        resample_image(volume, (9, 8, 7), order=1, dtype="uint8"),
        np.clip(np.rint(resample_image(volume, (9, 8, 7), order=1)), 0, 255),
    )
