"""A training that ends by the clock, and one that stops being finite."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from torch import nn

from siccs_net.errors import TrainingError, UsageError
from siccs_net.pipeline.train import train
from siccs_net.trainers.siccs import SiccsTrainer
from siccs_net.workspace import Workspace

BUDGET_S = 10.0
SETTINGS = {"validation_patches": 2, "workers": 0, "iterations_per_epoch": 2, "epochs": 10, "warmup_epochs": 0.5}


def start(ready, name, trainer=SiccsTrainer, **settings):
    whole = ready.workspace
    workspace = Workspace(whole.raw, whole.preprocessed, ready.root / name, "test")
    run = workspace.model_folder(ready.dataset.name, trainer.__name__, ready.plan.name, "3d_fullres").fold(0)
    arguments = {"settings": {**SETTINGS, **settings}, "device": "cpu", "workspace": workspace, "validate": False}
    return run, lambda **more: train(
        ready.dataset, ready.plan, "3d_fullres", 0, trainer=trainer, **{**arguments, **more}
    )


def lines_of(run):
    return [json.loads(line) for line in run.log.read_text().splitlines()]


def test_a_budget_ends_on_time_with_its_schedule_complete(ready):
    run, go = start(ready, "budget", budget_minutes=BUDGET_S / 60)
    (result,) = go()
    lines = lines_of(run)
    rates = [line["learning_rate"] for line in lines]
    assert result.record.epochs == len(lines) >= 2
    assert max(rates) > 1e-3
    assert rates[-1] < max(rates)
    assert lines[-1]["dice"]
    assert sum(line["iterations"] for line in lines) >= 3
    # tests/unit/test_clock.py says how near, and that the schedule is complete; here steps may be long.
    assert 0.3 * BUDGET_S <= lines[-1]["elapsed"] <= 2 * BUDGET_S


def test_a_budget_counts_what_went_before_a_resume(ready):
    class Stopping(SiccsTrainer):
        def on_epoch_end(self, epoch, entry):
            if entry["elapsed"] > 0.6 * BUDGET_S and not self.task.resume:
                raise KeyboardInterrupt

    run, go = start(ready, "resumed", Stopping, budget_minutes=BUDGET_S / 60)
    with pytest.raises(KeyboardInterrupt):
        go()
    before = lines_of(run)[-1]["elapsed"]
    assert before > 0.6 * BUDGET_S
    (result,) = go(resume=True)
    lines = lines_of(run)
    elapsed = [line["elapsed"] for line in lines]
    assert elapsed == sorted(elapsed)  # what went before counts
    assert before <= elapsed[-1] <= 2 * BUDGET_S
    assert [line["epoch"] for line in lines] == list(range(len(lines)))
    assert result.record.complete
    (again,) = go(resume=True)
    assert again.record == result.record
    assert lines_of(run) == lines


def test_a_state_of_an_optimizer_that_was_not_fused_is_gone_on_with(ready):
    class Stopping(SiccsTrainer):
        def on_epoch_end(self, epoch, entry):
            if not self.task.resume:
                raise KeyboardInterrupt

    run, go = start(ready, "unfused", Stopping, epochs=2)
    with pytest.raises(KeyboardInterrupt):
        go()
    path = run.states()[0].with_suffix(".json")
    record = json.loads(path.read_text())
    assert all(group["fused"] for group in record["optimizer_groups"])
    for group in record["optimizer_groups"]:
        group["fused"] = None
    path.write_text(json.dumps(record))
    (result,) = go(resume=True)
    assert result.record.epochs == 2
    groups = json.loads(run.states()[0].with_suffix(".json").read_text())["optimizer_groups"]
    assert all(group["fused"] for group in groups)


def test_several_promises_that_a_clock_cannot_keep_are_refused(ready):
    _, go = start(ready, "deterministic", budget_minutes=0.1, deterministic=True)
    with pytest.raises(UsageError, match="does not end by the clock"):
        go()


class _Spoilt(nn.Conv3d):
    """A convolution whose output is infinite from the fourth training step on."""

    def forward(self, x):
        self.calls = getattr(self, "calls", 0) + self.training
        found = super().forward(x)
        return found / 0 if self.calls > 3 else found


class SpoiltTrainer(SiccsTrainer):
    """Its network has one layer that ends in the fourth step."""

    def build_network(self):
        network = super().build_network()
        last = network.head.conv
        network.head.conv = _Spoilt(last.in_channels, last.out_channels, 3, padding=1)
        return network


def test_a_loss_that_is_not_finite_names_step_layer_and_last_state(ready):
    run, go = start(ready, "spoilt", SpoiltTrainer)
    with pytest.raises(
        TrainingError, match=r"the loss of epoch 1, iteration 1 is not finite.*head\.conv \(_Spoilt\)"
    ) as at:
        go()
    assert at.value.path in run.states()
    record = json.loads(at.value.path.with_suffix(".json").read_text())
    assert (record["epoch"], record["iteration"]) == (1, 1)


class BrokenBackward(torch.autograd.Function):
    """The identity with a gradient that is not a number."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * float("nan")


class _BrokenGradient(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return BrokenBackward.apply(self.inner(x))


class BrokenTrainer(SiccsTrainer):
    """The gradient of its stem is not a number."""

    def build_network(self):
        network = super().build_network()
        network.stem = _BrokenGradient(network.stem)
        return network


def test_a_gradient_that_is_not_finite_names_its_layer(ready):
    _, go = start(ready, "broken", BrokenTrainer)
    with pytest.raises(TrainingError, match=r"gradient of epoch 0, iteration 0 is not finite.*at stem\.inner"):
        go()


@pytest.mark.parametrize(("text", "code"), [("7 parsecs", 2), ("0min", 2)])
def test_a_time_that_is_none_is_refused(ready, text, code):
    command = [sys.executable, "-m", "siccs_net.cli.train", "999", "3d_fullres", "0", "--budget", text]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == code
    assert "write such as 90s, 10min, 4h or 1h30min" in done.stderr
