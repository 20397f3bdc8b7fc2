"""A batch in parts makes the same update as a whole batch."""

from __future__ import annotations

import json

import pytest
import torch

from siccs_net.errors import UsageError
from siccs_net.io.checkpoint import read_tensors
from siccs_net.pipeline.train import train
from siccs_net.trainers.siccs import SiccsTrainer
from siccs_net.workspace import Workspace

SETTINGS = {"epochs": 1, "iterations_per_epoch": 3, "batch_size": 4, "validation_patches": 1, "workers": 0}
SETTINGS["precision"] = "float32"  # equal to rounding, also where bfloat16 is fast


class PlainDescent(SiccsTrainer):
    """Adam divides by the gradient's size, which would blow up the rounding errors of gradients that are near 0."""

    def build_optimizer(self, network):
        return torch.optim.SGD(network.parameters(), lr=0.1)


def run(ready, name: str, **settings):
    whole = ready.workspace
    workspace = Workspace(whole.raw, whole.preprocessed, ready.root / name, "test")
    (result,) = train(
        ready.dataset,
        ready.plan,
        "3d_fullres",
        0,
        trainer=PlainDescent,
        settings={**SETTINGS, **settings},
        device="cpu",
        workspace=workspace,
    )
    run = workspace.model_folder(ready.dataset.name, "PlainDescent", ready.plan.name, "3d_fullres").fold(0)
    return result, read_tensors(run.weights), [json.loads(line) for line in run.log.read_text().splitlines()]


@pytest.mark.parametrize("parts", [2, 4])
def test_parts_of_a_batch_make_the_batchs_update(ready, parts):
    _, whole, log = run(ready, f"whole_{parts}")
    _, divided, log_divided = run(ready, f"in_{parts}", gradient_accumulation=parts)
    assert log[0]["loss"] == pytest.approx(log_divided[0]["loss"], rel=1e-5)
    for name, tensor in whole.items():
        torch.testing.assert_close(divided[name], tensor, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("parts", [3, 8])
def test_unequal_parts_are_refused(ready, parts):
    with pytest.raises(UsageError, match=r"equal parts.*batch_size=4"):
        run(ready, f"in_{parts}", gradient_accumulation=parts)


def test_the_plan_counts_the_memory_of_a_part(ready):
    from siccs_net.pipeline.plan import plan

    def bytes_of(**settings):
        made = plan(ready.dataset, preset="demo", settings=settings, folds=4, workspace=ready.workspace, save=False)
        return made.configurations["3d_fullres"].memory.training_bytes

    assert bytes_of(**{"batch_size": 4, "training.gradient_accumulation": 4}) == bytes_of(batch_size=1)
