"""Orientation round trips: 48 orientations, oblique affines, exact inverses."""

from __future__ import annotations

import itertools

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nibabel.orientations import aff2axcodes, axcodes2ornt, inv_ornt_aff, ornt_transform

from siccs_net.errors import DataError, GeometryError
from siccs_net.geometry import Grid, Orientation, canonical_affine, check_affine
from siccs_net.preprocessing import steps
from siccs_net.records.plan import Resample, Resize

CODES = [
    tuple(pair[bit] for pair, bit in zip(order, bits, strict=True))
    for order in itertools.permutations([("L", "R"), ("P", "A"), ("S", "I")])
    for bits in itertools.product((0, 1), repeat=3)
]


def _affine(codes: tuple[str, ...]) -> np.ndarray:
    affine = np.zeros((4, 4))
    affine[3, 3] = 1
    for axis, (ras, sign) in enumerate(axcodes2ornt(codes)):
        affine[int(ras), axis] = sign * (0.7, 1.1, 2.5)[axis]
    affine[:3, 3] = (11, -7, 3)
    return affine


@pytest.mark.parametrize("codes", CODES, ids="".join)
def test_every_orientation_agrees_with_nibabel_and_comes_back_exactly(codes):
    array = np.arange(2 * 3 * 4).reshape(2, 3, 4)
    affine = _affine(codes)
    orientation = Orientation.of(array.shape, affine)
    canonical = orientation.to_canonical(array)
    transform = ornt_transform(nib.io_orientation(affine), axcodes2ornt(("L", "P", "S")))
    expected = nib.orientations.apply_orientation(array, transform)
    assert np.array_equal(canonical, expected.transpose(2, 1, 0))
    assert np.allclose(orientation.grid.affine, affine @ inv_ornt_aff(transform, array.shape))
    assert aff2axcodes(orientation.grid.affine) == ("L", "P", "S")
    assert orientation.grid.shape == canonical.shape
    assert np.array_equal(orientation.to_native(canonical), array)


def test_there_are_48_orientations():
    assert len(set(CODES)) == 48


@given(st.lists(st.floats(-0.4, 0.4), min_size=3, max_size=3), st.sampled_from(CODES))
def test_oblique_affines_keep_every_voxel_in_its_place(angles, codes):
    affine = _affine(codes)
    for axis, angle in enumerate(angles):
        turn = np.eye(4)
        first, second = [a for a in range(3) if a != axis]
        turn[first, first] = turn[second, second] = np.cos(angle)
        turn[first, second], turn[second, first] = -np.sin(angle), np.sin(angle)
        affine = turn @ affine
    array = np.arange(2 * 3 * 4).reshape(2, 3, 4)
    orientation = Orientation.of(array.shape, affine)
    canonical = orientation.to_canonical(array)
    for i, j, k in np.ndindex(*array.shape):
        z, y, x = np.argwhere(canonical == array[i, j, k])[0]
        assert np.allclose(affine @ (i, j, k, 1), orientation.grid.affine @ (x, y, z, 1))


@pytest.mark.parametrize(
    ("affine", "words"),
    [
        (np.diag([1, 0, 1, 1.0]), "zero"),
        (np.diag([1, 1, 0.0007, 1.0]), r"implausible.*0\.0007"),
        (np.diag([1, 1500, 1, 1.0]), r"implausible.*1500.*0\.01 to 1000 mm"),
        (np.diag([1, np.nan, 1, 1.0]), "finite"),
        (np.array([[1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]), "singular"),
    ],
)
def test_impossible_affines_are_refused(affine, words):
    with pytest.raises(GeometryError, match=words):
        check_affine(affine)


@pytest.mark.parametrize("size", [0.01, 999, 1000])
def test_the_spacing_of_a_missing_axis_is_plausible(size):
    check_affine(np.diag([1, 1, size, 1.0]))


@pytest.mark.parametrize(
    ("step", "words"),
    [
        (Resample(spacing_mm=(1.0, 1.0, 1.0)), r"\(2, 4, 4\) to \(2000, 4000, 4000\)"),
        (Resize(shape=(2, 40_000, 40_000), mode="linear"), r"\(2, 4, 4\) to \(2, 40000, 40000\)"),
    ],
)
def test_resampling_to_too_many_voxels_is_refused_before_it_is_done(step, words):
    state = steps.State(np.zeros((1, 2, 4, 4), np.int16), None, (1000.0, 1000.0, 1000.0))
    with pytest.raises(DataError, match=words):
        steps.apply_step(step, state)


def test_grid_figures():
    grid = Grid((4, 5, 6), canonical_affine((2.5, 0.5, 0.4)))
    assert np.allclose(grid.spacing_mm, (2.5, 0.5, 0.4))
    assert grid.voxel_volume_mm3 == pytest.approx(0.5)
    moved = Grid((4, 5, 6), canonical_affine((2.5, 0.5, 0.4), (0, 3, 4)))
    assert grid.corner_distance_mm(moved) == pytest.approx(5)
