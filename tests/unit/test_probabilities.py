"""Saved probabilities: right within half a level on the native grid, whole on disk; and their mean."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit, softmax
from skimage.transform import resize

from siccs_net.errors import MissingPathError, StoreError, UsageError
from siccs_net.geometry import Orientation, canonical_affine
from siccs_net.io.image import read_label, write_label
from siccs_net.io.probabilities import (
    cases_with_probabilities,
    open_probabilities,
    probabilities_path,
    save_probabilities,
)
from siccs_net.pipeline.ensemble import ensemble_folders
from siccs_net.preprocessing.preprocess import restore_to_native
from siccs_net.preprocessing.probabilities import most_probable, native_levels
from siccs_net.records.case import CaseGeometry
from siccs_net.records.dataset import LabelScheme
from siccs_net.records.postprocessing import MinimumVolume

LABELS = LabelScheme(plain={"background": 0, "lung": 2, "EF": 7}, groups={"all": (2, 7)})
SHAPE = (5, 12, 10)
GEOMETRY = CaseGeometry(
    canonical_spacing_mm=(1.0, 1.0, 1.0),
    oriented_shape=(12, 5, 10),
    crop_box=((1, 11), (0, 5), (2, 9)),
    prepared_shape=(6, 4, 5),
    transpose=(1, 0, 2),
)


def orientation():
    z, y, x = SHAPE
    return Orientation.of((x, y, z), canonical_affine((1.0, 1.0, 1.0)))


def logits(seed=0):
    return np.random.default_rng(seed).normal(0, 3, (3, 6, 4, 5)).astype(np.float32)


def test_levels_are_the_softmax_of_resized_logits_on_the_native_grid():
    """Against scikit-image's resize and scipy's softmax; outside the crop everything is background."""
    found = logits()
    levels = native_levels([(0, found[:, :4]), (4, found[:, 4:])], GEOMETRY, LABELS, orientation())
    assert (levels.shape, levels.dtype) == ((3, *SHAPE), np.uint8)
    resized = [resize(channel, (10, 5, 7), order=1, mode="edge", anti_aliasing=False) for channel in found]
    wanted = np.zeros((3, 12, 5, 10))
    wanted[0] = 1
    wanted[:, 1:11, :, 2:9] = softmax(resized, axis=0)
    assert np.abs(levels / 255 - wanted.transpose(0, 2, 1, 3)).max() <= 0.5 / 255 + 1e-5


def test_the_mask_is_the_most_probable_class_wherever_levels_can_tell():
    found = logits(1)
    levels = native_levels([(0, found)], GEOMETRY, LABELS, orientation()).astype(int)
    mask = restore_to_native(iter([(0, found)]), GEOMETRY, LABELS, orientation())
    two = np.sort(levels, axis=0)[-2:]
    clear = two[1] > two[0]
    assert clear.mean() > 0.9
    assert np.array_equal(np.array([0, 2, 7])[levels.argmax(0)][clear], mask[clear])


REGIONS = LabelScheme(
    plain={"background": 0}, regions={"whole": (1, 2, 3), "inner": (2, 3), "core": (3,)}, regions_class_order=(1, 2, 3)
)


def test_regions_have_their_sigmoid_and_are_painted_in_their_order(tmp_path):
    found = logits(2)
    levels = native_levels([(0, found)], GEOMETRY, REGIONS, orientation())
    resized = np.stack([resize(channel, (10, 5, 7), order=1, mode="edge", anti_aliasing=False) for channel in found])
    wanted = np.zeros((3, 12, 5, 10))
    wanted[:, 1:11, :, 2:9] = expit(resized)
    wanted = wanted.transpose(0, 2, 1, 3)
    assert np.abs(levels / 255 - wanted).max() <= 0.5 / 255 + 1e-5
    mask = restore_to_native(iter([(0, found)]), GEOMETRY, REGIONS, orientation())
    clear = (np.abs(wanted - 0.5) > 1e-5).all(axis=0)
    assert np.array_equal(most_probable(levels / 255, REGIONS)[clear], mask[clear])
    for name in "ab":
        save(tmp_path / name, "x", levels, labels=REGIONS)
    assert ensemble_folders([tmp_path / "a", tmp_path / "b"], tmp_path / "out")[0].status == "written"
    assert np.array_equal(_mask(tmp_path, "x")[clear], mask[clear])


def save(folder, case, levels, *, place=None, labels=LABELS):
    """Save probabilities and the mask beside them."""
    place = place or orientation()
    save_probabilities(folder, case, levels, 255, labels, place, ("model",))
    write_label(folder / f"{case}.nii.gz", levels.argmax(0).astype(np.uint8), place)


def random_levels(seed):
    return np.rint(255 * softmax(np.random.default_rng(seed).normal(0, 2, (3, *SHAPE)), axis=0)).astype(np.uint8)


def test_what_is_saved_is_read_again(tmp_path):
    levels = random_levels(0)
    save(tmp_path, "a.b_1", levels)
    assert cases_with_probabilities(tmp_path) == ["a.b_1"]
    found = open_probabilities(tmp_path, "a.b_1")
    assert np.array_equal(found.array[:], levels)
    assert found.labels == LABELS
    assert np.array_equal(found.orientation.native_affine, orientation().native_affine)
    data = bytearray(probabilities_path(tmp_path, "a.b_1").read_bytes())
    data[-9] ^= 1
    probabilities_path(tmp_path, "a.b_1").write_bytes(data)
    with pytest.raises(StoreError, match="damaged"):
        open_probabilities(tmp_path, "a.b_1")
    with pytest.raises(MissingPathError):
        cases_with_probabilities(tmp_path / "absent")


def test_empty_air_costs_nothing(tmp_path):
    levels = np.zeros((3, 40, 128, 128), np.uint8)
    levels[0] = 255
    place = Orientation.of((128, 128, 40), canonical_affine((1.0, 1.0, 1.0)))
    save_probabilities(tmp_path, "x", levels, 255, LABELS, place, ())
    assert probabilities_path(tmp_path, "x").stat().st_size < levels.size / 1000


@pytest.mark.parametrize("weights", [None, (1.0, 3.0, 0.5)])
def test_the_ensemble_is_the_weighted_mean(tmp_path, weights):
    folders = [tmp_path / name for name in "abc"]
    members = {}
    for number, folder in enumerate(folders):
        for case in ("one", "two"):
            members[number, case] = random_levels(10 * number + (case == "two"))
            save(folder, case, members[number, case])
    done = ensemble_folders(folders, tmp_path / "out", weights=weights, keep_probabilities=True)
    assert [(item.case, item.status) for item in done] == [("one", "written"), ("two", "written")]
    for case in ("one", "two"):
        stack = np.stack([members[number, case] for number in range(3)]).astype(float) / 255
        mean = np.average(stack, axis=0, weights=weights)
        clear = np.diff(np.sort(mean, axis=0)[-2:], axis=0)[0] > 1e-6
        mask = read_label(tmp_path / "out" / f"{case}.nii.gz").array[0]
        assert np.array_equal(mask[clear], np.array([0, 2, 7])[mean.argmax(0)][clear])
        kept = open_probabilities(tmp_path / "out", case)
        assert np.abs(kept.array[:] / 255 - mean).max() <= 0.5 / 255 + 1e-6
    assert done[0].record.volumes_ml["all"] == pytest.approx(np.count_nonzero(_mask(tmp_path, "one")) / 1000)
    again = ensemble_folders(folders, tmp_path / "out", weights=weights)
    assert {item.status for item in again} == {"kept"}
    other = ensemble_folders(folders, tmp_path / "out", weights=weights, postprocessing=[_STEP])
    assert {item.status for item in other} == {"refused"}
    other = ensemble_folders(folders, tmp_path / "out", weights=weights, postprocessing=[_STEP], overwrite=True)
    assert other[0].record.postprocessing == (_STEP,)
    assert not (_mask(tmp_path, "one") == 7).any()


_STEP = MinimumVolume(label=7, minimum_mm3=1e6)


def _mask(tmp_path, case):
    return read_label(tmp_path / "out" / f"{case}.nii.gz").array[0]


def test_cases_that_do_not_fit_are_refused_and_named(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    for case in ("good", "lost", "moved", "meant"):
        save(one, case, random_levels(1))
    save(two, "good", random_levels(2))
    z, y, x = SHAPE
    moved = Orientation.of((x, y, z), canonical_affine((1.0, 1.0, 1.0), (5.0, 0.0, 0.0)))
    save(two, "moved", random_levels(2), place=moved)
    save(two, "meant", random_levels(2), labels=LabelScheme(plain={"background": 0, "lung": 2, "GGO": 7}))
    save(two, "extra", random_levels(2))
    done = {item.case: item for item in ensemble_folders([one, two], tmp_path / "out")}
    assert {case for case, item in done.items() if item.status == "written"} == {"good"}
    assert "two" in str(done["lost"].error)
    assert "no probabilities" in str(done["lost"].error)
    assert "one" in str(done["extra"].error)
    assert "elsewhere in space" in str(done["moved"].error)
    assert "other classes" in str(done["meant"].error)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["good.json", "good.nii.gz"]


def test_what_cannot_be_an_ensemble_is_refused_before_any_work(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    save(one, "x", random_levels(1))
    two.mkdir()
    with pytest.raises(MissingPathError, match=r"two: the folder holds no saved probabilities"):
        ensemble_folders([one, two], tmp_path / "out")
    save(two, "x", random_levels(2))
    for folders, output, weights in (
        ([one], "out", None),
        ([one, one], "out", None),
        ([one, two], "two", None),
        ([one, two], "out", [1.0]),
        ([one, two], "out", [1.0, -1.0]),
        ([one, two], "out", [0.0, 0.0]),
        ([one, two], "out", [float("nan"), 1.0]),
    ):
        with pytest.raises(UsageError):
            ensemble_folders(folders, tmp_path / output, weights=weights)
    assert not (tmp_path / "out").exists()
