"""The folds of `siccs_plan_and_preprocess`: ours, nnU-Net's own on demand, the dataset's, and those drawn before."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from siccs_net.cli.process import run_command
from siccs_net.io.dataset import open_dataset
from siccs_net.testing.tiny import write_tiny_dataset

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "nnunet_numerics.json").read_text())["splits"]
TWELVE = 12


@pytest.fixture
def space(tmp_path):
    """Twelve cases of the names that nnU-Net's own folds were made for."""
    folder = write_tiny_dataset(tmp_path / "raw" / "Dataset998_Folds", cases=TWELVE, shape=(8, 16, 16))
    for path in [*folder.glob("*Tr/*.nii.gz")]:
        number = int(path.name[5:8])
        path.rename(path.with_name(path.name.replace(f"tiny_{number:03d}", f"case_{number}")))
    return tmp_path


def _plan(space, *more):
    arguments = ["-d", "998", "--workspace", str(space), "--preset", "demo", "--no-preprocess", "-np", "1", *more]
    return run_command("plan_and_preprocess", arguments)


def _drawn(space):
    return json.loads((space / "preprocessed" / "Dataset998_Folds" / "splits_final.json").read_text())


def test_nnunets_own_folds_on_demand_and_kept_until_others_are_asked_for(space, caplog):
    assert _plan(space) == 0
    ours = _drawn(space)
    assert len(ours) == 8
    with caplog.at_level(logging.WARNING):
        assert _plan(space, "--splits", "nnunet") == 0
    assert "in place of other ones drawn before" in caplog.text
    theirs = _drawn(space)
    assert [fold["val"] for fold in theirs] == GOLDEN[1]
    everything = sorted(open_dataset(space / "raw" / "Dataset998_Folds").cases)
    assert all(sorted(fold["train"] + fold["val"]) == everything for fold in theirs)
    assert _plan(space) == 0
    assert _drawn(space) == theirs
    assert _plan(space, "--splits", "nnunet", "--folds", "3") == 0
    assert len(_drawn(space)) == 3
    assert _plan(space, "--splits", "grouped") == 0
    assert _drawn(space) == ours


def test_what_nnunets_folds_cannot_be_is_named(space, capsys):
    folder = space / "raw" / "Dataset998_Folds"
    assert _plan(space, "--splits", "nnunet", "--folds", "13") == 4
    assert "fewer cases than folds" in capsys.readouterr().err
    rows = "".join(f"case_{number},patient_{number // 2}\n" for number in range(TWELVE))
    (folder / "patients.csv").write_text("case,patient\n" + rows)
    assert _plan(space, "--splits", "nnunet") == 4
    assert "patient_0 is in train" in capsys.readouterr().err
    (folder / "splits_final.json").write_text(json.dumps([{"train": ["case_2"], "val": ["case_0"]}]))
    assert _plan(space, "--splits", "nnunet") == 2
    assert "folds of its own" in capsys.readouterr().err
