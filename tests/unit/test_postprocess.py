"""Post-processing against scikit-image and scipy, by properties, and on cases worked out by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.ndimage import binary_fill_holes
from skimage.measure import label as skimage_label

from siccs_net.errors import DataError
from siccs_net.inference.postprocess import apply_step, describe, postprocess
from siccs_net.io.image import read_label
from siccs_net.records.postprocessing import FillHoles, MinimumVolume, PostProcessing, RestrictToLung

LUNG = RestrictToLung(lung=(1, 2, 3), labels=(1, 2, 3), distance_mm=10.0)
MAPS = arrays(np.uint8, st.tuples(st.integers(1, 6), st.integers(1, 7), st.integers(1, 7)), elements=st.integers(0, 3))


def two_lungs():
    """Two lungs [z, y, x] with two foci each, 1 mm voxels."""
    labels = np.zeros((20, 44, 60), np.uint8)
    labels[4:16, 10:30, 6:22] = 1
    labels[4:16, 10:30, 36:52] = 1
    for z, y, x in ((6, 12, 8), (12, 24, 18), (6, 12, 40), (12, 25, 50)):
        labels[z : z + 2, y : y + 3, x : x + 2] = 2
    return labels


def test_many_foci_in_both_lungs_all_stay():
    labels = two_lungs()
    labels[5:9, 20:24, 36] = 3  # at the edge of the lung, towards the mediastinum
    assert np.array_equal(postprocess(labels, [LUNG], (1, 1, 1)), labels)


@pytest.mark.parametrize(("gap_mm", "stays"), [(2, True), (10, True), (11, False)])
def test_what_lies_off_the_lungs_goes_beyond_the_distance(gap_mm, stays):
    labels = two_lungs()
    after = postprocess(_with_island(labels, gap_mm), [LUNG], (1, 1, 1))
    assert np.array_equal(after, _with_island(labels, gap_mm) if stays else labels)


def _with_island(labels, gap_mm):
    changed = labels.copy()
    changed[8, 29 + gap_mm, 10] = 2  # the lung's last row is 29
    return changed


def test_distances_are_millimetres_and_touching_voxels_stay():
    labels = np.zeros((12, 8, 8), np.uint8)
    labels[0:6, 1:6, 1:6] = 1
    labels[7, 2, 2] = 2  # a gap of one slice
    near = RestrictToLung(lung=(1, 2), labels=(1, 2), distance_mm=3.0)
    assert postprocess(labels, [near], (1.0, 1, 1))[7, 2, 2] == 2
    assert postprocess(labels, [near], (5.0, 1, 1))[7, 2, 2] == 0
    touching = np.zeros((12, 8, 8), np.uint8)
    touching[0:6, 1:6, 1:6] = 1
    touching[6, 6, 6] = 2  # touches at a corner, 5 mm away
    lesion_apart = RestrictToLung(lung=(1,), labels=(2,), distance_mm=0.0)
    assert postprocess(touching, [lesion_apart], (5.0, 1, 1))[6, 6, 6] == 2


def test_one_lung_or_none_is_no_reason_to_lose_lesions():
    one = two_lungs()
    one[:, :, 30:] = 0
    assert np.array_equal(postprocess(one, [LUNG], (1, 1, 1)), one)
    outside = RestrictToLung(lung=(1,), labels=(2,))
    lesions = np.where(two_lungs() == 2, 2, 0).astype(np.uint8)
    assert np.array_equal(postprocess(lesions, [outside], (1, 1, 1)), lesions)


@settings(max_examples=60, deadline=None)
@given(MAPS, st.sampled_from([(1.0, 1.0, 1.0), (5.0, 0.7, 0.7)]), st.sampled_from([0.0, 1.5, 2.6, 5.9]))
def test_restriction_is_that_of_plain_distances(labels, spacing, distance_mm):
    """By scikit-image's components and the distances of all pairs of voxels."""
    step = RestrictToLung(lung=(1, 2), labels=(2, 3), smallest_share=0.5, distance_mm=distance_mm)
    components = skimage_label(np.isin(labels, (1, 2)), connectivity=3)
    sizes = np.bincount(components.ravel())[1:]
    lungs = np.isin(components, [n + 1 for n, size in enumerate(sizes) if size >= 0.5 * sizes.max()])
    wanted = labels.copy()
    outside = skimage_label(np.isin(labels, (2, 3)) & ~lungs, connectivity=3)
    inside = np.argwhere(lungs) * spacing
    for number in range(1, outside.max() + 1):
        places = np.argwhere(outside == number) * spacing
        if len(inside):
            nearest = np.linalg.norm(places[:, None] - inside[None], axis=-1).min()
            if nearest > max(distance_mm, np.linalg.norm(spacing) * (1 + 1e-6)):
                wanted[outside == number] = 0
    assert np.array_equal(postprocess(labels, [step], spacing), wanted)


@settings(max_examples=60, deadline=None)
@given(MAPS, st.floats(0.5, 12))
def test_small_components_are_those_of_scikit_image(labels, minimum):
    after = postprocess(labels, [MinimumVolume(label=2, minimum_mm3=minimum)], (1, 1, 1))
    components = skimage_label(labels == 2, connectivity=3)
    sizes = np.bincount(components.ravel())
    small = (labels == 2) & (sizes[components] < minimum)
    assert np.array_equal(after != labels, small)


def test_a_small_component_becomes_what_surrounds_it():
    labels = two_lungs()
    labels[6, 35, 10] = 2
    after = postprocess(labels, [MinimumVolume(label=2, minimum_mm3=12.5)], (1, 1, 1))
    assert not (after == 2).any()
    assert after[6, 35, 10] == 0
    assert np.array_equal(after == 1, (labels == 1) | (two_lungs() == 2))
    assert (postprocess(labels, [MinimumVolume(label=2, minimum_mm3=12.0)], (1, 1, 1)) == 2).sum() == 48
    assert (postprocess(labels, [MinimumVolume(label=2, minimum_mm3=12.5)], (2, 1, 1)) == 2).sum() == 48


@settings(max_examples=80, deadline=None)
@given(MAPS)
def test_holes_of_a_union_are_scipys(labels):
    """Where every label is in the union, a hole is what binary_fill_holes fills: closed off at all six faces."""
    padded = np.pad(labels, 1)
    after = postprocess(padded, [FillHoles(labels=(1, 2, 3))], (1, 1, 1))
    assert np.array_equal(after != 0, binary_fill_holes(padded != 0))
    assert np.array_equal(after[padded != 0], padded[padded != 0])


def test_holes_have_a_size_and_an_owner():
    labels = np.zeros((9, 9, 9), np.uint8)
    labels[1:8, 1:8, 1:8] = 1
    labels[4, 4, 4:6] = 0
    for step, filled in (
        (FillHoles(labels=(1,)), True),
        (FillHoles(labels=(1,), maximum_mm3=2.0), True),
        (FillHoles(labels=(1,), maximum_mm3=1.9), False),
        (FillHoles(labels=(2,)), False),
    ):
        assert bool(postprocess(labels, [step], (1, 1, 1))[4, 4, 4] == 1) is filled
    labels[4, 3, 4] = 2  # one of the ten faces of the hole
    assert postprocess(labels, [FillHoles(labels=(1,))], (1, 1, 1))[4, 4, 4] == 0
    assert postprocess(labels, [FillHoles(labels=(1, 2))], (1, 1, 1))[4, 4, 4] == 1


def test_a_single_slice_has_holes_in_two_dimensions():
    labels = np.zeros((1, 8, 8), np.uint8)
    labels[0, 1:7, 1:7] = 2
    labels[0, 3, 3] = 0
    assert postprocess(labels, [FillHoles(labels=(2,))], (5, 1, 1))[0, 3, 3] == 2


@settings(max_examples=40, deadline=None)
@given(MAPS)
def test_steps_settle_and_add_no_label(labels):
    before = labels.copy()
    for step in (LUNG, FillHoles(labels=(1, 2, 3))):
        once = postprocess(labels, [step], (2, 1, 1))
        assert np.array_equal(postprocess(once, [step], (2, 1, 1)), once)
        assert set(np.unique(once)) <= {*np.unique(labels), 0}
        assert once.dtype == labels.dtype
    assert np.array_equal(labels, before)


def test_nothing_to_do_is_the_same_array():
    labels = two_lungs()
    for step in (LUNG, MinimumVolume(label=2, minimum_mm3=1.0), FillHoles(labels=(1,))):
        assert apply_step(labels, step, (1, 1, 1)) is labels
        assert describe(step)
    assert not postprocess(np.zeros((3, 4, 5), np.uint16), [LUNG], (1, 1, 1)).any()


def test_only_label_maps_are_taken():
    for wrong in (np.zeros((3, 3)), np.zeros((3, 3, 3), np.float32)):
        with pytest.raises(DataError, match="label maps"):
            postprocess(wrong, [LUNG], (1, 1, 1))


def test_the_record_is_read_as_it_was_written():
    record = PostProcessing(steps=(LUNG, MinimumVolume(label=2, minimum_mm3=10.0), FillHoles(labels=(1,))))
    assert PostProcessing.from_json(record.to_json()) == record


SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "ct3d"


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data is not here")
def test_real_lungs_stay_whole_and_an_island_far_below_them_goes():
    """A reader's lung mask of a whole chest: nothing of it goes; a lesion drawn in the abdomen does."""
    image = read_label(SHARED / "cip_ct64_label_lung.nii.gz")
    lungs = image.array[0].astype(np.uint8)
    step = RestrictToLung(lung=(1, 2), labels=(1, 2))
    assert np.array_equal(postprocess(lungs, [step], image.grid.spacing_mm), lungs)
    with_island = lungs.copy()
    corner = tuple(slice(0, 2) for _ in range(3))
    assert not lungs[tuple(slice(0, 5) for _ in range(3))].any()
    with_island[corner] = 2
    assert np.array_equal(postprocess(with_island, [step], image.grid.spacing_mm), lungs)
