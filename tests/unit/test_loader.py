"""Batches from worker processes: an error and a killed worker each arrive as one clean error that names cases."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time

import numpy as np
import pytest
import torch

from siccs_net.augment.settings import AugmentationSettings
from siccs_net.data.loader import PatchReader, TrainingBatches, Waited, load_batches
from siccs_net.data.sampling import PatchSampler, Place
from siccs_net.errors import TrainingError
from siccs_net.records.statistics import ChannelScaling, Normalisation

PATCH = (4, 8, 8)
STEPS = [(0, number) for number in range(6)]


class _Index:
    shapes = {"one": (6, 12, 12), "two": (6, 12, 12)}  # noqa: RUF012

    def draw(self, case, rng, weights=None):
        return None

    def draw_labelled(self, case, rng):
        return None


class _Store:
    def image(self, case):
        return np.full((1, 6, 12, 12), 3, np.int16)

    def label(self, case):
        return np.ones((6, 12, 12), np.uint8)


class _Reader(PatchReader):
    def _normalisation(self, case):
        return self.normalisation


class _Breaks:
    def __call__(self, **data):
        raise KeyError("no such\nkey")


class _DiesAlone:
    """Kills the worker that runs it, as a system without memory does."""

    def __call__(self, **data):
        if multiprocessing.parent_process() is not None:
            os.kill(os.getpid(), signal.SIGKILL)
        return data


class _Crops:
    def __call__(self, *, data, seg, **rest):
        return {"data": data[..., : np.random.randint(1, 8)], "seg": seg, **rest}


def _batches(*transforms, sampler=None):
    scaling = ChannelScaling(scheme="none", mean=0.0, std=1.0, lower=0.0, upper=0.0)
    return TrainingBatches(
        reader=_Reader(_Store(), Normalisation(channels=(scaling,)), PATCH),
        sampler=sampler or PatchSampler(_Index(), ("one", "two"), PATCH, 0.0, seed=0, fold="0"),
        settings=AugmentationSettings(rotation_probability=0, scaling_probability=0),
        transforms=transforms,
        mirror_axes=(),
        spacing_mm=(1.0, 1.0, 1.0),
        batch_size=2,
        iterations=len(STEPS),
    )


@pytest.mark.parametrize("workers", [0, 1])
def test_batches_come_in_order(workers):
    made = list(load_batches(_batches(), STEPS, workers=workers))
    assert [step for step, _ in made] == STEPS
    for _, batch in made:
        assert batch.images.shape == (2, 1, *PATCH)
        assert torch.equal(batch.images, torch.full_like(batch.images, 3.0))
        assert sorted(batch.cases) == ["one", "two"]


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_in_a_worker_is_one_line_that_names_the_case(workers):
    started = time.monotonic()
    with pytest.raises(TrainingError, match=r"a sample of case '(one|two)' could not be made: KeyError") as caught:
        list(load_batches(_batches(_Breaks()), STEPS, workers=workers))
    assert time.monotonic() - started < 10
    assert "Traceback" not in str(caught.value)
    assert multiprocessing.active_children() == []  # though the error at hand keeps the loader's frames
    assert "\n" not in str(caught.value)


class _BrokenSampler(PatchSampler):
    def place(self, epoch, iteration, sample, *, iterations, batch_size):
        raise ZeroDivisionError("no place")


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_outside_a_sample_names_the_batch(workers):
    broken = _BrokenSampler(_Index(), ("one",), PATCH, 0.0, seed=0, fold="0")
    with pytest.raises(TrainingError, match="batch of epoch 0, iteration 0 could not be made: ZeroDivisionError"):
        list(load_batches(_batches(sampler=broken), STEPS, workers=workers))


def test_no_worker_outlives_a_training_that_stops_early():
    stream = load_batches(_batches(), STEPS, workers=2)
    next(stream)
    assert len(multiprocessing.active_children()) == 2
    stream.close()
    assert multiprocessing.active_children() == []


class _Shrinks(PatchSampler):
    def place(self, epoch, iteration, sample, *, iterations, batch_size):
        return Place(("one", "two")[sample], (3, 6, 6))


def test_samples_of_unlike_shapes_name_their_cases():
    sampler = _Shrinks(_Index(), ("one", "two"), PATCH, 0.0, seed=0, fold="0")
    batches = _batches(_Crops(), sampler=sampler)
    with pytest.raises(TrainingError, match="unlike shapes, from cases one, two"):
        list(load_batches(batches, STEPS, workers=1))


def test_a_killed_worker_is_an_error_that_names_the_cases_in_work():
    started = time.monotonic()
    with pytest.raises(TrainingError, match=r"a loader worker died.*Cases in work: one, two.*workers=0"):
        list(load_batches(_batches(_DiesAlone()), STEPS, workers=1))
    assert time.monotonic() - started < 20


def _slow_batches(pause):
    for step in STEPS:
        time.sleep(pause)
        yield step, None


def test_the_time_waited_for_batches_is_theirs_alone():
    batches = Waited(_slow_batches(0.02))
    started = time.monotonic()
    for _ in zip(batches, range(3), strict=False):
        time.sleep(0.05)
    whole = time.monotonic() - started
    assert 0.06 <= batches.take_seconds() <= whole - 3 * 0.05
    assert batches.take_seconds() == 0.0
    batches.close()
    assert list(batches) == []
