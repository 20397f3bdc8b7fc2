"""The writer of datasets: nothing is replaced, mixed or half made without a word."""

from __future__ import annotations

import os

import numpy as np
import pytest
from convert_files import (
    SCAN,
    assert_valid,
    convert_siccs,
    edit_manifest,
    file_names,
    make_download,
    resave,
    save,
    scan,
)

from siccs_net.errors import (
    DataError,
    EnvironmentProblem,
    MissingPathError,
    UsageError,
)
from siccs_net.interop import writer
from siccs_net.interop.siccs import draft_siccs
from siccs_net.io.dataset import open_dataset
from siccs_net.pipeline.convert import convert


@pytest.fixture
def download(tmp_path):
    return make_download(tmp_path / "download")


@pytest.fixture
def out(tmp_path):
    return tmp_path / "raw" / "Dataset501_SICCS"


def test_an_interrupted_conversion_is_no_dataset_and_goes_on(download, out, monkeypatch):
    real, calls = writer.files.write_bytes, []

    def fails_on_the_fourth(path, data, **settings):
        calls.append(path)
        if len(calls) == 4:
            raise EnvironmentProblem("the disk is full", path=path)
        return real(path, data, **settings)

    draft = draft_siccs(download, download / "manifest.csv")
    with monkeypatch.context() as patch:
        patch.setattr(writer.files, "write_bytes", fails_on_the_fourth)
        with pytest.raises(EnvironmentProblem, match="disk is full"):
            convert(draft, out, workers=0)
    assert len(file_names(out)) == 3
    with pytest.raises(MissingPathError, match=r"no dataset\.json"):
        open_dataset(out)
    times = {name: (out / name).stat().st_mtime_ns for name in file_names(out)}
    result = convert(draft, out, workers=0)
    assert sum(file.status == "kept" for file in result.written) == 3
    assert all((out / name).stat().st_mtime_ns == time for name, time in times.items())
    assert_valid(out)


def test_dataset_json_is_written_last(download, out, monkeypatch):
    names = []
    real = writer.files.write_bytes
    monkeypatch.setattr(writer.files, "write_bytes", lambda path, data: (names.append(path.name), real(path, data))[1])
    convert_siccs(download, out)
    assert names[-1] == "dataset.json"
    assert set(names[-3:-1]) == {"patients.csv", "pft.csv"}


def test_a_dataset_is_replaced_only_when_asked(download, out):
    convert_siccs(download, out)
    before = {name: (out / name).read_bytes() for name in file_names(out)}
    resave(SCAN, lambda array: array + np.int16(1))(download)
    with pytest.raises(UsageError, match=r"is a dataset already.*--overwrite"):
        convert_siccs(download, out)
    assert {name: (out / name).read_bytes() for name in file_names(out)} == before
    result = convert_siccs(download, out, overwrite=True)
    changed = [name for name in file_names(out) if (out / name).read_bytes() != before[name]]
    assert changed == ["imagesTr/ssc_1_0000.nii.gz"]
    assert [file.path.name for file in result.written if file.status == "written"][:1] == ["ssc_1_0000.nii.gz"]


def test_other_content_in_a_half_made_dataset_is_not_replaced_silently(download, out):
    convert_siccs(download, out)
    (out / "dataset.json").unlink()
    (out / "imagesTr" / "ssc_1_0000.nii.gz").write_bytes(b"mine")
    with pytest.raises(UsageError, match=r"ssc_1_0000\.nii\.gz: is there with other content.*--overwrite"):
        convert_siccs(download, out)
    assert (out / "imagesTr" / "ssc_1_0000.nii.gz").read_bytes() == b"mine"
    assert not (out / "dataset.json").exists()


@pytest.mark.parametrize("name", ["imagesTr/old_0000.nii.gz", "imagesTs/old_0000.nii.gz", "labelsTs/old.nii.gz"])
def test_files_of_another_dataset_do_not_slip_in(download, out, name):
    (out / name).parent.mkdir(parents=True)
    (out / name).write_bytes(b"mine")
    for overwrite in (False, True):
        with pytest.raises(UsageError, match=f"do not belong to the dataset.*{name}"):
            convert_siccs(download, out, overwrite=overwrite)
    assert file_names(out) == [name]


def test_a_table_of_another_dataset_does_not_slip_in(download, out):
    convert_siccs(download, out)
    lines = (download / "manifest.csv").read_text().splitlines()
    (download / "manifest.csv").write_text("\n".join(",".join(line.split(",")[:3]) for line in lines))
    with pytest.raises(UsageError, match=r"patients\.csv, pft\.csv"):
        convert_siccs(download, out, overwrite=True)


def test_a_source_that_changes_meanwhile_is_noticed(download, out, monkeypatch):
    from siccs_net.pipeline import convert as verb

    real = verb.refuse_leftovers

    def change(folder, targets):
        real(folder, targets)
        resave(SCAN, lambda array: array + np.int16(1))(download)

    monkeypatch.setattr(verb, "refuse_leftovers", change)
    with pytest.raises(DataError, match=r"P1_ct\.nii\.gz: was changed while it was converted"):
        convert_siccs(download, out)
    assert not (out / "dataset.json").exists()


def test_links_need_no_room_and_outlive_their_source(download, out):
    result = convert_siccs(download, out, link=True)
    linked = {file.path.name for file in result.written if file.status == "linked"}
    assert linked == {f"ssc_{number}{end}.nii.gz" for number in (0, 1) for end in ("_0000", "")}
    assert (out / "imagesTr" / "ssc_0_0000.nii.gz").samefile(download / "ct" / "P0_ct.nii.gz")
    (download / "ct" / "P0_ct.nii.gz").unlink()
    assert_valid(out)


def test_replacing_a_link_leaves_its_source_alone(download, out):
    convert_siccs(download, out, link=True)
    source = (download / SCAN).read_bytes()
    other = save(download / "other.nii.gz", scan(9)[0])
    edit_manifest(download, SCAN, "other.nii.gz")
    convert_siccs(download, out, overwrite=True)
    assert (download / SCAN).read_bytes() == source
    assert (out / "imagesTr" / "ssc_1_0000.nii.gz").read_bytes() == other.read_bytes()


def test_a_link_that_cannot_be_made_is_not_replaced_by_a_copy(download, out, monkeypatch):
    import errno

    def other_disk(source, target):
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", other_disk)
    with pytest.raises(UsageError, match=r"cannot be linked.*Leave out --link"):
        convert_siccs(download, out, link=True)


def test_the_source_may_not_lie_in_the_datasets_own_folder(download):
    with pytest.raises(UsageError, match="inside its own folder"):
        convert_siccs(download, download)
