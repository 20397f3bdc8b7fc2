"""The harness of `python -m benchmarks.compare`: processes, memory, merging of results, and the page made of them."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.compare import page, results
from benchmarks.compare.agreement import Agreement, LargestDifference, ShareEqual
from benchmarks.compare.harness import Measured, Row, Stage, measure
from benchmarks.compare.sides import SideProcess
from benchmarks.compare.targets import TARGETS, Target, verdict

KEYS = {"stage", "peer", "ours_s", "peer_s", "ratio", "agreement", "ours_mib", "peer_mib"}
MACHINE = {"processor": "P", "instructions": "AVX2", "cores": "2", "memory": "24 GiB", "torch": "2.13.0"}
MIB = 2**20


def write_number(folder: Path) -> None:
    (folder / "number").write_text("7")


def quick(folder: Path) -> object:
    number = int((folder / "number").read_text())
    return lambda: (number, os.environ.get("OMP_WAIT_POLICY"))


def slow(folder: Path) -> object:
    number = int((folder / "number").read_text())

    def run() -> tuple[int, str | None]:
        time.sleep(0.2)
        return number, os.environ.get("OMP_WAIT_POLICY")

    return run


def sets_apart(ours: tuple[int, str | None], peer: tuple[int, str | None]) -> Agreement:
    return Agreement(f"{ours} {peer}", ours[0] == peer[0] == 7)


def frees_then_takes(folder: Path) -> object:
    """What was freed while preparing must not hide what the run takes."""
    before = np.ones(64 * MIB, np.uint8)
    assert before.all()
    del before
    return lambda: int(np.ones(32 * MIB, np.uint8)[-1])


def takes_in_a_child(folder: Path) -> object:
    code = "import time; block = bytearray(b'x') * (96 << 20); time.sleep(0.6)"
    return lambda: subprocess.run([sys.executable, "-c", code], check=True).returncode


def fails(folder: Path) -> object:
    def run() -> None:
        raise KeyError("no such case")

    return run


def dies(folder: Path) -> object:
    return lambda: os._exit(9)


def stage(ours: object, theirs: object = quick, **more: object) -> Stage:
    return Stage("help", "someone", ours, theirs, sets_apart, share=write_number, **more)


def test_the_sides_run_apart_and_only_ours_is_set_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    found = measure(stage(quick, slow), repeats=3)
    assert found.row.agreement == "(7, 'PASSIVE') (7, None)"
    assert "OMP_WAIT_POLICY" not in os.environ
    assert found.agrees
    assert found.turns == 3
    assert found.row.peer_s >= 0.2 > found.row.ours_s
    assert 1 < found.lowest <= found.highest
    assert set(found.row.as_dict()) == KEYS


@pytest.mark.parametrize("side", ["ours", "peer"])
def test_memory_that_was_freed_before_hides_nothing(tmp_path: Path, side: str) -> None:
    with SideProcess(stage(frees_then_takes, frees_then_takes), side, tmp_path) as process:
        assert process.memory(tmp_path / "result") == pytest.approx(32, abs=4)


def test_memory_of_a_command_counts(tmp_path: Path) -> None:
    with SideProcess(stage(takes_in_a_child), "ours", tmp_path) as process:
        assert 96 <= process.memory(tmp_path / "result") < 200


def test_an_error_says_its_stage_and_itself() -> None:
    with pytest.raises(RuntimeError, match="stage help: KeyError: 'no such case'"):
        measure(stage(fails))


def test_a_process_that_dies_is_an_error(tmp_path: Path) -> None:
    with (
        SideProcess(stage(dies), "ours", tmp_path) as process,
        pytest.raises(RuntimeError, match=r"exit code 9"),
    ):
        process.seconds()


def test_agreements_hold_up_to_their_limits() -> None:
    ours, peer = np.array([1.0, 2.0]), np.array([1.0, 2.5])
    assert LargestDifference("HU", 0.5)(ours, peer) == Agreement("max difference 5.0e-01 HU", True)
    assert not LargestDifference("HU", 0.4)(ours, peer).holds
    same = np.zeros(1000, np.uint8)
    other = same.copy()
    other[:2] = 1
    assert ShareEqual(0.998)(same, other).holds
    assert not ShareEqual(0.999)(same, other).holds
    assert not ShareEqual(0.5)(same, same[:-1]).holds


def row(name: str, ratio: float = 50.0, ours_mib: float = 10.0, *, agrees: bool = True) -> Measured:
    return Measured(Row(name, "nnU-Net", 1.0, ratio, ratio, "as asked", ours_mib, 100.0), agrees, 5, ratio, ratio)


def test_rows_of_other_stages_stay(tmp_path: Path) -> None:
    order = ["export", "read", "help"]
    results.merge([row("help"), row("export")], MACHINE, order, tmp_path)
    results.merge([row("read"), row("help", 60.0)], MACHINE, order, tmp_path)
    written = json.loads((tmp_path / results.ROWS).read_text())
    assert [(one["stage"], one["ratio"]) for one in written] == [("export", 50.0), ("read", 50.0), ("help", 60.0)]
    assert all(set(one) == KEYS for one in written)


def test_rows_of_another_machine_do_not_stand_together(tmp_path: Path) -> None:
    elsewhere = {**MACHINE, "processor": "Q"}
    results.merge([row("help"), row("export")], MACHINE, ["export", "help"], tmp_path)
    assert results.cannot_merge(["help"], MACHINE, tmp_path) is None
    assert "processor" in (results.cannot_merge(["help"], elsewhere, tmp_path) or "")
    assert results.cannot_merge(["help", "export"], elsewhere, tmp_path) is None
    results.merge([row("help")], elsewhere, ["export", "help"], tmp_path)
    assert list(results.read(tmp_path).rows) == ["help"]


def test_a_target_is_met_or_said_to_be_short() -> None:
    target = Target("x", 30, "exact", memory=5, aim=60)
    assert verdict(target, row("x", 70).row.as_dict(), agrees=True) == "met"
    assert verdict(target, row("x", 50).row.as_dict(), agrees=True) == "met (aim 60× not)"
    found = verdict(target, row("x", 20, 50).row.as_dict(), agrees=False)
    assert found == "**short**: time 20.0× of 30×, memory 2.0× of 5×, agreement"
    limited = Target("x", 1, "exact", mib=64)
    assert verdict(limited, row("x", 2, 65).row.as_dict(), agrees=True) == "**short**: memory 65 MiB, at most 64"


def test_the_page_shows_what_was_measured(tmp_path: Path) -> None:
    results.merge([row("help", 54.0), row("export", 39.0)], MACHINE, list(TARGETS), tmp_path)
    made = page.make_page(results.read(tmp_path))
    assert "| `help` | 20×, aim 40× |  |  | met |" in made
    assert "**short**: time 39.0× of 40×" in made
    assert "| `read` | 1.5× |  | every voxel | not measured |" in made
    assert "P (AVX2), 2 cores, 24 GiB; torch 2.13.0" in made
    assert page.make_page(results.read(tmp_path / "none")).count("not measured") == len(TARGETS)


def test_what_limits_a_stage_is_said_where_it_falls_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("help", "export"):
        monkeypatch.setitem(TARGETS, name, replace(TARGETS[name], note=f"limit of {name}"))
    results.merge([row("help", 54.0), row("export", 39.0)], MACHINE, list(TARGETS), tmp_path)
    made = page.make_page(results.read(tmp_path))
    assert "\n`export`: limit of export\n" in made
    assert "limit of help" not in made


def test_the_committed_page_is_made_from_the_committed_results() -> None:
    assert page.PAGE.read_text() == page.make_page(results.read()), "run python -m benchmarks.compare --docs"


def test_every_stage_has_a_target_and_can_be_sent_to_a_process() -> None:
    if importlib.util.find_spec("batchgenerators") is None:
        pytest.skip("needs batchgenerators")
    import pickle

    from benchmarks.compare.stages import STAGES

    assert set(STAGES) <= set(TARGETS)
    for one in STAGES.values():
        assert pickle.loads(pickle.dumps(one)).name == one.name
        assert one.repeats >= 5


def test_slices_are_repeated_without_a_jump() -> None:
    from benchmarks.prediction_memory import repeat_slices

    array = np.arange(6).reshape(1, 2, 3)
    assert repeat_slices(array, 1).tolist() == array.tolist()
    assert repeat_slices(array, 4)[0, 0].tolist() == [0, 1, 2, 2, 1, 0, 0, 1, 2, 2, 1, 0]


def test_the_fitted_head_separates_by_density() -> None:
    import torch

    from benchmarks.compare.weights import draw_network, fit_head

    network = draw_network(0)
    image = torch.nn.functional.interpolate(torch.randn(1, 1, 4, 4, 4), size=(48, 48, 48), mode="trilinear")[0, 0]
    labels = (image > 0.3).long() + 2 * (image < -0.3).long()
    fit_head(network, image, labels)
    with torch.inference_mode():
        found = network(image[None, None]).argmax(1)[0]
    assert (found == labels).float().mean() > 0.6  # a guess: 0.37
    assert (found.flatten().bincount() > 0.1 * found.numel()).all()
