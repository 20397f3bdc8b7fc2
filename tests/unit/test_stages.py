"""Reading ahead and writing behind: outcomes as one after another, one item ahead at most, memory, interrupts."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from siccs_net.io.memory import free_bytes
from siccs_net.pipeline import memory
from siccs_net.pipeline.memory import has_room
from siccs_net.pipeline.stages import Stages


def _fail(kind):
    raise {"data": ValueError("bad"), "memory": MemoryError("full")}[kind]


def _stages(read=lambda item: item, compute=lambda item, read: read, write=lambda item, made: made, ahead=True):
    return Stages(
        read=read,
        compute=compute,
        write=write,
        may_read_ahead=lambda read, item, following: ahead,
        is_memory=lambda error: isinstance(error, MemoryError),
        errors=(ValueError, MemoryError),
    )


@given(st.lists(st.sampled_from(["fine", "read", "compute", "write"]), max_size=6), st.booleans())
def test_outcomes_are_those_of_one_after_another(fates, ahead):
    items = list(enumerate(fates))

    def step(name):
        def run(item, *made):
            if item[1] == name:
                _fail("data")
            return (*made[-1], name) if made else (name,)

        return run

    found = list(_stages(step("read"), step("compute"), step("write"), ahead).run(items))
    assert [item for item, _ in found] == items
    for item, result in found:
        if item[1] == "fine":
            assert result == ("read", "compute", "write")
        else:
            assert isinstance(result, ValueError)


@pytest.mark.parametrize("ahead", [True, False])
def test_the_next_is_read_and_the_last_written_meanwhile(ahead):
    """While item 1 is computed, item 2 is read and item 0 written, in other threads; never more than one ahead."""
    events, read, written = [], threading.Event(), threading.Event()

    def reading(item):
        events.append(("read", item))
        if item == 2:
            read.set()
        return item

    def compute(item, made):
        if item == 1 and ahead:
            assert read.wait(10)
            assert written.wait(10)
        events.append(("computed", item))
        assert threading.current_thread() is threading.main_thread()
        return item

    def write(item, made):
        assert threading.current_thread() is not threading.main_thread()
        written.set()
        return item

    assert [item for item, _ in _stages(reading, compute, write, ahead).run(range(4))] == list(range(4))
    for item in range(3):
        order = events.index(("read", item + 1)), events.index(("computed", item))
        if not ahead:
            assert order[0] > order[1]
        if item + 2 < 4:
            assert events.index(("read", item + 2)) > order[1]


def test_memory_that_runs_out_beside_another_item_is_tried_once_more():
    reads, computes, writes = [], [], []

    def read(item):
        reads.append(item)
        if item == 1 and reads.count(1) == 1:
            _fail("memory")
        return item

    def compute(item, made):
        computes.append(item)
        if item == 2 and computes.count(2) == 1:
            _fail("memory")
        return item

    def write(item, made):
        writes.append(item)
        if item == 0 and writes.count(0) == 1:
            _fail("memory")
        return item

    assert list(_stages(read, compute, write).run(range(4))) == [(item, item) for item in range(4)]
    assert (reads.count(1), reads.count(3), computes.count(2), writes.count(0)) == (2, 2, 2, 2)
    found = list(_stages(compute=lambda item, made: _fail("memory")).run(range(2)))
    assert [type(result) for _, result in found] == [MemoryError, MemoryError]


def test_memory_of_an_item_by_itself_is_not_tried_again():
    computes = []

    def compute(item, made):
        computes.append(item)
        _fail("memory")

    ((_, error),) = _stages(compute=compute).run([0])
    assert isinstance(error, MemoryError)
    assert computes == [0]


@pytest.mark.parametrize("stage", ["read", "compute", "write"])
def test_any_other_error_ends_the_run_and_leaves_no_thread(stage):
    def run(item, *made):
        if item == 1:
            raise KeyError(stage)
        return item

    before = threading.active_count()
    with pytest.raises(KeyError):
        list(_stages(**{stage: run}).run(range(4)))
    assert threading.active_count() == before


def test_an_interrupt_waits_for_what_is_being_written():
    begun, done = threading.Event(), []

    def compute(item, made):
        if item == 1:
            assert begun.wait(10)
            raise KeyboardInterrupt
        return item

    def write(item, made):
        begun.set()
        threading.Event().wait(0.2)
        done.append(item)
        return item

    with pytest.raises(KeyboardInterrupt):
        list(_stages(compute=compute, write=write).run(range(3)))
    assert done == [0]


def test_there_is_room_for_small_files_only(tmp_path, monkeypatch):
    assert free_bytes() > 0
    small, large = tmp_path / "small", tmp_path / "large"
    small.write_bytes(bytes(1000))
    large.write_bytes(bytes(5000))
    monkeypatch.setattr(memory, "free_bytes", lambda: 100_000)
    assert has_room([small], [small], held_bytes=0)
    assert not has_room([large], [small], held_bytes=0)  # 12 times 5,000 is more than half of what is free
    assert not has_room([small], [small], held_bytes=20_000)  # as its like took 20,000, three times over
    assert has_room([tmp_path / "missing"], [small], held_bytes=20_000)
    monkeypatch.setattr(memory, "free_bytes", lambda: None)
    assert not has_room([small], [small], held_bytes=0)
