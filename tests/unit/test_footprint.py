"""The transform is drawn before anything is read, and then only its footprint: voxels counted as they are asked for."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import affine_transform, map_coordinates

from siccs_net.augment.interpolation import sample, sample_linear, sample_nearest
from siccs_net.augment.settings import AugmentationSettings
from siccs_net.augment.spatial import SpatialParameters, draw_spatial
from siccs_net.data.loader import PatchReader, TrainingBatches
from siccs_net.data.sampling import PatchSampler, Place, held_centre
from siccs_net.records.statistics import ChannelScaling, Normalisation

SHAPE, PATCH, SPACING = (40, 90, 90), (16, 32, 32), (2.0, 1.0, 1.0)
ALL = AugmentationSettings(rotation_probability=1, scaling_probability=1, rotation_degrees=30, scale=(0.7, 1.4))


class _Counted:
    """An array that notes how many voxels each of its slices has."""

    def __init__(self, array, counts):
        self.array, self.shape, self.counts = array, array.shape, counts

    def __getitem__(self, key):
        part = self.array[key]
        self.counts.append(math.prod(part.shape[-3:]))
        return part


class _Store:
    def __init__(self, shape=SHAPE):
        rng = np.random.default_rng(0)
        self.images = rng.integers(-1000, 500, (1, *shape)).astype(np.int16)
        self.labels = rng.integers(0, 4, shape).astype(np.uint8)
        self.read_image, self.read_label = [], []

    def image(self, case):
        return _Counted(self.images, self.read_image)

    def label(self, case):
        return _Counted(self.labels, self.read_label)


class _Reader(PatchReader):
    def _normalisation(self, case):
        return self.normalisation


class _Anywhere(PatchSampler):
    def place(self, epoch, iteration, sample, *, iterations, batch_size):
        rng = np.random.default_rng(iteration)
        return Place("a", tuple(int(rng.integers(size)) for size in self.index))


def _batches(store, settings, patch=PATCH, count=60):
    scaling = ChannelScaling(scheme="none")
    return TrainingBatches(
        reader=_Reader(store, Normalisation(channels=(scaling,)), patch),
        sampler=_Anywhere(store.labels.shape, ("a",), patch, 0.0, seed=0, fold="0"),
        settings=settings,
        transforms=(),
        mirror_axes=(0, 1, 2)[: len(patch)],
        spacing_mm=SPACING[-len(patch) :],
        batch_size=1,
        iterations=count,
    )


@pytest.mark.parametrize("patch", [PATCH, (32, 32)])
def test_a_sample_that_is_not_turned_reads_just_its_patch(patch):
    store = _Store()
    batches = _batches(store, AugmentationSettings(rotation_probability=0, scaling_probability=0), patch)
    for number in range(60):
        assert batches[0, number].images.shape == (1, 1, *patch)
    assert store.read_image == [math.prod(patch)] * 60
    assert store.read_label == [math.prod(patch)] * 60


def test_most_samples_are_not_turned_and_all_read_far_less_than_the_largest_rotation_needs():
    """nnU-Net reads 4.4 times such a patch for every sample: the box of the largest rotation and scale."""
    store = _Store((70, 120, 120))
    batches = _batches(store, AugmentationSettings(rotation_degrees=30, scale=(0.7, 1.4)), count=400)
    for number in range(400):
        batches[0, number]
    ratio = np.array(store.read_image) / math.prod(PATCH)
    assert 0.55 < np.mean(ratio == 1) < 0.73  # 0.8 * 0.8 are neither rotated nor scaled
    assert ratio.mean() < 1.5


def _sources(spatial, patch):
    """Offsets from the patch's centre to the source of each of its voxels, [axis, *patch]."""
    grid = np.stack(np.meshgrid(*[np.arange(n) - (n - 1) / 2 for n in patch], indexing="ij"))
    return np.tensordot(spatial.matrix, grid, 1)


@pytest.mark.parametrize("patch", [PATCH, (15, 31, 32), (1, 9, 9), (20, 21)])
def test_the_footprint_holds_every_source_and_is_the_smallest_box_that_does(patch):
    for seed in range(40):
        spatial = draw_spatial(ALL, (), SPACING[-len(patch) :], np.random.default_rng(seed))
        size = spatial.footprint(patch)
        reach = np.abs(_sources(spatial, patch)).reshape(len(patch), -1).max(1)
        for edge, own, far in zip(size, patch, reach, strict=True):
            assert far <= (edge - 1) / 2 + 2e-6  # interpolation between the two voxels about each source
            assert far > (edge - 3) / 2
            assert edge % 2 == own % 2


@pytest.mark.parametrize("patch", [PATCH, (15, 31, 32), (33, 32)])
def test_what_is_made_of_the_footprint_is_what_the_whole_case_would_give(patch):
    """Every sample against an interpolation of the whole padded scan, at borders of the case too."""
    store = _Store()
    batches = _batches(store, ALL, patch)
    offsets = [90] * 3
    image = np.pad(store.images[0].astype(np.float32), 90)
    label = np.pad(store.labels, 90)
    for number in range(20):
        batch = batches[0, number]
        rng_free = _spatial_of(batches, number)
        space = (1,) * (3 - len(patch)) + patch
        centre = held_centre(batches.sampler.place(0, number, 0, iterations=1, batch_size=1).centre, space, SHAPE)
        middle = [c - p // 2 + (p - 1) / 2 + o for c, p, o in zip(centre, space, offsets, strict=True)]
        sources = _sources(rng_free, patch)
        lead = 3 - len(patch)
        places = [np.full(patch, middle[axis]) for axis in range(lead)]
        places += [middle[lead + axis] + source for axis, source in enumerate(sources)]
        expected = np.flip(map_coordinates(image, places, order=1), rng_free.mirror)
        assert np.abs(batch.images[0, 0].numpy() - expected).max() < 0.05  # of 1500 HU: rounding of positions
        nearest = np.flip(map_coordinates(label, places, order=0), rng_free.mirror)
        assert np.mean(batch.labels[0].numpy() != nearest) < 1e-3  # ties between two voxels


def _spatial_of(batches, number) -> SpatialParameters:
    from siccs_net.data.streams import stream

    rng = stream(batches.sampler.seed, batches.sampler.fold, "augment", 0, number, 0)
    return draw_spatial(batches.settings, batches.mirror_axes, batches.spacing_mm, rng)


def test_turned_in_plane_no_further_slice_is_read():
    for spacing in ((5.0, 1.0, 1.0), (1.0, 1.0)):
        spatial = draw_spatial(
            AugmentationSettings(rotation_probability=1, scaling_probability=0), (), spacing, np.random.default_rng(4)
        )
        patch = (20, 64, 64)[-len(spacing) :]
        assert spatial.footprint(patch)[:-2] == patch[:-2]
        assert spatial.footprint(patch)[-1] > patch[-1]


@given(
    st.sampled_from([2, 3]),
    st.lists(st.integers(1, 12), min_size=6, max_size=6),
    st.lists(st.floats(-2, 2), min_size=9, max_size=9),
    st.integers(0, 9),
)
def test_interpolation_equals_scipys(dimension, sizes, numbers, seed):
    """Inside and at the border, any affine map; the nearest voxel where no other is as near."""
    shape, patch = tuple(sizes[:dimension]), tuple(sizes[3 : 3 + dimension])
    matrix = np.array(numbers[: dimension**2]).reshape(dimension, dimension)
    rng = np.random.default_rng(seed)
    image = rng.normal(size=shape).astype(np.float32)
    label = rng.integers(0, 200, shape).astype(np.uint8)
    offset = (np.array(shape) - 1) / 2 - matrix @ ((np.array(patch) - 1) / 2)
    common = {"output_shape": patch, "mode": "nearest", "prefilter": False}
    expected = affine_transform(image.astype(np.float64), matrix, offset, order=1, **common)
    assert np.abs(sample_linear(image, matrix, patch) - expected).max() < 1e-4
    nearest = affine_transform(label, matrix, offset, order=0, **common)
    grid = np.stack(np.meshgrid(*[np.arange(n) for n in patch], indexing="ij"))
    places = np.tensordot(matrix, grid, 1) + offset.reshape(-1, *[1] * dimension)
    clear = (np.abs(places % 1 - 0.5) > 1e-4).all(axis=0)
    ours = sample_nearest(label, matrix, patch)
    assert ours.dtype == label.dtype
    assert np.array_equal(ours[clear], nearest[clear])


def test_views_are_interpolated_as_copies():
    view = np.random.default_rng(0).normal(size=(9, 8, 7)).astype(np.float32).transpose(2, 0, 1)[::-1]
    matrix = np.eye(3) * 0.9
    copy = np.ascontiguousarray(view)
    assert np.array_equal(sample_linear(view, matrix, (5, 6, 7)), sample_linear(copy, matrix, (5, 6, 7)))
    assert np.array_equal(sample_nearest(view, matrix, (5, 6, 7)), sample_nearest(copy, matrix, (5, 6, 7)))


@pytest.mark.parametrize("turned", [True, False])
def test_arrays_that_share_their_places_are_interpolated_as_alone(turned):
    rng = np.random.default_rng(0)
    matrix = np.diag([0.8, 1.1, 0.9])
    if turned:
        matrix[0, 1] = 0.2
    images = [rng.normal(size=(9, 60, 70)).astype(np.float32) for _ in range(2)]
    label = rng.integers(0, 5, (9, 60, 70)).astype(np.uint8)
    drawn, (named,) = sample(images, [label], matrix, (8, 70, 61))
    for image, patch in zip(images, drawn, strict=True):
        assert np.array_equal(patch, sample_linear(image, matrix, (8, 70, 61)))
    assert np.array_equal(named, sample_nearest(label, matrix, (8, 70, 61)))


def test_a_turned_patch_lies_inside_its_case_as_a_plain_one_does():
    """A patch as large as the case is the case, wherever its centre was drawn."""
    whole = SpatialParameters(np.eye(3) * (1 - 1e-9), ())
    store = _Store()
    reader = _batches(store, ALL, SHAPE).reader
    for centre in itertools.product((0, 39), (0, 89), (0, 45)):
        image, label = reader.read(Place("a", centre), whole.footprint(SHAPE), clamp=True)
        image, label = whole.apply(image, label, SHAPE)
        assert np.abs(image - store.images).max() < 0.1
        assert np.array_equal(label, store.labels)
