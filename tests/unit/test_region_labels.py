"""Region labels between the file, the prepared case and the mask: there and back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from siccs_net.io.dataset import Dataset, open_dataset
from siccs_net.io.image import read_image, read_label, write_label
from siccs_net.pipeline.plan import plan
from siccs_net.preprocessing.preprocess import IGNORED, preprocess_case, recipe_sha256, restore_to_native
from siccs_net.records.plan import Configuration
from siccs_net.testing.tiny import write_tiny_dataset
from siccs_net.workspace import Workspace

VALUES = np.array([0, 2, 300, 9, 11], np.uint16)
"""Label values of nothing, normal lung, EF, GGO and the ignore label: with gaps, out of order, more than a byte."""
LABELS = {"background": 0, "GGO": 9, "lung": [2, 9, 300], "EF": [300], "abnormal": [300, 9], "ignore": 11}
ORDER = [9, 2, 300, 9]


def _rewrite(raw: Path, **changes: Any) -> Dataset:
    body = json.loads((raw / "dataset.json").read_text())
    del body["siccs_groups"]
    (raw / "dataset.json").write_text(json.dumps({**body, **changes}))
    return open_dataset(raw)


@pytest.fixture
def made(tmp_path: Path) -> tuple[Dataset, Configuration]:
    raw = write_tiny_dataset(tmp_path / "raw" / "Dataset999_Tiny", cases=2)
    for path in (raw / "labelsTr").iterdir():
        label = read_label(path)
        values = VALUES[label.array[0]]
        values[4] = 11
        write_label(path, values, label.orientation)
    dataset = _rewrite(raw, labels=LABELS, regions_class_order=ORDER)
    done = plan(dataset, preset="demo", folds=2, workspace=Workspace.resolve(tmp_path), workers=0)
    return dataset, done.configurations["3d_fullres"]


def test_there_and_back(made: tuple[Dataset, Configuration]) -> None:
    """A prepared case holds the ranks of its values; logits that say its regions give the label map again."""
    dataset, configuration = made
    case = next(iter(dataset.cases.values()))
    assert case.label is not None
    label = read_label(case.label)
    scheme = dataset.labels
    assert configuration.network.classes == scheme.outputs == 4
    prepared = preprocess_case(read_image(case.images), label, configuration, scheme, case=case.name)
    assert prepared.label is not None
    assert set(np.unique(prepared.label)) == {0, 1, 2, 3, IGNORED}
    truth = np.stack([np.isin(prepared.label, classes) for classes in scheme.region_classes])
    # GGO comes first and EF before abnormal: painting is undone where a later region covers them.
    logits = np.where(truth, 2, -3).astype(np.float32)
    mask = restore_to_native(iter([(0, logits)]), prepared.record.geometry, scheme, label.orientation)
    original = label.array[0]
    painted = np.zeros_like(original)
    for values, value in zip(([9], [2, 9, 300], [300], [300, 9]), ORDER, strict=True):
        painted[np.isin(original, values)] = value
    assert np.array_equal(mask, painted)
    assert mask.dtype == np.uint16
    assert 11 not in mask


def test_other_regions_of_the_same_values_need_no_new_preprocessing(made: tuple[Dataset, Configuration]) -> None:
    dataset, configuration = made
    before = recipe_sha256(configuration, dataset.labels)
    body = json.loads((dataset.folder / "dataset.json").read_text())
    body |= {"labels": {"background": 0, "lung": [2, 9, 300], "EF": 300, "ignore": 11}, "regions_class_order": [2, 300]}
    (dataset.folder / "dataset.json").write_text(json.dumps(body))
    assert recipe_sha256(configuration, open_dataset(dataset.folder).labels) == before


def test_foreground_statistics_leave_ignored_voxels_out(made: tuple[Dataset, Configuration]) -> None:
    dataset, configuration = made
    case = next(iter(dataset.cases.values()))
    assert case.label is not None
    prepared = preprocess_case(
        read_image(case.images), read_label(case.label), configuration, dataset.labels, case=case.name
    )
    assert prepared.label is not None
    counted = (prepared.label > 0) & (prepared.label != IGNORED)
    (found,) = prepared.record.statistics_foreground
    assert found.count == np.count_nonzero(counted)
    assert found.mean == pytest.approx(float(prepared.image[0][counted].mean()))
