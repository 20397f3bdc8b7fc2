"""Decathlon tasks become datasets; files of several channels are taken apart exactly."""

from __future__ import annotations

import gzip
import json

import nibabel as nib
import numpy as np
import pytest
from convert_files import MOVED, OBLIQUE, SHAPE, assert_valid, file_names, save, scan, touch
from hypothesis import given
from hypothesis import strategies as st
from nibabel.nifti1 import Nifti1Extension

from siccs_net.errors import (
    DatasetError,
    ImageError,
    MissingPathError,
)
from siccs_net.interop.channels import split_channels
from siccs_net.interop.decathlon import draft_decathlon
from siccs_net.io.image import read_image, read_label
from siccs_net.pipeline.convert import convert


@pytest.fixture
def task(tmp_path):
    """A task of two channels with a test scan and the files that macOS leaves."""
    folder = tmp_path / "Task77_Chest"
    for number in range(3):
        image, label = scan(number)
        stack = np.stack([image, image[::-1] + np.int16(5)], axis=-1)
        if number < 2:
            save(folder / "imagesTr" / f"chest_{number}.nii.gz", stack)
            save(folder / "labelsTr" / f"chest_{number}.nii.gz", label)
        else:
            save(folder / "imagesTs" / f"chest_{number}.nii.gz", stack, sform=0)
    touch(folder, "imagesTr/._chest_0.nii.gz", "labelsTr/._chest_0.nii.gz", "imagesTs/._chest_2.nii.gz")
    body = {
        "name": "Chest",
        "licence": "CC-BY-SA 4.0",
        "tensorImageSize": "4D",
        "modality": {"0": "CT", "1": "PET"},
        "labels": {"0": "background", "1": "normal lung", "2": "EF", "3": "GGO"},
        "numTraining": 2,
        "numTest": 1,
        "training": [
            {"image": f"./imagesTr/chest_{number}.nii.gz", "label": f"./labelsTr/chest_{number}.nii.gz"}
            for number in range(2)
        ],
        "test": ["./imagesTs/chest_2.nii.gz"],
    }
    (folder / "dataset.json").write_text(json.dumps(body))
    return folder


def _describe(task, **changes):
    body = json.loads((task / "dataset.json").read_text())
    (task / "dataset.json").write_text(json.dumps({**body, **changes}))


def test_a_task_becomes_a_whole_dataset(task, tmp_path):
    out = tmp_path / "Dataset077_Chest"
    result = convert(draft_decathlon(task), out, workers=2)
    assert not result.problems
    dataset = assert_valid(out)
    assert dataset.description.channel_names == {"0": "CT", "1": "PET"}
    assert dataset.description.labels == {"background": 0, "normal lung": 1, "EF": 2, "GGO": 3}
    assert dataset.description.model_extra == {"name": "Chest", "licence": "CC-BY-SA 4.0"}
    assert dataset.description.numTraining == 2
    assert [path for path in file_names(out) if "images" in path] == [
        *[f"imagesTr/chest_{case}_000{channel}.nii.gz" for case in (0, 1) for channel in (0, 1)],
        *[f"imagesTs/chest_2_000{channel}.nii.gz" for channel in (0, 1)],
    ]
    for case, part in ((0, "imagesTr"), (1, "imagesTr"), (2, "imagesTs")):
        whole = nib.load(task / part / f"chest_{case}.nii.gz")
        for channel in (0, 1):
            one = nib.load(out / part / f"chest_{case}_{channel:04d}.nii.gz")
            assert np.array_equal(one.affine, whole.affine)
            assert np.array_equal(np.asarray(one.dataobj), np.asarray(whole.dataobj)[..., channel])
            assert one.get_data_dtype() == whole.get_data_dtype()
            assert int(one.header["sform_code"]) == int(whole.header["sform_code"])
    assert (out / "labelsTr/chest_0.nii.gz").read_bytes() == (task / "labelsTr/chest_0.nii.gz").read_bytes()
    image = read_image(dataset.cases["chest_1"].images)
    assert image.array.shape == (2, *SHAPE)
    assert np.array_equal(read_label(dataset.cases["chest_1"].label).array[0], _canonical(scan(1)[1]))


def _canonical(native):
    from siccs_net.geometry import Orientation

    return Orientation.of(native.shape, OBLIQUE).to_canonical(native)


def test_one_channel_is_copied_byte_for_byte(task, tmp_path):
    _describe(task, modality={"0": "CT"}, test=[])
    for path in [*task.glob("imagesTr/c*"), *task.glob("imagesTs/*")]:
        path.unlink()
    for number in range(2):
        save(task / "imagesTr" / f"chest_{number}.nii.gz", scan(number)[0])
    out = tmp_path / "Dataset077_Chest"
    assert not convert(draft_decathlon(task), out).problems
    assert_valid(out)
    for name in ("chest_0", "chest_1"):
        copy = out / "imagesTr" / f"{name}_0000.nii.gz"
        assert copy.read_bytes() == (task / "imagesTr" / f"{name}.nii.gz").read_bytes()


TASK_PROBLEMS = {
    "channel missing": (lambda t: _describe(t, modality={"0": "CT", "1": "PET", "2": "MR"}), "number of channels"),
    "one channel only": (lambda t: _describe(t, modality={"0": "CT"}), "must have three axes"),
    "three axes": (lambda t: save(t / "imagesTr/chest_1.nii.gz", scan(1)[0]), "must have four axes"),
    "no label": (lambda t: (t / "labelsTr/chest_1.nii.gz").unlink(), "chest_1: has no label"),
    "no image": (lambda t: (t / "imagesTr/chest_1.nii.gz").unlink(), "chest_1: has no image"),
    "incomplete": (lambda t: (t / "imagesTs/chest_2.nii.gz").unlink(), "listed in dataset.json and is not there"),
    "unknown value": (lambda t: _describe(t, labels={"0": "background", "1": "lung"}), "values 2 ("),
    "channels apart": (lambda t: save(t / "imagesTr/chest_1.nii", np.zeros((2, 2, 2, 2), np.int16)), "two files"),
    "elsewhere": (lambda t: save(t / "labelsTr/chest_1.nii.gz", scan(1)[1], MOVED), "elsewhere in space"),
    "no orientation": (
        lambda t: save(t / "imagesTr/chest_1.nii.gz", np.zeros((24, 20, 8, 2), np.int16), sform=0, qform=0),
        "chest_1.nii.gz: has no orientation",
    ),
    "truncated": (lambda t: (t / "imagesTr/chest_1.nii.gz").write_bytes(b"\x1f\x8b" + bytes(700)), "chest_1.nii.gz"),
}


@pytest.mark.parametrize("name", TASK_PROBLEMS)
def test_each_bad_task_is_a_clear_problem(task, tmp_path, name):
    damage, words = TASK_PROBLEMS[name]
    damage(task)
    result = convert(draft_decathlon(task), tmp_path / "Dataset077_Chest")
    assert any(words in problem.message for problem in result.errors), result.problems
    assert all("siccs_" not in problem.message for problem in result.errors)
    assert not result.written
    assert not (tmp_path / "Dataset077_Chest").exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"modality": {"1": "CT"}}, "not keyed 0, 1"),
        ({"modality": "CT"}, "does not name the channels"),
        ({"modality": {}}, "not keyed"),
        ({"labels": ["background"]}, "does not name the values"),
        ({"labels": {"background": 0}}, "does not name the values"),
        ({"labels": {"0": "background", "1": "a", "2": "a"}}, "two values one name"),
    ],
)
def test_a_task_that_describes_itself_wrongly(task, changes, words):
    _describe(task, **changes)
    with pytest.raises(DatasetError, match=words):
        draft_decathlon(task)


def test_a_background_of_another_name_is_told(task, caplog):
    _describe(task, labels={"0": "Clear Label", "1": "a", "2": "b", "3": "c"})
    assert draft_decathlon(task).labels == {"background": 0, "a": 1, "b": 2, "c": 3}
    assert "Clear Label" in caplog.text


def test_what_is_no_task(tmp_path, task):
    with pytest.raises(MissingPathError, match=r"no dataset\.json"):
        draft_decathlon(tmp_path)
    (task / "dataset.json").write_text("{")
    with pytest.raises(DatasetError, match="not readable as JSON"):
        draft_decathlon(task)
    (task / "dataset.json").write_text("[]")
    with pytest.raises(DatasetError, match="not a JSON object"):
        draft_decathlon(task)


@given(
    st.tuples(*[st.integers(1, 4)] * 4),
    st.sampled_from(["<i2", ">i2", "u1", "<f4", "<f8", "<u2", ">i4"]),
    st.sampled_from([(1.0, 0.0), (2.5, -1024.0), (np.nan, np.nan)]),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.integers(0, 2**32 - 1),
)
def test_channels_are_taken_apart_exactly(shape, dtype, scaling, second_version, extended, compressed, seed):
    """Against nibabel's own slicing: raw voxels, scaled values, affines, codes, units and extensions."""
    rng = np.random.default_rng(seed)
    data_type = np.dtype(dtype)
    kind = nib.Nifti2Image if second_version else nib.Nifti1Image
    header = kind.header_class(endianness=">" if dtype.startswith(">") else "<")
    image = kind(rng.integers(0, 200, shape).astype(data_type), None, header)
    image.set_data_dtype(data_type)
    image.set_sform(OBLIQUE + rng.normal(size=(4, 4)) * [[1], [1], [1], [0]], code=int(rng.integers(1, 4)))
    image.set_qform(np.diag([2, 3, 4, 1]), code=int(rng.integers(0, 4)))
    image.header.set_xyzt_units("mm", "sec")
    if extended:
        image.header.extensions.append(Nifti1Extension("comment", b"kept"))
    content = _with_scaling(image.to_bytes(), kind, *scaling)
    whole = kind.from_bytes(content)
    parts = split_channels(gzip.compress(content) if compressed else content)
    assert len(parts) == shape[3]
    for channel, part in enumerate(parts):
        one = kind.from_bytes(part)
        assert one.shape == shape[:3]
        assert one.get_data_dtype() == whole.get_data_dtype()
        assert np.array_equal(np.asarray(one.dataobj.get_unscaled()), whole.dataobj.get_unscaled()[..., channel])
        assert np.array_equal(np.asarray(one.dataobj), np.asarray(whole.dataobj)[..., channel])
        assert np.array_equal(one.affine, whole.affine)
        assert [item.get_content() for item in one.header.extensions] == [b"kept"] * extended
        for name in set(whole.header.keys()) - {"dim"}:
            assert one.header[name].tobytes() == whole.header[name].tobytes(), name


def _with_scaling(content, kind, slope, inter):
    header = kind.header_class(content[: kind.header_class.sizeof_hdr])
    header["scl_slope"], header["scl_inter"] = slope, inter
    return header.binaryblock + content[len(header.binaryblock) :]


def _stack_bytes():
    return nib.Nifti1Image(np.zeros((3, 4, 5, 2), np.int16), OBLIQUE).to_bytes()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "not a NIfTI file"),
        (b"x" * 600, "not a NIfTI file"),
        (_stack_bytes()[:-1], "truncated"),
        (gzip.compress(_stack_bytes())[:-9], "gzip"),
        (gzip.compress(_stack_bytes()) + b"tail", "not gzip after its end"),
        (nib.Nifti1Image(np.zeros((3, 4, 5), np.int16), OBLIQUE).to_bytes(), "four axes"),
        (nib.Nifti1Image(np.zeros((3, 4, 5, 2, 2), np.int16), OBLIQUE).to_bytes(), "four axes"),
        (_stack_bytes()[:70] + b"\x99\x09" + _stack_bytes()[72:], "not a readable NIfTI"),
        (_stack_bytes()[:108] + np.float32(8).tobytes() + _stack_bytes()[112:], "inside its header"),
        (_stack_bytes()[:42] + np.int16(-3).tobytes() + _stack_bytes()[44:], "four axes"),
    ],
)
def test_what_cannot_be_taken_apart(data, words):
    with pytest.raises(ImageError, match=words):
        split_channels(data)
