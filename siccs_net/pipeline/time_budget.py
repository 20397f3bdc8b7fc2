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
# With fewer updates than this the resolution is halved before anything else (the number is assumed; that it helps a
# short training is measured: docs/explanation/learning.md).
ENOUGH_STEPS = 2000
# A training with fewer updates stays far from what its network can learn (assumed).
FEWEST_STEPS = 500
# Each rung of the ladder plans for half the memory of the one before: first the batch shrinks, then the patch.
SHRINK = 0.5
SMALLEST_VRAM_GB = 0.05
# What a plan for a time may have changed of a configuration.
CHANGED = ("spacing_mm", "patch_size", "batch_size", "iterations_per_epoch", "network")


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

    A configuration is planned for `target_vram_gb` (default: the planner's own), or the first half, quarter, … of it
    that a step fits. Where less than 2000 steps fit the time, by measured steps, it is planned at half of the
    resolution if that `may_coarsen`; then for ever less memory, until 500 steps fit. Where they never do, the smallest
    is taken and a warning says so. The plan trains for `minutes`. Raises UsageError or EnvironmentProblem when nothing
    fits the memory.
    """
    made = plan_for(Rung(target_vram_gb))
    chosen = made.with_stages(names or list(made.configurations))
    for name in [name for name in made.configurations if name in chosen]:

        def measure(plan: Plan, name: str = name) -> MeasuredStep:
            return measure_plan(plan, labels, [name], device=device, prepare=prepare).measured[name]

        search = _Search(plan_for, name, 60 * minutes, measure)
        configuration, step = search.fitted(target_vram_gb, may_coarsen=may_coarsen)
        made = made.model_copy(
            update={
                "configurations": {**made.configurations, name: configuration},
                "measured": {**made.measured, name: step},
                "provenance": {**made.provenance, **_provenance(name, made.configurations[name], configuration)},
            }
        )
    return made.model_copy(update={"training": {**made.training, "budget_minutes": minutes}})


def _provenance(name: str, planned: Configuration, fitted: Configuration) -> dict[str, str]:
    """Say of every value that is another one than planned that the time made it so."""
    changed = [field for field in CHANGED if getattr(planned, field) != getattr(fitted, field)]
    return {f"configurations.{name}.{field}": "rule:budget" for field in changed}


class _Search:
    """Looks for the first plan of a configuration of which enough steps fit the time."""

    def __init__(self, plan_for: PlanFor, name: str, budget_s: float, measure: Callable[[Plan], MeasuredStep]) -> None:
        self.plan_for, self.name, self.budget_s, self.measure = plan_for, name, budget_s, measure
        self.found: tuple[Configuration, MeasuredStep] | None = None
        self.problem: SiccsError | None = None

    def fitted(self, start: float | None, *, may_coarsen: bool) -> tuple[Configuration, MeasuredStep]:
        """Return the configuration and what its step costs."""
        if may_coarsen and self._goes_down((Rung(vram) for vram in _halves(start)), ENOUGH_STEPS, first_that_fits=True):
            return self._result()
        rungs = (Rung(vram, coarse=may_coarsen) for vram in _halves(start))
        if not self._goes_down(rungs, FEWEST_STEPS, first_that_fits=False):
            steps = self.budget_s / self._result()[1].seconds
            logger.warning(
                "%s: %.0f steps fit the time, %d would be good; give it more time", self.name, steps, FEWEST_STEPS
            )
        return self._result()

    def _result(self) -> tuple[Configuration, MeasuredStep]:
        if self.found is None:
            raise self.problem or UsageError("nothing fits the memory to plan for")
        return self.found

    def _goes_down(self, rungs: Iterable[Rung], wanted: int, *, first_that_fits: bool) -> bool:
        """Keep the first rung of which `wanted` steps fit, else the last; say whether they do.

        With `first_that_fits` only the first one of which a step fits the memory is looked at.
        """
        skipped: Plan | None = None
        for rung in rungs:
            try:
                plan = self.plan_for(rung)
            except UsageError as error:
                self.problem = self.problem or error
                break
            if self._is_too_slow(plan, wanted):
                skipped = plan
                continue
            skipped = None
            if self._measures(plan):
                if self._fits(wanted):
                    return True
                if first_that_fits:
                    return False
        return skipped is not None and self._measures(skipped) and self._fits(wanted)

    def _is_too_slow(self, plan: Plan, wanted: int) -> bool:
        """Say whether a step's operations, at the speed measured last, are twice too many: no need to measure."""
        if self.found is None:
            return False
        work, before = _operations(plan.configurations[self.name]), _operations(self.found[0])
        return bool(work and before) and self.budget_s / (self.found[1].seconds * work / before) < wanted / 2

    def _fits(self, wanted: int) -> bool:
        return self.budget_s / self._result()[1].seconds >= wanted

    def _measures(self, plan: Plan) -> bool:
        """Measure a plan's step, unless it is the same work as the last one; say whether it fits the memory."""
        configuration = plan.configurations[self.name]
        if self.found is not None and _same_work(configuration, self.found[0]):
            self.found = (configuration, self.found[1])
            return True
        try:
            self.found = (configuration, self.measure(plan))
        except EnvironmentProblem as error:
            self.problem = error
            return False
        logger.info(
            "%s with patch %s, batch %d: %.3g s a step", self.name, *_size(configuration), self.found[1].seconds
        )
        return True


def _halves(start: float | None) -> Iterator[float | None]:
    """Yield the memory to plan for: first what is asked for or the planner takes by itself, then ever less."""
    yield start
    vram = SHRINK * (DEFAULT_VRAM_GB if start is None else start)
    while vram >= SMALLEST_VRAM_GB:
        yield vram
        vram *= SHRINK


def _size(configuration: Configuration) -> tuple[str, int]:
    return "×".join(map(str, configuration.patch_size)), configuration.batch_size


def _same_work(one: Configuration, other: Configuration) -> bool:
    return (one.patch_size, one.batch_size, one.network) == (other.patch_size, other.batch_size, other.network)


def _operations(configuration: Configuration) -> float:
    memory = configuration.memory
    return 0.0 if memory is None or memory.forward_flops is None else memory.forward_flops * configuration.batch_size
