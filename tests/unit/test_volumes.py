"""Volumes in millilitres and percent of the lung, against counts by hand."""

from __future__ import annotations

import numpy as np
import pytest

from siccs_net.errors import DataError, UnavailableError
from siccs_net.evaluation.volumes import count_voxels, percent_of_lung, volumes_ml

CLASSES = {"normal": [1], "EF": [2], "GGO": [3], "EF+GGO": [2, 3], "lung": [1, 2, 3], "heart": [9]}


def label_map() -> np.ndarray:
    """Of 1000 voxels: 300 normal lung, 60 fibrosis, 40 ground-glass, 100 heart."""
    labels = np.zeros(1000, np.uint8)
    labels[:300], labels[300:360], labels[360:400], labels[400:500] = 1, 2, 3, 9
    return np.random.default_rng(0).permutation(labels).reshape(10, 10, 10)


def test_volumes() -> None:
    """A voxel of 2.5 x 0.8 x 0.5 mm is 1 mm3, one thousandth of a millilitre."""
    found = volumes_ml(label_map(), (2.5, 0.8, 0.5), CLASSES)
    assert found == pytest.approx(
        {"normal": 0.3, "EF": 0.06, "GGO": 0.04, "EF+GGO": 0.1, "lung": 0.4, "heart": 0.1}, rel=1e-12
    )


def test_percent_of_lung() -> None:
    found = percent_of_lung(label_map(), CLASSES)
    assert found == pytest.approx({"normal": 75, "EF": 15, "GGO": 10, "EF+GGO": 25, "lung": 100}, rel=1e-12)


def test_without_a_lung_voxel_the_percentage_is_undefined() -> None:
    assert percent_of_lung(np.zeros((2, 3, 4), np.uint8), {"lung": [1, 2], "EF": [2]}) == {"lung": None, "EF": None}


def test_percent_of_lung_needs_to_know_the_lung() -> None:
    with pytest.raises(UnavailableError, match=r'found classes 1, 2\. Add "siccs_groups".*dataset\.json'):
        percent_of_lung(label_map(), {"1": [1], "2": [2]})


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int64])
def test_counts_do_not_depend_on_the_type(dtype: type[np.generic]) -> None:
    assert count_voxels(label_map().astype(dtype).T, {"lung": [1, 2, 3], "none": []}) == {"lung": 400, "none": 0}


def test_refuses_probabilities() -> None:
    with pytest.raises(DataError, match="whole numbers; found float64"):
        volumes_ml(label_map() / 2, (1, 1, 1), CLASSES)
