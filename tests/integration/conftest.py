"""A tiny planned and prepared dataset, made once for the whole room of tests."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from siccs_net.io.dataset import Dataset, open_dataset
from siccs_net.pipeline.plan import plan
from siccs_net.pipeline.preprocess import preprocess
from siccs_net.records.plan import Plan
from siccs_net.testing.tiny import write_tiny_dataset
from siccs_net.workspace import Workspace

TINY_SETTINGS = {
    "network.widths": [8, 12, 16, 24],
    "patch_size": [16, 32, 48],
    "batch_size": 2,
    "iterations_per_epoch": 4,
}


@dataclass(frozen=True)
class Ready:
    """A dataset that can be trained on at once."""

    root: Path
    dataset: Dataset
    plan: Plan
    workspace: Workspace


def make_ready(root: Path, **settings) -> Ready:
    """Write, plan and prepare the tiny dataset in a workspace."""
    workspace = Workspace.resolve(root)
    raw = write_tiny_dataset(workspace.raw[0] / "Dataset999_Tiny", cases=8)
    dataset = open_dataset(raw)
    made = plan(dataset, preset="demo", settings={**TINY_SETTINGS, **settings}, folds=4, workspace=workspace)
    preprocess(dataset, made, "3d_fullres", workspace=workspace)
    return Ready(root, dataset, made, workspace)


@pytest.fixture(scope="module")
def ready(tmp_path_factory) -> Ready:
    return make_ready(tmp_path_factory.mktemp("workspace"))
