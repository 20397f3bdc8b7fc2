"""Atomic, verified writes; records that refuse what they do not know."""

from __future__ import annotations

import errno
import os
import subprocess
import sys

import pytest

from siccs_net.errors import EnvironmentProblem, MissingPathError, RecordError
from siccs_net.io import files
from siccs_net.records.dataset import Fold
from siccs_net.records.plan import Plan


def test_a_write_is_whole_and_leaves_nothing_behind(tmp_path):
    digest = files.write_bytes(tmp_path / "deep" / "a.bin", b"content")
    assert (tmp_path / "deep" / "a.bin").read_bytes() == b"content"
    assert digest == files.file_sha256(tmp_path / "deep" / "a.bin") == files.sha256(b"content")
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["a.bin"]


@pytest.mark.parametrize("step", ["write", "fsync", "replace"])
def test_a_full_disk_keeps_the_older_file_and_says_so(tmp_path, monkeypatch, step):
    path = tmp_path / "a.bin"
    files.write_bytes(path, b"old")

    def fail(*_args, **_kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    if step == "write":
        monkeypatch.setattr(files, "_write_synced", fail)
    else:
        monkeypatch.setattr(os, step, fail)
    with pytest.raises(EnvironmentProblem, match=r"a\.bin: the disk is full"):
        files.write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.bin"]


def test_bytes_that_read_back_differently_are_noticed(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "file_sha256", lambda path: "0" * 64)
    with pytest.raises(EnvironmentProblem, match="reads back other bytes"):
        files.write_bytes(tmp_path / "a.bin", b"content")
    assert not (tmp_path / "a.bin").exists()


def test_missing_files_are_named(tmp_path):
    for read in (files.read_bytes, files.file_sha256):
        with pytest.raises(MissingPathError, match="absent"):
            read(tmp_path / "absent")


def test_two_processes_do_not_share_a_folder(tmp_path):
    code = (
        "import sys; from pathlib import Path; from siccs_net.io import files\n"
        "with files.exclusive(Path(sys.argv[1]), 'training'): pass"
    )
    with files.exclusive(tmp_path, "training"):
        other = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
    assert "another process is training here" in other.stderr
    again = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
    assert again.returncode == 0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "JSON"),
        ("[]", "JSON object"),
        ('{"schema": "other", "version": 1}', "another kind"),
        ('{"schema": "siccs_net.plan", "version": 7}', "another version"),
        ('{"schema": "siccs_net.plan", "version": 1}', "schema; found"),
    ],
)
def test_a_record_of_another_kind_is_refused_by_name(tmp_path, text, words):
    (tmp_path / "plan.json").write_text(text)
    with pytest.raises(RecordError, match=rf"plan\.json.*{words}"):
        files.read_record(tmp_path / "plan.json", Plan)


def test_an_unknown_key_of_ours_is_refused():
    with pytest.raises(RecordError, match="extra"):
        Fold.from_json('{"train": [], "val": [], "extra": 1}')
