"""Parts of one item's work: order, errors, and that they leave other items and numpy's threads alone."""

from __future__ import annotations

import threading

import pytest
from threadpoolctl import threadpool_info

from siccs_net import parallel
from siccs_net.parallel import one_thread_a_product, run_all, run_parts, split


def test_parts_come_in_order_and_run_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "available_cpus", lambda: 3)
    together = threading.Barrier(3, timeout=20)  # breaks unless three are in work at once
    assert run_parts(lambda part: (together.wait(), part * part)[1], range(6)) == [0, 1, 4, 9, 16, 25]


def test_a_part_that_fails_raises_its_own_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "available_cpus", lambda: 2)
    with pytest.raises(ZeroDivisionError):
        run_parts(lambda part: 1 // (part - 3), range(6))


def test_parts_of_items_side_by_side_take_one_thread_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "available_cpus", lambda: 2)
    both = threading.Barrier(2, timeout=20)

    def work(item: int) -> set[int]:
        both.wait()
        used = set(run_parts(lambda part: threading.get_ident(), range(4)))
        both.wait()
        return used

    for _, used in run_all(work, range(2), workers=2):
        assert len(used) == 1


def test_products_are_set_back_when_the_last_is_done() -> None:
    def threads() -> set[int]:
        return {info["num_threads"] for info in threadpool_info() if info["user_api"] == "blas"}

    before = threads()
    with one_thread_a_product():
        with one_thread_a_product():
            assert threads() == {1}
        assert threads() == {1}
    assert threads() == before


@pytest.mark.parametrize(("count", "most"), [(1, 4), (7, 3), (3, 9)])
def test_slices_cover_everything_once(count: int, most: int) -> None:
    slices = split(count, most=most)
    assert len(slices) <= most
    assert [number for part in slices for number in range(count)[part]] == list(range(count))
    assert all(part.stop > part.start for part in slices)
