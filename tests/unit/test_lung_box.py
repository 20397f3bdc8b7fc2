"""The lungs' box: found in bodies with two lungs and in no other, and what planning decides by it."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from siccs_net.io.dataset import open_dataset
from siccs_net.pipeline.plan import plan
from siccs_net.planners.skipping import MOST_BEYOND_MM, decide_skipping
from siccs_net.preprocessing.lung_box import beyond_box_mm, lung_box
from siccs_net.records.fingerprint import Fingerprint
from siccs_net.records.plan import Clahe
from siccs_net.testing.tiny import make_tiny_case, write_tiny_dataset
from siccs_net.workspace import Workspace

SPACING = (10.0, 8.0, 8.0)
FINE = (1.25, 1.5, 1.5)


def _span(mask):
    places = [np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis))) for axis in range(3)]
    return tuple((int(found[0]), int(found[-1]) + 1) for found in places)


def _finer(spacing=SPACING):
    """A tiny case with every voxel repeated, so that the coarse copy skips some."""
    image, label = make_tiny_case(1)
    for axis, (old, new) in enumerate(zip(spacing, FINE, strict=True)):
        image, label = (np.repeat(array, round(old / new), axis=axis) for array in (image, label))
    return image, label


@pytest.mark.parametrize("margin", [0.0, 8.0])
def test_the_box_holds_both_lungs_and_little_more(margin):
    for image, label, spacing in ((*make_tiny_case(1), SPACING), (*_finer(), FINE)):
        lungs = _span(label > 0)
        found = lung_box(image, spacing, margin_mm=margin)
        for (start, end), (first, last), size, width in zip(found, lungs, image.shape, spacing, strict=True):
            assert max(first - margin / width, 0) >= start >= max(first - margin / width - 4 / width - 1, 0)
            assert min(last + margin / width, size) <= end <= min(last + margin / width + 4 / width + 1, size)


def test_consolidation_that_leaves_one_lung_without_air_is_no_pair_of_lungs():
    image, label = make_tiny_case(1)
    right = (label > 0) & (np.arange(48) < 24)
    assert lung_box(image, SPACING) is not None
    assert lung_box(np.where(right, np.int16(30), image), SPACING) is None


@pytest.mark.parametrize("change", ["no air", "a few slices", "cut at the side", "air that reaches the side"])
def test_where_no_pair_of_lungs_is_seen_there_is_no_box(change):
    image, label = make_tiny_case(1)
    if change == "no air":
        image = np.where(label > 0, np.int16(-200), image)
    elif change == "a few slices":
        image = image[7:8]
    elif change == "cut at the side":
        image = image[:, :, 15:]
    else:
        image = image.copy()
        image[8, 20, :15] = -1000
    assert lung_box(image, SPACING) is None


def test_lungs_that_the_scan_cuts_above_and_below_are_found():
    image, label = make_tiny_case(1)
    found = lung_box(image[4:12], SPACING, margin_mm=0)
    assert found[0] == (0, 8)
    assert found[1:] == _span(label[4:12] > 0)[1:]


def test_how_far_a_mask_reaches_beyond_a_box():
    mask = np.zeros((10, 10, 10), bool)
    mask[3:5, 4, 9] = True
    assert beyond_box_mm(mask, ((3, 5), (4, 5), (9, 10)), (5, 2, 3)) == 0
    assert beyond_box_mm(mask, ((4, 6), (4, 6), (2, 10)), (5, 2, 3)) == 5
    assert beyond_box_mm(mask, ((3, 5), (4, 6), (0, 5)), (5, 2, 3)) == 15
    assert beyond_box_mm(mask & False, ((4, 6), (4, 6), (2, 10)), (5, 2, 3)) == 0


def _planned(root, spacing, **settings):
    workspace = Workspace.resolve(root)
    raw = write_tiny_dataset(workspace.raw[0] / "Dataset999_Tiny", cases=4, spacing_mm=spacing)
    made = plan(open_dataset(raw), folds=2, workspace=workspace, **settings)
    folder = workspace.prepared_dataset("Dataset999_Tiny")
    return made, Fingerprint.from_json(folder.fingerprint.read_text(), path=folder.fingerprint)


def test_planning_decides_by_the_training_cases(tmp_path):
    made, fingerprint = _planned(tmp_path / "large", SPACING, preset="demo")
    assert made.configurations["3d_fullres"].inference.skip_outside == "lung"
    assert made.provenance["configurations.3d_fullres.inference.skip_outside"] == "measured"
    assert all(case.beyond_lungs_mm == 0 for case in fingerprint.cases)
    small, unseen = _planned(tmp_path / "small", (5.0, 4.0, 4.0), preset="demo")
    assert small.configurations["3d_fullres"].inference.skip_outside is None
    assert {case.beyond_lungs_mm for case in unseen.cases} == {None}


def test_one_case_with_foreground_elsewhere_or_without_lungs_decides_against(tmp_path):
    _, fingerprint = _planned(tmp_path, SPACING)
    assert decide_skipping(fingerprint) == "lung"
    for distance in (MOST_BEYOND_MM + 0.1, None):
        other = fingerprint.cases[1].model_copy(update={"beyond_lungs_mm": distance})
        changed = fingerprint.model_copy(update={"cases": (fingerprint.cases[0], other)})
        assert decide_skipping(changed) is None
    assert decide_skipping(fingerprint.model_copy(update={"cases": ()})) is None


def test_nothing_is_skipped_where_the_tiles_are_not_in_hu(tmp_path):
    made, _ = _planned(tmp_path / "a", SPACING, preset="vahdani2026_patch")
    assert made.configurations["3d_fullres"].inference.skip_outside is None
    configuration = _planned(tmp_path / "b", SPACING, preset="demo")[0].configurations["3d_fullres"]
    body = configuration.model_dump()
    assert type(configuration).model_validate(body) == configuration
    body["steps"] = (*configuration.steps, Clahe(window_hu=(-1000, 400)))
    with pytest.raises(ValidationError, match="skip_outside"):
        type(configuration).model_validate(body)


def test_plans_without_the_field_skip_nothing(tmp_path):
    made, _ = _planned(tmp_path, SPACING, preset="demo")
    body = made.configurations["3d_fullres"].model_dump(mode="json")
    del body["inference"]["skip_outside"]
    import json

    old = type(made.configurations["3d_fullres"]).model_validate_json(json.dumps(body))
    assert old.inference.skip_outside is None
