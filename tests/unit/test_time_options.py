"""Times on the command line, and steps that are counted when they are asked for."""

from __future__ import annotations

import argparse

import pytest

from siccs_net.cli.options import minutes
from siccs_net.data.loader import Steps


@pytest.mark.parametrize(
    ("text", "expected"), [("90s", 1.5), ("10min", 10), ("4h", 240), ("1h30min", 90), ("0.5h", 30), ("1 h 1 min", 61)]
)
def test_minutes(text, expected):
    assert minutes(text) == pytest.approx(expected)


@pytest.mark.parametrize("text", ["", "10", "min", "-5min", "0s", "3 weeks", "30min4h"])
def test_no_time(text):
    with pytest.raises(argparse.ArgumentTypeError, match="write such as"):
        minutes(text)


def test_steps_are_a_sequence():
    steps, listed = Steps(range(7, 31), 5), [divmod(number, 5) for number in range(7, 31)]
    assert list(steps) == listed
    assert len(steps) == len(listed)
    assert steps[3] == listed[3]
    assert steps[-1] == listed[-1]
    assert list(steps[20:40]) == listed[20:40]
    with pytest.raises(IndexError):
        steps[24]
