"""Overlay pictures: which slice, which colours, which files."""

from __future__ import annotations

import json

import numpy as np
import pytest

from siccs_net.errors import MissingPathError, UsageError
from siccs_net.geometry import Orientation, canonical_affine
from siccs_net.io.image import write_image, write_label
from siccs_net.pipeline.overlay import colours_of, draw_views, find_views, fullest_slice, labels_for
from siccs_net.records.dataset import LabelScheme


def write(folder, name, array, *, origin=0.0, image=False):
    z, y, x = array.shape
    place = Orientation.of((x, y, z), canonical_affine((4.0, 1.0, 1.0), (origin, 0.0, 0.0)))
    (write_image if image else write_label)(folder / name, array, place)


def test_the_fullest_slice():
    labels = np.zeros((7, 5, 5), np.uint8)
    assert fullest_slice([labels]) == 3
    labels[2, :2] = 3
    labels[5, :3] = 9
    assert fullest_slice([labels]) == 5
    other = np.zeros_like(labels)
    other[2] = 1
    assert fullest_slice([labels, other]) == 2


@pytest.mark.parametrize("count", [1, 3, 5, 9, 40])
def test_every_class_has_a_colour_of_its_own(count):
    colours = colours_of(LabelScheme(plain={"background": 0, **{f"c{n}": n for n in range(1, count + 1)}}))
    assert sorted(colours) == list(range(1, count + 1))
    assert len(set(colours.values())) == count
    assert all(0 <= part <= 1 for colour in colours.values() for part in colour)


def test_a_picture_shows_the_labels_in_their_colours(tmp_path):
    """The drawn pixels of a mask of one label are that label's colour over the scan's grey, read back from the PNG."""
    from matplotlib.image import imread

    scan = np.full((3, 20, 20), -1350, np.int16)
    mask = np.zeros((3, 20, 20), np.uint8)
    mask[1] = 5
    write(tmp_path / "i", "a_0000.nii.gz", scan, image=True)
    write(tmp_path / "s", "a.nii.gz", mask)
    assert draw_views(find_views(tmp_path / "i", tmp_path / "s", None), tmp_path / "o", None, workers=0) == [
        ("a", None)
    ]
    picture = imread(tmp_path / "o" / "a.png")[..., :3]
    labels = LabelScheme(plain={"background": 0, "label 5": 5})
    wanted = 0.45 * np.array(colours_of(labels)[5])
    right = picture[:, picture.shape[1] // 2 :].reshape(-1, 3)
    assert (np.abs(right - wanted).max(axis=1) < 0.02).mean() > 0.4
    left = picture[:, : picture.shape[1] // 2].reshape(-1, 3)
    assert not (np.abs(left - wanted).max(axis=1) < 0.02).any()


def test_files_are_matched_and_a_case_that_does_not_fit_is_named(tmp_path):
    scan, mask = np.zeros((2, 6, 6), np.int16), np.ones((2, 6, 6), np.uint8)
    for name in ("a_0000.nii.gz", "b.nii.gz", "b_0001.nii.gz"):
        write(tmp_path / "i", name, scan, image=True)
    write(tmp_path / "s", "a.nii.gz", mask)
    write(tmp_path / "s", "b.nii.gz", mask, origin=3.0)
    views = find_views(tmp_path / "i", tmp_path / "s", None)
    assert [(view.case, view.image.name) for view in views] == [("a", "a_0000.nii.gz"), ("b", "b.nii.gz")]
    drawn = dict(draw_views(views, tmp_path / "o", None, workers=0))
    assert drawn["a"] is None
    assert "elsewhere in space" in str(drawn["b"])
    with pytest.raises(MissingPathError, match="'a' with channel 1"):
        find_views(tmp_path / "i", tmp_path / "s", None, channel=1)
    (tmp_path / "empty").mkdir()
    with pytest.raises(MissingPathError, match="no reference of 'a'"):
        find_views(tmp_path / "i", tmp_path / "s", tmp_path / "empty")
    with pytest.raises(UsageError, match="holds no mask"):
        find_views(tmp_path / "i", tmp_path / "empty", None)


def test_names_come_from_the_dataset_beside(tmp_path):
    assert labels_for(tmp_path, None, None) is None
    description = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "x": 4}, "numTraining": 0}
    (tmp_path / "dataset.json").write_text(json.dumps({**description, "file_ending": ".nii.gz"}))
    (tmp_path / "masks").mkdir()
    assert labels_for(tmp_path / "masks", None, None).plain == {"background": 0, "x": 4}
    with pytest.raises(MissingPathError):
        labels_for(tmp_path, tmp_path / "absent.json", None)
