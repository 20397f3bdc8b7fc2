"""Samples as a pure function of their counters; boxes read inside arrays; transforms drawn before reading."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from siccs_net.augment.intensity import (
    Contrast,
    Foreign,
    Gamma,
    GaussianNoise,
    GaussianSmoothing,
    IntensityScale,
    apply_transforms,
    intensity_transforms,
)
from siccs_net.augment.settings import NONE, PAPER, AugmentationSettings
from siccs_net.augment.spatial import draw_spatial
from siccs_net.data.foreground import ForegroundIndex
from siccs_net.data.sampling import PatchSampler, class_weights, fixed_places, read_box
from siccs_net.data.streams import stream
from siccs_net.errors import DatasetError, UsageError
from siccs_net.io.locations import read_locations, write_locations

SHAPE = (10, 30, 40)


class _Store:
    """Locations of label maps that case 'empty' has none in, the others a voxel of each of some classes."""

    def __init__(self, folder, places):
        self.folder, self.places = folder, places

    def locations(self, case):
        array = np.zeros(SHAPE, np.uint8)
        for value, place in self.places[case].items():
            array[place] = value
        write_locations(self.folder / case, array, "0" * 64)
        return read_locations(self.folder / case, "0" * 64)


@pytest.fixture
def index(tmp_path):
    places = {"a": {1: (0, 0, 0), 2: (9, 29, 39)}, "b": {2: (5, 10, 20)}, "empty": {}}
    return ForegroundIndex(_Store(tmp_path, places), ["a", "b", "empty"], 3)


def _sampler(index, **changes):
    values = {"cases": ("a", "b", "empty"), "patch_size": (4, 8, 8), "foreground_fraction": 0.5, "seed": 1, "fold": "0"}
    return PatchSampler(index, **{**values, **changes})


def test_a_sample_depends_on_nothing_but_its_counters(index):
    first = [
        _sampler(index).place(e, i, s, iterations=5, batch_size=2) for e in range(3) for i in range(5) for s in (0, 1)
    ]
    shuffled = _sampler(index)
    again = [
        shuffled.place(e, i, s, iterations=5, batch_size=2)
        for e, i, s in reversed([(e, i, s) for e in range(3) for i in range(5) for s in (0, 1)])
    ]
    assert first == again[::-1]
    other = [_sampler(index, fold="1").place(0, i, 0, iterations=5, batch_size=2) for i in range(5)]
    assert other != first[:10:2]


def test_cases_are_seen_equally_often_and_foreground_as_asked(index):
    sampler = _sampler(index, foreground_fraction=1.0)
    places = [sampler.place(0, number, 0, iterations=600, batch_size=1) for number in range(600)]
    assert set(Counter(place.case for place in places).values()) == {200}
    centres = Counter(place.centre for place in places if place.case == "a")
    assert set(centres) == {(0, 0, 0), (9, 29, 39)}
    assert min(centres.values()) > 60  # classes equally often
    never = _sampler(index, foreground_fraction=0.0)
    anywhere = {never.place(0, number, 0, iterations=600, batch_size=1).centre for number in range(600)}
    assert len(anywhere) > 300


def test_validation_places_are_fixed_and_use_every_case(index):
    places = fixed_places(index, ["a", "b", "empty"], count=6, seed=0, fold="0")
    assert places == fixed_places(index, ["a", "b", "empty"], count=6, seed=0, fold="0")
    assert Counter(place.case for place in places) == {"a": 2, "b": 2, "empty": 2}
    assert {place.centre for place in places if place.case == "a"} == {(0, 0, 0), (9, 29, 39)}
    assert len(fixed_places(index, ["a", "b", "empty"], count=1, seed=0, fold="0")) == 3
    with pytest.raises(DatasetError, match="no validation case"):
        fixed_places(index, [], count=3, seed=0, fold="0")


@given(
    st.tuples(*[st.integers(1, 9)] * 2),
    st.tuples(*[st.integers(1, 12)] * 2),
    st.tuples(*[st.integers(-3, 12)] * 2),
)
def test_boxes_are_the_padded_array(shape, size, centre):
    array = np.arange(1, 1 + shape[0] * shape[1]).reshape(shape)
    padded = np.pad(array, 40)
    free = read_box(array, centre, size, fill=0, clamp=False)
    start = [c - s // 2 + 40 for c, s in zip(centre, size, strict=True)]
    assert np.array_equal(free, padded[start[0] : start[0] + size[0], start[1] : start[1] + size[1]])
    held = read_box(array, centre, size, fill=0, clamp=True)
    assert held.shape == size
    assert np.count_nonzero(held) == np.prod([min(n, s) for n, s in zip(shape, size, strict=True)])


def test_read_box_keeps_leading_axes():
    array = np.ones((2, 3, 4), np.float32)
    assert read_box(array, (0, 0), (5, 5), fill=-1, clamp=True).shape == (2, 5, 5)


@pytest.mark.parametrize("dimension", [2, 3])
def test_the_identity_is_a_plain_crop(dimension):
    rng = np.random.default_rng(0)
    spatial = draw_spatial(NONE, (), (1.0,) * dimension, rng)
    assert spatial.matrix is None
    assert spatial.footprint((4, 5, 6)[:dimension]) == (4, 5, 6)[:dimension]


def test_rotation_keeps_a_ball_round_in_millimetres_and_the_footprint_is_enough():
    spacing = (2.0, 1.0, 1.0)
    settings = AugmentationSettings(rotation_probability=1.0, rotation_degrees=180, scaling_probability=0.0)
    patch = (16, 32, 32)
    for seed in range(5):
        spatial = draw_spatial(settings, (), spacing, np.random.default_rng(seed))
        size = spatial.footprint(patch)
        grid = np.stack(np.meshgrid(*[np.arange(n) - (n - 1) / 2 for n in size], indexing="ij"), -1)
        distance = np.linalg.norm(grid * spacing, axis=-1).astype(np.float32)
        image, label = spatial.apply(distance[None] + 1, (distance < 10).astype(np.uint8), patch)
        here = np.stack(np.meshgrid(*[np.arange(n) - (n - 1) / 2 for n in patch], indexing="ij"), -1)
        expected = np.linalg.norm(here * spacing, axis=-1)
        assert np.abs(image[0] - 1 - expected).max() < 0.6  # linear interpolation of a cone
        assert image.min() > 0.3  # nothing from outside the footprint
        assert abs(int(label.sum()) - int((expected < 10).sum())) < 0.06 * (expected < 10).sum()


def test_mirroring_flips_image_and_label_alike():
    settings = NONE
    for seed in range(20):
        spatial = draw_spatial(settings, (1, 2), (1, 1, 1), np.random.default_rng(seed))
        array = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
        image, label = spatial.apply(array[None], array.astype(np.uint8), (2, 3, 4))
        assert np.array_equal(image[0].astype(np.uint8), label)
        assert np.array_equal(image[0], np.flip(array, spatial.mirror))


SAMPLE = np.random.default_rng(3).normal(size=(2, 6, 7, 8)).astype(np.float32)


def test_transforms_do_what_they_say():
    assert np.allclose(IntensityScale(1, (2, 2)).apply(SAMPLE, 2.0), SAMPLE * 2)
    noisy = GaussianNoise(1, (0.5, 0.5)).apply(np.zeros((1, 40, 40, 40), np.float32), (0.5, 7))
    assert abs(noisy.std() - 0.5) < 0.01
    assert abs(noisy.mean()) < 0.01
    smooth = GaussianSmoothing(1, (1, 1)).apply(SAMPLE, (0.5, 1.0, 1.5))
    assert np.allclose(smooth[1], gaussian_filter(SAMPLE[1], (0.5, 1.0, 1.5)), atol=1e-6)
    contrast = Contrast(1, (0.5, 0.5)).apply(SAMPLE, 0.5)
    assert np.allclose(contrast.std((1, 2, 3)), SAMPLE.std((1, 2, 3)) / 2, rtol=1e-4)
    low, high = SAMPLE[0].min(), SAMPLE[0].max()
    gamma = Gamma(1, (2, 2)).apply(SAMPLE, 2.0)
    assert np.allclose(gamma[0], ((SAMPLE[0] - low) / (high - low)) ** 2 * (high - low) + low, atol=1e-5)


def test_the_papers_four_transforms():
    names = [type(transform).__name__ for transform in intensity_transforms(PAPER)]
    assert sorted(names) == ["Gamma", "GaussianNoise", "GaussianSmoothing", "IntensityScale"]
    assert intensity_transforms(NONE) == []


def test_samples_are_equal_for_equal_streams_and_foreign_transforms_leave_no_trace():
    class Foreigner:
        def __call__(self, **data):
            return {**data, "data": data["data"] + np.random.normal()}

    transforms = [*intensity_transforms(AugmentationSettings(noise_probability=1, gamma_probability=1)), Foreigner()]
    label = np.zeros(SAMPLE.shape[1:], np.uint8)
    np.random.seed(5)
    before = np.random.get_state()[1].copy()
    one, _ = apply_transforms(transforms, SAMPLE.copy(), label, stream(0, "0", "augment", 1))
    two, _ = apply_transforms(transforms, SAMPLE.copy(), label, stream(0, "0", "augment", 1))
    other, _ = apply_transforms(transforms, SAMPLE.copy(), label, stream(0, "0", "augment", 2))
    assert np.array_equal(one, two)
    assert not np.array_equal(one, other)
    assert np.array_equal(before, np.random.get_state()[1])


def test_batchgenerators_own_transforms_run():
    from batchgenerators.transforms.noise_transforms import GaussianNoiseTransform

    label = np.zeros(SAMPLE.shape[1:], np.uint8)
    noisy, _ = apply_transforms(
        [GaussianNoiseTransform(noise_variance=(0.1, 0.1)), Foreign(GaussianNoiseTransform((0.1, 0.1)))],
        SAMPLE.copy(),
        label,
        stream(0, "0", "augment", 1),
    )
    assert noisy.shape == SAMPLE.shape
    assert not np.allclose(noisy, SAMPLE)


class _Sparse:
    """Case 'sliced' is labelled in slices 2 and 7 (classes 0, 1, 2), 'blank' nowhere, 'bare' with background alone."""

    def __init__(self, folder):
        self.folder = folder

    def label(self, case):
        array = np.full(SHAPE, 255, np.uint8)
        if case == "sliced":
            array[[2, 7]] = 0
            array[2, 5:9, 5:9] = 1
            array[7, 3, 4] = 2
        if case == "bare":
            array[4] = 0
        return array

    def locations(self, case):
        write_locations(self.folder / case, self.label(case), "0" * 64)
        return read_locations(self.folder / case, "0" * 64)


def test_patches_show_labelled_voxels_where_a_case_is_labelled_in_part(tmp_path):
    index = ForegroundIndex(_Sparse(tmp_path), ["sliced", "blank", "bare"], 3)
    assert index.present("sliced") == [1, 2]
    assert index.present("bare") == []
    for patch in ((4, 8, 8), (1, 30, 40), (8, 8)):
        sampler = _sampler(index, cases=("sliced", "bare"), foreground_fraction=0.3, patch_size=patch)
        places = [sampler.place(0, number, 0, iterations=300, batch_size=1) for number in range(300)]
        for place in places:
            size = (1,) * (3 - len(patch)) + patch
            label = read_box(_Sparse(tmp_path).label(place.case), place.centre, size, fill=255, clamp=True)
            assert (label != 255).any()
        assert len({place.centre for place in places}) > (1 if patch == (1, 30, 40) else 100)
    whole = _sampler(index, cases=("sliced",), foreground_fraction=0.0, patch_size=SHAPE)
    assert whole.place(0, 0, 0, iterations=9, batch_size=1).centre == (5, 15, 20)  # a whole volume stays where it is
    assert _sampler(index, cases=("blank",)).place(0, 0, 0, iterations=9, batch_size=1).case == "blank"
    assert {place.centre[0] for place in fixed_places(index, ["bare"], count=5, seed=0, fold="0")} == {4}


def test_foreground_is_drawn_region_by_region(tmp_path):
    """Regions 1 (all) and 2 (core): half of the draws are from the core's single voxel, and more of the rest may be."""
    index = ForegroundIndex(_Sparse(tmp_path), ["sliced", "bare"], 3, regions=((1, 2), (2,), (3,)))
    assert index.present("sliced") == [1, 2]
    assert index.count("sliced", 1) == 17
    rng = np.random.default_rng(0)
    drawn = Counter(index.draw("sliced", rng)[0] for _ in range(400))
    assert set(drawn) == {2, 7}
    assert 170 < drawn[7] < 250


def test_classes_are_centres_as_often_as_weighted(index):
    weights = class_weights({"two": 3}, ["background", "one", "two"], {})
    assert weights == {1: 1.0, 2: 3.0}
    sampler = _sampler(index, cases=("a",), foreground_fraction=1.0, class_weights=weights)
    centres = Counter(sampler.place(0, number, 0, iterations=400, batch_size=1).centre for number in range(400))
    assert 260 < centres[(9, 29, 39)] < 340
    rare = class_weights("inverse_frequency", ["background", "one", "two"], {1: 900, 2: 100})
    assert rare[2] / rare[1] == pytest.approx(9)
    assert class_weights("uniform", ["background", "one"], {}) is None
    never = _sampler(index, cases=("b",), foreground_fraction=1.0, class_weights={1: 1.0, 2: 0.0})
    assert len({never.place(0, number, 0, iterations=50, batch_size=1).centre for number in range(50)}) > 10
    with pytest.raises(UsageError, match="names no label; found three; expected one, two"):
        class_weights({"three": 1}, ["background", "one", "two"], {})
    with pytest.raises(UsageError, match="not all 0"):
        class_weights({"one": 0, "two": 0}, ["background", "one", "two"], {})


def test_validation_places_are_balanced_over_the_classes(tmp_path):
    places = {f"case{number}": {1: (0, 0, 0), 2: (1, 1, 1)} for number in range(6)}
    places["case0"][3] = (2, 2, 2)
    index = ForegroundIndex(_Store(tmp_path, places), sorted(places), 4)
    found = Counter(place.centre for place in fixed_places(index, sorted(places), count=6, seed=0, fold="0"))
    assert found == {(2, 2, 2): 1, (0, 0, 0): 3, (1, 1, 1): 2}
