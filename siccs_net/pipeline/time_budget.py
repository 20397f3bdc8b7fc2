"""Plan for a time: make a configuration coarser and smaller until a training of so many minutes takes enough steps."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from siccs_net.errors import EnvironmentProblem, SiccsError, UsageError
from siccs_net.pipeline.measure import measure_plan
from siccs_net.planners.convnext_rules import DEFAULT_VRAM_GB
from siccs_net.records.dataset import LabelScheme
from siccs_net.records.plan import Configuration, MeasuredStep, Plan

logger = logging.getLogger(__name__)
# From so many updates on the spacing of the rules is worth its time; with fewer, half of that resolution learns more
# (docs/explanation/learning.md).
ENOUGH_STEPS = 2000
# A training with fewer updates stays far from what its network can learn (assumed).
FEWEST_STEPS = 500
# Each rung of the ladder plans for half the memory of the one before: first the batch shrinks, then the patch.
SHRINK = 0.5
SMALLEST_VRAM_GB = 0.05


@dataclass(frozen=True)
class Rung:
    """The memory in GB to plan for (None: the planner's own), and whether at half of the resolution."""

    vram_gb: float | None
    coarse: bool = False


PlanFor = Callable[[Rung], Plan]
"""Takes a rung to a plan that is written nowhere."""


def plan_for_time(
    plan_for: PlanFor,
    names: Sequence[str],
    minutes: float,
    labels: LabelScheme,
    *,
    target_vram_gb: float | None = None,
    may_coarsen: bool = True,
    device: str = "auto",
    prepare: Callable[[], None] | None = None,
) -> Plan:
    """Return a plan whose configurations `names` (default: all) take enough steps in `minutes` on `device`.

    A configuration is planned for `target_vram_gb` (default: the planner's own). Where less than 2000 steps of it fit,
    by measured steps, it is planned at half of the resolution, if that `may_coarsen` and the plan has no stage of a low
    resolution anyway; then for ever less memory, until 500 steps fit. Where they never do, the smallest is taken and a
    warning says so. The plan trains for `minutes`. Raises UsageError or EnvironmentProblem when nothing fits the
    memory.
    """
    made = plan_for(Rung(target_vram_gb))
    may_coarsen = may_coarsen and not any(item.previous_stage for item in made.configurations.values())
    chosen = made.with_stages(names or list(made.configurations))
    for name in [name for name in made.configurations if name in chosen]:

        def measure(plan: Plan, name: str = name) -> MeasuredStep:
            return measure_plan(plan, labels, [name], device=device, prepare=prepare).measured[name]

        configuration, step = _fitted(plan_for, name, 60 * minutes, _ladder(target_vram_gb, may_coarsen), measure)
        made = made.model_copy(
            update={
                "configurations": {**made.configurations, name: configuration},
                "measured": {**made.measured, name: step},
            }
        )
    return made.model_copy(update={"training": {**made.training, "budget_minutes": minutes}})


def _fitted(
    plan_for: PlanFor,
    name: str,
    budget_s: float,
    ladder: Iterable[tuple[Rung, int]],
    measure: Callable[[Plan], MeasuredStep],
) -> tuple[Configuration, MeasuredStep]:
    found: tuple[Configuration, MeasuredStep] | None = None
    skipped: Plan | None = None
    problem: SiccsError | None = None
    for rung, wanted in ladder:
        try:
            plan = plan_for(rung)
        except UsageError as error:
            problem = problem or error
            break
        configuration = plan.configurations[name]
        if found is not None and _same_work(configuration, found[0]):
            continue
        if found is not None and _too_slow(configuration, found, budget_s, wanted):
            skipped = plan
            continue
        skipped = None
        try:
            found = (configuration, measure(plan))
        except EnvironmentProblem as error:  # not even one step fits the memory
            problem = error
            continue
        logger.info("%s with patch %s, batch %d: %.3g s a step", name, *_size(configuration), found[1].seconds)
        if budget_s / found[1].seconds >= wanted:
            return found
    if skipped is not None:
        found = (skipped.configurations[name], measure(skipped))
    if found is None:
        raise problem or UsageError("nothing fits the memory to plan for")
    steps = budget_s / found[1].seconds
    logger.warning("%s: %.0f steps fit the time, %d would be good; give it more time", name, steps, FEWEST_STEPS)
    return found


def _ladder(start: float | None, may_coarsen: bool) -> Iterator[tuple[Rung, int]]:
    """Yield the rungs with the steps that are wanted of each: the planner's own plan, a coarser one, smaller ones."""
    yield Rung(start), ENOUGH_STEPS if may_coarsen else FEWEST_STEPS
    if may_coarsen:
        yield Rung(start, coarse=True), FEWEST_STEPS
    vram = SHRINK * (DEFAULT_VRAM_GB if start is None else start)
    while vram >= SMALLEST_VRAM_GB:
        yield Rung(vram, coarse=may_coarsen), FEWEST_STEPS
        vram *= SHRINK


def _size(configuration: Configuration) -> tuple[str, int]:
    return "×".join(map(str, configuration.patch_size)), configuration.batch_size


def _same_work(one: Configuration, other: Configuration) -> bool:
    return (one.patch_size, one.batch_size, one.network) == (other.patch_size, other.batch_size, other.network)


def _too_slow(
    configuration: Configuration, measured: tuple[Configuration, MeasuredStep], budget_s: float, wanted: int
) -> bool:
    """Say whether the operations of a step, at the speed that was measured, are twice too many: no need to measure."""
    work, before = _operations(configuration), _operations(measured[0])
    if not (work and before):
        return False
    return budget_s / (measured[1].seconds * work / before) < wanted / 2


def _operations(configuration: Configuration) -> float:
    memory = configuration.memory
    return 0.0 if memory is None or memory.forward_flops is None else memory.forward_flops * configuration.batch_size
