"""The time that a training may take, and how much of it is gone."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

# The part of the time that validations on the way may take, and after which a state is written anyway.
_VALIDATING_SHARE = 0.05
_SAVING_SHARE = 0.05
# Writing the last state, the model and the pictures takes about this long.
_WRITING_S = 1.0
# A forward pass is about a third of a training step.
_FORWARD_SHARE = 1 / 3


@dataclass
class Clock:
    """Counts the seconds of a training, over all processes that took part in it one after another.

    With a budget, what is left at the end is for the last validation, of `samples` patches in terms of a batch, and for
    writing. `used_before_s` went by before a resume. The schedule begins with the first update.
    """

    budget_s: float | None = None
    used_before_s: float = 0.0
    samples: float = 0.0
    now: Callable[[], float] = time.monotonic
    step_s: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        self._started = self._validated = self._saved = self.now()
        self._first: float | None = None if self.used_before_s == 0 else 0.0
        self._validation_s: float | None = None
        self._step_began: float | None = None
        self._steps = 0

    @property
    def used_s(self) -> float:
        """The seconds that the training has taken."""
        return self.used_before_s + self.now() - self._started

    @property
    def validation_s(self) -> float:
        """How long a validation takes: as the last one did, before the first one by the time of a step."""
        return self.samples * self.step_s * _FORWARD_SHARE if self._validation_s is None else self._validation_s

    @property
    def done(self) -> float:
        """The share, 0..1, of the time for updates that is gone; 0 without a budget."""
        if self.budget_s is None:
            return 0.0
        first = self._first or 0.0
        return min(1.0, max(0.0, self.used_s - first) / max(self._usable_s - first, 1e-9))

    @property
    def is_over(self) -> bool:
        """Whether the next update would end nearer to the end if it did not begin; never without a budget."""
        return self.budget_s is not None and self.used_s + self.step_s / 2 >= self._usable_s

    @property
    def _usable_s(self) -> float:
        budget = self.budget_s or 0.0
        return max(budget - self.validation_s - _WRITING_S, 0.1 * budget)

    def begin_step(self) -> None:
        """Note that an update begins."""
        self._step_began = self.now()
        if self._first is None:
            self._first = self.used_s

    def end_step(self) -> None:
        """Note that the update is done: a running mean of their times, without the first, in which much is made."""
        taken = self.now() - (self._step_began if self._step_began is not None else self.now())
        self.step_s = taken if self._steps < 2 else 0.9 * self.step_s + 0.1 * taken
        self._steps += 1

    def may_validate(self) -> bool:
        """Say whether a validation on the way takes little of the time since the last one."""
        return self.budget_s is None or self.validation_s <= _VALIDATING_SHARE * (self.now() - self._validated)

    def validated(self, seconds: float) -> None:
        """Note that a validation is done and how long it took."""
        self._validation_s, self._validated = seconds, self.now()

    def must_save(self) -> bool:
        """Say whether so much of a budget went by without a state that one is due in the middle of an epoch."""
        return self.budget_s is not None and self.now() - self._saved > _SAVING_SHARE * self.budget_s

    def saved(self) -> None:
        """Note that a state is written."""
        self._saved = self.now()
