"""NSD and HD95 against MONAI, against scipy's distance transform in float64, and against numbers worked out by hand."""

from __future__ import annotations

import tracemalloc
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from siccs_net.errors import DataError, GeometryError, UsageError
from siccs_net.evaluation.surface import SurfaceMetrics, surface_metrics

CLASSES = {"normal": (1,), "EF": (2,), "GGO": (3,), "EF+GGO": (2, 3), "lung": (1, 2, 3)}
SPACINGS = [(1.0, 1.0, 1.0), (5.0, 0.7, 0.7), (1.25, 0.703125, 0.703125), (0.4, 2.5, 1.1)]
NSD_2MM, NSD_5MM, HD95 = range(3)


@pytest.fixture(scope="module", autouse=True)
def one_torch_thread() -> Iterator[None]:
    """MONAI's small tensors in one thread: on a busy machine a pool of threads waits for itself."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def monai_metrics(prediction: NDArray[Any], reference: NDArray[Any], spacing: Sequence[float]) -> list[float]:
    """NSD at 2 and 5 mm and HD95 of two masks, by MONAI's public functions."""
    import torch
    from monai.metrics import compute_hausdorff_distance, compute_surface_dice

    pair = [torch.from_numpy(np.ascontiguousarray(mask))[None, None] for mask in (prediction, reference)]
    shared: dict[str, Any] = {"include_background": True, "spacing": tuple(map(float, spacing))}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        nsd = [float(compute_surface_dice(*pair, [tolerance], **shared)) for tolerance in (2.0, 5.0)]
        return [*nsd, float(compute_hausdorff_distance(*pair, percentile=95, **shared))]


def monai_distances(prediction: NDArray[Any], reference: NDArray[Any], spacing: Sequence[float]) -> list[Any]:
    """MONAI's two directed sets of surface distances."""
    import torch
    from monai.metrics.utils import get_edge_surface_distance

    pair = [torch.from_numpy(np.ascontiguousarray(mask)) for mask in (prediction, reference)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _, directed, _ = get_edge_surface_distance(*pair, spacing=tuple(map(float, spacing)), symmetric=True)
    return [distances.double().numpy() for distances in directed]


def distance_transform_metrics(prediction: NDArray[Any], reference: NDArray[Any], spacing: Sequence[float]) -> Any:
    """The same by scipy's erosion and Euclidean distance transform, in float64."""
    edges = [mask & ~ndimage.binary_erosion(mask) for mask in (prediction, reference)]
    fields = [ndimage.distance_transform_edt(~edge, sampling=spacing) for edge in edges]
    directed = [fields[1][edges[0]], fields[0][edges[1]]]
    every = np.concatenate(directed)
    nsd = [float((every.astype(np.float32) <= tolerance).mean()) for tolerance in (2, 5)]
    return [*nsd, max(float(np.percentile(distances, 95)) for distances in directed)]


def check_against_monai(
    prediction: NDArray[Any],
    reference: NDArray[Any],
    spacing: Sequence[float],
    found: dict[str, SurfaceMetrics],
    classes: dict[str, tuple[int, ...]] = CLASSES,
) -> None:
    for name, values in classes.items():
        predicted, wanted = np.isin(prediction, values), np.isin(reference, values)
        expected = monai_metrics(predicted, wanted, spacing)
        measured = [found[name].nsd["2"], found[name].nsd["5"], found[name].hd95_mm]
        if predicted.any() and wanted.any():
            # torch.quantile finds its rank in float32: its HD95 is a little off, its distances are not.
            assert measured == pytest.approx(expected, rel=1e-4), name
            directed = monai_distances(predicted, wanted, spacing)
            expected[HD95] = max(np.percentile(distances, 95) for distances in directed)
            assert measured == pytest.approx(expected, rel=2e-7, abs=1e-9), name
            exact = distance_transform_metrics(predicted, wanted, spacing)
            assert measured == pytest.approx(exact, rel=1e-12, abs=1e-12), name
        elif predicted.any() or wanted.any():
            assert measured == [expected[NSD_2MM], expected[NSD_5MM], None] == [0, 0, None], name
            assert not np.isfinite(expected[HD95]), name
        else:
            assert np.isnan(expected[NSD_2MM]), name
            assert measured == [None, None, None], name


def blobs(seed: int, shape: tuple[int, ...], *, change: float = 0.5) -> tuple[NDArray[Any], NDArray[Any]]:
    """Two similar random label maps 0..3 that reach the border of the volume."""
    generator = np.random.default_rng(seed)
    texture, other = (ndimage.gaussian_filter(generator.standard_normal(shape), 2.0) for _ in range(2))
    maps = [np.digitize(field / texture.std(), (-0.3, 0.6, 1.1)) for field in (texture + change * other, texture)]
    return maps[0].astype(np.uint8), maps[1].astype(np.uint8)


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("seed", range(2))
def test_blobs_in_3d(spacing: tuple[float, ...], seed: int) -> None:
    prediction, reference = blobs(seed, (24, 30, 33))
    assert (reference[0] > 0).any()
    assert (reference[:, :, -1] > 0).any()
    check_against_monai(prediction, reference, spacing, surface_metrics(prediction, reference, spacing, CLASSES))


@pytest.mark.parametrize("spacing", SPACINGS)
def test_blobs_in_2d(spacing: tuple[float, ...]) -> None:
    prediction, reference = blobs(3, (60, 71))
    found = surface_metrics(prediction, reference, spacing[:2], CLASSES)
    check_against_monai(prediction, reference, spacing[:2], found)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_volume_of_one_slice_is_measured_in_2d(axis: int) -> None:
    prediction, reference = blobs(4, (50, 61))
    spacing = (0.8, 1.3)
    thick = list(spacing)
    thick.insert(axis, 7.0)
    found = surface_metrics(np.expand_dims(prediction, axis), np.expand_dims(reference, axis), thick, CLASSES)
    assert found == surface_metrics(prediction, reference, spacing, CLASSES)
    check_against_monai(prediction, reference, spacing, found)


masks = st.tuples(
    st.lists(st.integers(2, 6), min_size=2, max_size=3).map(tuple),
    st.integers(0, 2**32 - 1),
    st.floats(0.05, 1),
    st.lists(st.sampled_from([0.3, 0.4, 0.7, 1.0, 1.25, 2.0, 2.5, 5.0]), min_size=3, max_size=3),
)


@settings(max_examples=30)
@given(masks)
def test_any_small_pair(drawn: tuple[tuple[int, ...], int, float, list[float]]) -> None:
    shape, seed, share, spacing = drawn
    generator = np.random.default_rng(seed)
    prediction, reference = (
        (generator.integers(1, 4, shape) * (generator.random(shape) < share)).astype(np.uint8) for _ in range(2)
    )
    found = surface_metrics(prediction, reference, spacing[: len(shape)], CLASSES)
    check_against_monai(prediction, reference, spacing[: len(shape)], found)


@given(masks)
def test_the_order_of_masks_and_axes_does_not_matter(drawn: tuple[tuple[int, ...], int, float, list[float]]) -> None:
    shape, seed, share, spacing = drawn
    spacing = spacing[: len(shape)]
    generator = np.random.default_rng(seed)
    prediction, reference = (generator.random(shape) < share for _ in range(2))
    found = surface_metrics(prediction, reference, spacing, {"mask": [1]})["mask"]
    assert found == surface_metrics(reference, prediction, spacing, {"mask": [1]})["mask"]
    turned = surface_metrics(prediction.T[::-1], reference.T[::-1], spacing[::-1], {"mask": [1]})["mask"]
    assert_close(turned, found)
    if prediction.any():
        same = surface_metrics(prediction, prediction, spacing, {"mask": [1]})["mask"]
        assert same == SurfaceMetrics({"2": 1, "5": 1}, 0)


def assert_close(found: SurfaceMetrics, expected: SurfaceMetrics) -> None:
    """Equal but for the rounding of positions."""
    assert found.nsd == expected.nsd
    if expected.hd95_mm is None:
        assert found.hd95_mm is None
    else:
        assert found.hd95_mm == pytest.approx(expected.hd95_mm, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize(("first", "second"), [((0, 0, 0), (0, 0, 0)), ((0, 0, 0), (3, 4, 5)), ((3, 4, 5), (3, 4, 4))])
def test_single_voxels(first: tuple[int, ...], second: tuple[int, ...]) -> None:
    prediction, reference = np.zeros((2, 4, 5, 6), np.uint8)
    prediction[first], reference[second] = 2, 2
    found = surface_metrics(prediction, reference, SPACINGS[1], CLASSES)
    check_against_monai(prediction, reference, SPACINGS[1], found)


def test_distances_worked_out_by_hand() -> None:
    """Two voxels 3 steps of 1 mm and 1 step of 4 mm apart: 5 mm; a whole plane against its neighbour 3 mm off."""
    prediction, reference = np.zeros((2, 3, 5, 5), np.uint8)
    prediction[0, 1, 1], reference[1, 1, 4] = 1, 1
    found = surface_metrics(prediction, reference, (4, 1, 1), {"mask": [1]}, tolerances_mm=(4.9, 5))
    assert found == {"mask": SurfaceMetrics({"4.9": 0, "5": 1}, 5)}
    prediction, reference = np.zeros((2, 4, 3, 3), np.uint8)
    prediction[1], reference[2] = 1, 1
    found = surface_metrics(prediction, reference, (3, 1, 1), {"mask": [1]}, tolerances_mm=(2, 3))
    assert found == {"mask": SurfaceMetrics({"2": 0, "3": 1}, 3)}


def test_hd95_is_interpolated_between_distances() -> None:
    """Pixels at columns 0 and 10 against column 0 alone: distances 0 and 10 mm, 95 % between them is 9.5 mm."""
    prediction, reference = np.zeros((2, 3, 12), np.uint8)
    prediction[1, [0, 10]], reference[1, 0] = 1, 1
    found = surface_metrics(prediction, reference, (1, 1), {"mask": [1]})["mask"]
    assert found.hd95_mm == pytest.approx(9.5)
    assert found.nsd == {"2": pytest.approx(2 / 3), "5": pytest.approx(2 / 3)}


def test_the_border_of_the_volume_counts_as_outside() -> None:
    """A full 5 x 5 x 5 volume has a surface of 98 voxels; against its centre voxel each lies 2 mm or more away."""
    full, centre = np.ones((5, 5, 5), np.uint8), np.zeros((5, 5, 5), np.uint8)
    centre[2, 2, 2] = 1
    found = surface_metrics(full, centre, (1, 1, 1), {"mask": [1]})["mask"]
    assert found.nsd["2"] == pytest.approx((6 + 1) / (98 + 1))  # six face centres and the centre itself at 2 mm
    check_against_monai(full, centre, (1, 1, 1), {"mask": found}, {"mask": (1,)})


@pytest.mark.parametrize("steps", range(4, 30))
def test_a_multiple_of_the_spacing_is_within_the_tolerance_that_it_equals(steps: int) -> None:
    step = 2 / steps
    prediction, reference = np.zeros((2, 3, 40), np.uint8)
    prediction[1, 7], reference[1, 7 + steps] = 1, 1
    found = surface_metrics(prediction, reference, (1, step), {"mask": [1]})["mask"]
    assert found.nsd["2"] == 1 == monai_metrics(prediction == 1, reference == 1, (1, step))[NSD_2MM]


def test_both_empty_is_undefined_and_one_empty_is_zero() -> None:
    empty, full = np.zeros((4, 4, 4), np.uint8), np.ones((4, 4, 4), np.uint8)
    one = {"mask": (1,)}
    assert surface_metrics(empty, empty, (1, 1, 1), one)["mask"] == SurfaceMetrics({"2": None, "5": None}, None)
    for pair in ((empty, full), (full, empty)):
        assert surface_metrics(*pair, (1, 1, 1), one)["mask"] == SurfaceMetrics({"2": 0, "5": 0}, None)
        assert surface_metrics(*pair, (1, 1, 1), {"none": ()})["none"].hd95_mm is None


def test_more_classes_than_bits_in_a_byte() -> None:
    generator = np.random.default_rng(5)
    prediction = ndimage.zoom(generator.integers(0, 12, (5, 6, 6)), 4, order=0).astype(np.int16) * 25
    reference = np.roll(prediction, 2, axis=2)
    classes = {str(value): (value,) for value in range(25, 300, 25)} | {"two": (25, 275), "background": (0,)}
    found = surface_metrics(prediction, reference, SPACINGS[2], classes)
    check_against_monai(prediction, reference, SPACINGS[2], found, classes)


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.uint16, np.int64])
def test_type_and_memory_order_do_not_matter(dtype: type[np.generic]) -> None:
    prediction, reference = blobs(6, (12, 20, 21))
    expected = surface_metrics(prediction, reference, SPACINGS[1], CLASSES)
    turned = [np.asfortranarray(labels.astype(dtype))[:, ::-1] for labels in (prediction, reference)]
    for name, found in surface_metrics(*turned, SPACINGS[1], CLASSES).items():
        assert_close(found, expected[name])
    assert surface_metrics(prediction, reference, SPACINGS[1], CLASSES, workers=2) == expected


def test_ignored_voxels_belong_to_no_class_and_make_no_surface() -> None:
    """Against scipy: erosion that takes ignored voxels for part of the class, which are then left out."""
    prediction, reference = blobs(7, (12, 20, 21))
    reference[:, 5:9] = 9
    ignored = reference == 9
    classes = {**CLASSES, "GGO and ignored": (3, 9)}
    for name, found in surface_metrics(prediction, reference, SPACINGS[0], classes, ignore_label=9).items():
        masks = [np.isin(labels, classes[name]) & ~ignored for labels in (prediction, reference)]
        edges = [mask & ~ndimage.binary_erosion(mask | ignored) for mask in masks]
        fields = [ndimage.distance_transform_edt(~edge, sampling=SPACINGS[0]) for edge in edges]
        directed = [fields[1][edges[0]], fields[0][edges[1]]]
        assert found.nsd["2"] == pytest.approx((np.concatenate(directed) <= 2).mean())
        assert found.hd95_mm == pytest.approx(max(np.percentile(distances, 95) for distances in directed))


def test_a_slice_labelled_alone_is_measured_as_in_2d() -> None:
    prediction, reference = blobs(7, (12, 20, 21))
    alone = np.full_like(reference, 9)
    alone[6] = reference[6]
    found = surface_metrics(prediction, alone, (1.0, 0.8, 0.7), CLASSES, ignore_label=9)
    assert found == surface_metrics(prediction[6], reference[6], (0.8, 0.7), CLASSES)
    check_against_monai(prediction[6], reference[6], (0.8, 0.7), found, CLASSES)


@pytest.mark.parametrize("change", ["shifted", "eroded", "other side missing"])
def test_real_lung(shared_data: Path, change: str) -> None:
    import nibabel

    image = nibabel.load(shared_data / "ct3d" / "cip_ct64_label_lung.nii.gz")
    lung = np.asarray(image.dataobj).astype(np.uint8).T
    spacing = [float(step) for step in image.header.get_zooms()[::-1]]
    changed = {
        "shifted": np.roll(lung, (1, 2, -1), (0, 1, 2)),
        "eroded": ndimage.binary_erosion(lung).astype(np.uint8),
        "other side missing": np.where(np.arange(lung.shape[2]) < lung.shape[2] // 2, lung, 0).astype(np.uint8),
    }[change]
    found = surface_metrics(changed, lung, spacing, {"lung": [1]})
    check_against_monai(changed, lung, spacing, found, {"lung": (1,)})


def test_real_lesions_on_one_slice(shared_data: Path) -> None:
    import nibabel

    classes = {"consolidation": (1,), "ground_glass": (2,), "lesion": (1, 2)}
    for path in sorted((shared_data / "Dataset501_CovidSlices2D" / "labelsTr").glob("*.nii.gz"))[:3]:
        reference = np.asarray(nibabel.load(path).dataobj).astype(np.uint8).T
        prediction = ndimage.grey_erosion(np.roll(reference, 3, axis=2), (1, 3, 3))
        found = surface_metrics(prediction, reference, (1, 1, 1), classes)
        check_against_monai(prediction[0], reference[0], (1, 1), found, classes)


def test_memory_is_a_few_bytes_a_voxel() -> None:
    prediction, reference = (ndimage.zoom(labels, 3, order=0) for labels in blobs(8, (24, 30, 30)))
    surface_metrics(prediction[:8], reference[:8], SPACINGS[0], CLASSES)
    tracemalloc.start()
    surface_metrics(prediction, reference, SPACINGS[0], CLASSES)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    edges = sum(np.count_nonzero(m & ~ndimage.binary_erosion(m)) for m in (prediction > 0, reference > 0))
    assert peak < 5 * prediction.size + 150 * edges


def test_refusals() -> None:
    labels = np.ones((3, 4, 5), np.uint8)
    with pytest.raises(GeometryError, match="differ in shape"):
        surface_metrics(labels, labels[1:], (1, 1, 1), CLASSES)
    with pytest.raises(GeometryError, match="spacing does not fit"):
        surface_metrics(labels, labels, (1, 1), CLASSES)
    with pytest.raises(GeometryError, match="spacing does not fit"):
        surface_metrics(labels, labels, (1, 0, 1), CLASSES)
    with pytest.raises(DataError, match="whole numbers"):
        surface_metrics(labels, labels.astype(float), (1, 1, 1), CLASSES)
    with pytest.raises(UsageError, match="tolerance"):
        surface_metrics(labels, labels, (1, 1, 1), CLASSES, (-1,))
