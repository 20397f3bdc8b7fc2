"""Cases held between planning and preprocessing: read once, given back once, read again when a file changes."""

from __future__ import annotations

import os

import numpy as np
import pytest

from siccs_net.io import image as image_module
from siccs_net.io.dataset import open_dataset
from siccs_net.io.held import cases_held
from siccs_net.io.image import read_case
from siccs_net.testing.tiny import write_tiny_dataset


@pytest.fixture
def case(tmp_path):
    (found,) = open_dataset(write_tiny_dataset(tmp_path / "Dataset999_Tiny", cases=1)).cases.values()
    return found


@pytest.fixture
def readings(monkeypatch):
    seen, read = [], image_module._read_case

    def counted(images, label, channels):
        seen.append(label)
        return read(images, label, channels)

    monkeypatch.setattr(image_module, "_read_case", counted)
    return seen


def equal(one, other):
    return all(np.array_equal(a.array, b.array) and a.sha256 == b.sha256 for a, b in zip(one, other, strict=True))


def test_two_readings_of_a_case_are_one(case, readings):
    with cases_held():
        first, second = (read_case(case.images, case.label) for _ in range(2))
        assert second[0] is first[0]
        assert len(readings) == 1
        assert equal(read_case(case.images, case.label), first)
        assert len(readings) == 2  # given back once, then forgotten
    assert read_case(case.images, case.label)[0] is not first[0]


def test_a_file_that_changed_is_read_again(case, readings):
    with cases_held():
        read_case(case.images, case.label)
        status = case.label.stat()
        os.utime(case.label, ns=(status.st_atime_ns, status.st_mtime_ns + 10**9))
        read_case(case.images, case.label)
        read_case(case.images, case.label, channels=1)
    assert len(readings) == 3


def test_no_more_is_held_than_there_is_room(case, readings):
    with cases_held(limit_bytes=10):
        read_case(case.images, case.label)
        read_case(case.images, case.label)
    assert len(readings) == 2


def test_a_command_reads_each_case_once_and_prepares_the_same(tmp_path, readings):
    from siccs_net.cli.process import run_command

    write_tiny_dataset(tmp_path / "w" / "raw" / "Dataset999_Tiny", cases=3)
    arguments = ["-d", "999", "-c", "3d_fullres", "--folds", "3", "--workspace", str(tmp_path / "w"), "--quiet"]
    assert run_command("plan_and_preprocess", arguments) == 0
    assert len(readings) == 3
    (folder,) = (tmp_path / "w" / "preprocessed" / "Dataset999_Tiny").glob("convnext_3d_fullres")
    held = {path.name: path.read_bytes() for path in folder.glob("*.b2nd")}
    assert len(held) == 6
    for path in folder.iterdir():
        if path.is_file():
            path.unlink()
    assert run_command("plan_and_preprocess", arguments) == 0
    assert {path.name: path.read_bytes() for path in folder.glob("*.b2nd")} == held
