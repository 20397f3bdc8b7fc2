"""Planning for a time: how far the ladder is gone down, with measured steps that are made up."""

from __future__ import annotations

import logging

import pytest

from siccs_net.errors import EnvironmentProblem, UsageError
from siccs_net.pipeline import time_budget
from siccs_net.pipeline.time_budget import Rung, plan_for_time
from siccs_net.records.plan import MeasuredStep

COARSE = (8.0, 8.0, 8.0)


@pytest.fixture
def measured(monkeypatch):
    """Steps that cost a second for each GFLOP; the list of what was measured."""
    seen = []

    def measure_plan(plan, labels, names, *, device, prepare):
        configuration = plan.configurations[names[0]]
        seen.append((configuration.spacing_mm, configuration.patch_size, configuration.batch_size))
        seconds = configuration.memory.forward_flops * configuration.batch_size / 1e9
        step = MeasuredStep(
            device=device,
            precision="float32",
            threads=1,
            batch_size=configuration.batch_size,
            checkpointing=False,
            gradient_accumulation=1,
            seconds=seconds,
            peak_bytes=1,
        )
        return plan.model_copy(update={"measured": {names[0]: step}})

    monkeypatch.setattr(time_budget, "measure_plan", measure_plan)
    return seen


@pytest.fixture
def plan_for(tmp_path):
    from dataclasses import replace

    from siccs_net.io.dataset import open_dataset
    from siccs_net.pipeline.plan import take_fingerprint
    from siccs_net.planners.planner import PlanRequest, make_plan
    from siccs_net.testing.tiny import write_tiny_dataset
    from siccs_net.workspace import Workspace

    dataset = open_dataset(write_tiny_dataset(tmp_path / "Dataset999_Tiny", cases=4, shape=(24, 96, 96)))
    place = Workspace.resolve(tmp_path / "w").prepared_dataset(dataset.name)
    fingerprint = take_fingerprint(dataset, place, workers=0, save=False, show_progress=False)
    request = PlanRequest(configurations=("3d_fullres",))

    def plan(rung):
        rules = {} if rung.vram_gb is None else {"target_vram_gb": rung.vram_gb}
        rules |= {"spacing_mm": COARSE} if rung.coarse else {}
        return make_plan(dataset, fingerprint, replace(request, rules=rules))

    return dataset, plan


def refuse_the_largest(plan, monkeypatch):
    """Let no step of the whole plan's patch fit the memory; return that configuration."""
    whole, fake = plan(Rung(None)).configurations["3d_fullres"], time_budget.measure_plan

    def measure_plan(made, labels, names, *, device, prepare):
        if made.configurations[names[0]].patch_size == whole.patch_size:
            raise EnvironmentProblem("does not fit")
        return fake(made, labels, names, device=device, prepare=prepare)

    monkeypatch.setattr(time_budget, "measure_plan", measure_plan)
    return whole


def plan_fine(*arguments, **more):
    return plan_for_time(*arguments, may_coarsen=False, device="cpu", **more)


def work(configuration):
    return configuration.memory.forward_flops * configuration.batch_size / 1e9


def test_time_enough_leaves_the_plan(plan_for, measured):
    dataset, plan = plan_for
    whole = plan(Rung(8.0))
    minutes = time_budget.FEWEST_STEPS * work(whole.configurations["3d_fullres"]) / 60 * 1.01
    made = plan_fine(plan, ["3d_fullres"], minutes, dataset.labels)
    assert made.configurations == whole.configurations
    assert made.training["budget_minutes"] == minutes
    assert made.provenance == whole.provenance
    assert made.measured["3d_fullres"].seconds == pytest.approx(work(whole.configurations["3d_fullres"]))
    assert len(measured) == 1


@pytest.mark.parametrize("share", [0.5, 0.2, 0.05])
def test_less_time_takes_the_largest_that_fits(plan_for, measured, share, caplog):
    dataset, plan = plan_for
    whole = work(plan(Rung(8.0)).configurations["3d_fullres"])
    limit = whole * share
    rungs, vram = [], 8.0
    while vram >= time_budget.SMALLEST_VRAM_GB:
        try:
            rungs.append(plan(Rung(vram)).configurations["3d_fullres"])
        except UsageError:
            break
        vram *= time_budget.SHRINK
    fitting = [one for one in rungs if work(one) <= limit]
    with caplog.at_level(logging.WARNING):
        made = plan_fine(plan, ["3d_fullres"], time_budget.FEWEST_STEPS * limit / 60, dataset.labels)
    assert made.configurations["3d_fullres"] == (fitting[0] if fitting else rungs[-1])
    assert bool(caplog.records) == (not fitting)
    assert len(measured) == len(set(measured))


def test_nothing_that_fits_is_an_error(plan_for, monkeypatch):
    dataset, plan = plan_for
    tried = []

    def measure_plan(made, labels, names, *, device, prepare):
        tried.append(made.configurations[names[0]].patch_size)
        raise EnvironmentProblem("does not fit")

    monkeypatch.setattr(time_budget, "measure_plan", measure_plan)
    with pytest.raises(EnvironmentProblem, match="does not fit"):
        plan_fine(plan, ["3d_fullres"], 10, dataset.labels)
    assert len(set(tried)) > 1


def test_a_size_that_does_not_fit_the_memory_is_passed_over(plan_for, measured, monkeypatch):
    dataset, plan = plan_for
    whole = refuse_the_largest(plan, monkeypatch)
    made = plan_fine(plan, ["3d_fullres"], 1e6, dataset.labels)
    assert made.configurations["3d_fullres"].patch_size != whole.patch_size


@pytest.mark.parametrize(("steps", "coarse"), [(1.01, False), (0.99, True), (0.26, True)])
def test_less_than_enough_steps_halve_the_resolution_first(plan_for, measured, steps, coarse):
    dataset, plan = plan_for
    fine = plan(Rung(8.0)).configurations["3d_fullres"]
    minutes = steps * time_budget.ENOUGH_STEPS * work(fine) / 60
    made = plan_for_time(plan, ["3d_fullres"], minutes, dataset.labels, device="cpu")
    assert made.configurations["3d_fullres"] == plan(Rung(8.0, coarse)).configurations["3d_fullres"]
    assert len(measured) == 1 + coarse
    assert "user" not in made.provenance.values()
    assert made.provenance["configurations.3d_fullres.spacing_mm"] == ("rule:budget" if coarse else "rule:convnext")


def test_what_is_coarse_already_shrinks_on(plan_for, measured):
    dataset, plan = plan_for
    coarse = plan(Rung(8.0, coarse=True)).configurations["3d_fullres"]
    made = plan_for_time(plan, ["3d_fullres"], 0.5 * time_budget.FEWEST_STEPS * work(coarse) / 60, dataset.labels)
    found = made.configurations["3d_fullres"]
    assert found.spacing_mm == coarse.spacing_mm
    assert work(found) < work(coarse)


def test_a_plan_that_does_not_fit_the_memory_shrinks_before_it_gets_coarse(plan_for, measured, monkeypatch):
    dataset, plan = plan_for
    whole = refuse_the_largest(plan, monkeypatch)
    made = plan_for_time(plan, ["3d_fullres"], 1e6, dataset.labels)
    assert made.configurations["3d_fullres"].spacing_mm == whole.spacing_mm


def test_the_same_work_at_half_the_resolution_is_taken_and_not_measured_again(plan_for, measured):
    dataset, plan = plan_for
    whole = plan(Rung(8.0))

    def same_work(rung):
        item = whole.configurations["3d_fullres"]
        item = item.model_copy(update={"spacing_mm": COARSE}) if rung.coarse else item
        return whole.model_copy(update={"configurations": {"3d_fullres": item}})

    minutes = 2 * time_budget.FEWEST_STEPS * work(whole.configurations["3d_fullres"]) / 60
    made = plan_for_time(same_work, ["3d_fullres"], minutes, dataset.labels)
    assert made.configurations["3d_fullres"].spacing_mm == COARSE
    assert len(measured) == 1


SPACING = {"configurations": {"3d_fullres": {"spacing_mm": [5.0, 4.0, 4.0]}}}
INHERITED = {"configurations": {"other": {"inherits_from": "3d_fullres", "batch_size": 1}}}


@pytest.mark.parametrize(
    ("settings", "overrides", "coarse"),
    [({}, {}, True), ({"spacing_mm": [5, 4, 4]}, {}, False), ({}, SPACING, False), ({}, INHERITED, False)],
)
def test_a_spacing_that_is_asked_for_or_shared_stays(tmp_path, measured, monkeypatch, settings, overrides, coarse):
    made = planned(tmp_path, monkeypatch, 100.0, settings=settings, overrides=overrides)
    found = made.configurations["3d_fullres"].spacing_mm
    assert found == ((8.0, 8.0, 8.0) if coarse else (5.0, 4.0, 4.0))


def test_the_memory_that_is_asked_for_is_where_planning_for_a_time_begins(tmp_path, measured, monkeypatch):
    settings = {"target_vram_gb": 4.0, "spacing_mm": [5.0, 4.0, 4.0]}
    enough = planned(tmp_path, monkeypatch, 1e9, settings=settings)
    assert enough.provenance["target_vram_gb"] == "user"
    little = planned(tmp_path, monkeypatch, 1.0, settings=settings)
    assert work(little.configurations["3d_fullres"]) < work(enough.configurations["3d_fullres"])


def planned(tmp_path, monkeypatch, minutes, **more):
    from siccs_net.io.dataset import open_dataset
    from siccs_net.pipeline.plan import plan
    from siccs_net.planners import rules
    from siccs_net.testing.tiny import write_tiny_dataset
    from siccs_net.workspace import Workspace

    monkeypatch.setattr(rules, "SHORTEST_COARSE", 8)
    folder = tmp_path / "Dataset999_Tiny"
    if not folder.exists():
        write_tiny_dataset(folder, cases=4, shape=(24, 96, 96))
    return plan(
        open_dataset(folder),
        workspace=Workspace.resolve(tmp_path / "w"),
        workers=0,
        save=False,
        budget_minutes=minutes,
        **more,
    )
