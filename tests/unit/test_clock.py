"""The clock of a training with a budget, by a time that is made up."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from siccs_net.trainers.budget import Clock


class Time:
    def __init__(self):
        self.seconds = 100.0

    def __call__(self):
        return self.seconds


def train(clock, time, *, step, validation, build=0.0, iterations=50):
    """Take epochs as the trainer does; return the share of the schedule of every step."""
    time.seconds += build
    shares, ended = [], False
    while not ended:
        for _ in range(iterations):
            clock.begin_step()
            shares.append(clock.done)
            time.seconds += step
            clock.end_step()
            if clock.is_over:
                break
        ended = clock.is_over
        if ended or clock.may_validate():
            time.seconds += validation
            clock.validated(validation)
            ended = ended or clock.is_over
    return shares


@given(
    budget=st.floats(60, 7200),
    step=st.floats(0.01, 0.04),
    validation=st.floats(0.2, 3.0),
    build=st.floats(0, 0.02),
)
def test_a_training_ends_within_five_percent_with_its_schedule_complete(budget, step, validation, build):
    time, step_s = Time(), step * budget
    clock = Clock(budget, samples=16 / 4, now=time)
    # The first validation is guessed from the time of a step: here it takes up to three times as long.
    shares = train(clock, time, step=step_s, validation=validation * 4 * step_s / 3, build=build * budget)
    assert shares == sorted(shares)
    assert shares[0] == 0
    assert shares[-1] > 0.8
    assert time.seconds - 100 <= 1.05 * budget + max(validation - 1, 0) * 4 * step_s / 3
    assert time.seconds - 100 >= 0.9 * budget - 4 * step_s


def test_short_steps_end_to_the_second():
    time = Time()
    clock = Clock(600.0, samples=4, now=time)
    shares = train(clock, time, step=0.5, validation=2.0)
    assert time.seconds - 100 == pytest.approx(600, abs=2)
    assert shares[-1] > 0.99


def test_what_went_before_counts_and_the_schedule_goes_on():
    time = Time()
    clock = Clock(600.0, 300.0, samples=4, now=time)
    shares = train(clock, time, step=0.5, validation=2.0)
    assert shares[0] == pytest.approx(0.5, abs=0.01)
    assert time.seconds - 100 == pytest.approx(300, abs=2)


def test_without_a_budget_nothing_ends():
    time = Time()
    clock = Clock(now=time)
    clock.begin_step()
    time.seconds += 1e6
    clock.end_step()
    assert (clock.done, clock.is_over, clock.may_validate(), clock.must_save()) == (0, False, True, False)
    assert clock.used_s == 1e6


def test_validations_on_the_way_take_a_twentieth_and_states_are_written_in_long_epochs():
    time = Time()
    clock = Clock(1000.0, samples=3, now=time)
    clock.begin_step()
    time.seconds += 10
    clock.end_step()
    assert clock.validation_s == pytest.approx(10)
    assert not clock.may_validate()
    assert not clock.must_save()
    time.seconds += 200
    assert clock.may_validate()
    assert clock.must_save()
    clock.saved()
    clock.validated(20.0)
    assert not clock.must_save()
    assert not clock.may_validate()
