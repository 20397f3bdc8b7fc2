"""Where datasets are found, and what is said when they are not."""

from __future__ import annotations

import pytest

from siccs_net.errors import MissingPathError, UsageError
from siccs_net.workspace import Workspace


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    monkeypatch.delenv("nnUNet_raw", raising=False)
    for name in ("Dataset501_Lungs", "Dataset502_Livers"):
        (tmp_path / "raw" / name).mkdir(parents=True)
        (tmp_path / "raw" / name / "dataset.json").write_text("{}")
    return Workspace.resolve(tmp_path)


@pytest.mark.parametrize("given", ["501", 501, "Dataset501_Lungs", "Dataset501", "Dataset_501"])
def test_number_name_and_path_find_a_dataset(workspace, given):
    assert workspace.find_dataset(given).name == "Dataset501_Lungs"
    assert workspace.find_dataset(workspace.raw[0] / "Dataset501_Lungs").name == "Dataset501_Lungs"


def test_a_wrong_name_tells_the_nearest(workspace):
    with pytest.raises(MissingPathError, match="Did you mean Dataset501_Lungs"):
        workspace.find_dataset("Dataset501_Lung")


def test_nnunet_raw_is_a_second_place(workspace, tmp_path, monkeypatch):
    (tmp_path / "shared" / "Dataset700_X").mkdir(parents=True)
    (tmp_path / "shared" / "Dataset700_X" / "dataset.json").write_text("{}")
    monkeypatch.setenv("nnUNet_raw", str(tmp_path / "shared"))
    assert Workspace.resolve(tmp_path).find_dataset(700).name == "Dataset700_X"


def test_two_datasets_of_one_number_are_refused(workspace):
    (workspace.raw[0] / "Dataset501_Other").mkdir()
    (workspace.raw[0] / "Dataset501_Other" / "dataset.json").write_text("{}")
    with pytest.raises(UsageError, match="more than one"):
        workspace.find_dataset(501)


def test_the_environment_is_a_fallback(tmp_path, monkeypatch):
    monkeypatch.setenv("SICCS_WORKSPACE", str(tmp_path / "there"))
    assert Workspace.resolve().results == tmp_path / "there" / "results"
    assert "SICCS_WORKSPACE" in Workspace.resolve().describe()
    assert Workspace.resolve(tmp_path / "here").results == tmp_path / "here" / "results"
