"""Plug-in readers, nnU-Net's names of readers, datasets of several endings, and dataset.json written for a user."""

from __future__ import annotations

import importlib.metadata
import json
import sys
import types

import numpy as np
import pytest

from siccs_net import ImageReader, Volume, use_reader, write_dataset_json
from siccs_net.errors import DatasetError, ImageError, RecordError, UnavailableError, UsageError
from siccs_net.geometry import Orientation, canonical_affine
from siccs_net.io import formats
from siccs_net.io.dataset import open_dataset, require_whole
from siccs_net.io.image import read_image, read_label, write_image, write_label
from siccs_net.pipeline.evaluate import find_pairs
from siccs_net.pipeline.scans import find_scans
from siccs_net.pipeline.validate import validate
from siccs_net.planners.planner import normalisation_schemes
from siccs_net.preprocessing.statistics import apply_normalisation, fold_normalisation, image_normalisation, measure
from siccs_net.testing.tiny import LABELS, make_tiny_case, write_tiny_dataset

READER = """
import io
import numpy as np
from siccs_net import ImageReader, Volume


class NumpyReader(ImageReader):
    endings = (".npz",)

    def read(self, path):
        with np.load(path) as content:
            return Volume(content["voxels"][None], content["affine"])

    def encode(self, voxels, affine, header):
        stream = io.BytesIO()
        np.savez_compressed(stream, voxels=voxels, affine=affine)
        return stream.getvalue()
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    """An importable module with a reader of .npz files."""
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "npz_reader.py").write_text(READER)
    monkeypatch.syspath_prepend(str(tmp_path / "code"))
    monkeypatch.delitem(sys.modules, "npz_reader", raising=False)
    return "npz_reader:NumpyReader"


def _rewrite(folder, ending, *, folders=("imagesTr", "labelsTr"), describe=True, **keys):
    """Save the files of a tiny dataset in another format."""
    for path in [path for name in folders for path in (folder / name).glob("*.nii.gz")]:
        image = read_image([path])
        write_label(path.with_name(path.name.replace(".nii.gz", ending)), image.array[0], image.orientation)
        path.unlink()
    body = json.loads((folder / "dataset.json").read_text())
    (folder / "dataset.json").write_text(json.dumps({**body, **({"file_ending": ending} if describe else {}), **keys}))
    return folder


def test_a_reader_of_an_own_module_reads_and_writes_its_ending(tiny, module):
    with pytest.raises(UnavailableError, match="npz"):
        read_image([tiny / "x.npz"])
    use_reader(module)
    _rewrite(tiny, ".npz", overwrite_image_reader_writer=module)
    dataset = open_dataset(tiny)
    require_whole(dataset)
    assert validate(dataset, workers=0).problems == ()
    case = dataset.cases["tiny_002"]
    assert np.array_equal(read_image(case.images).array[0], make_tiny_case(2)[0])
    assert np.array_equal(read_label(case.label).array[0], make_tiny_case(2)[1])
    assert [scan.name for scan in find_scans(tiny / "imagesTr", 1)][2] == "tiny_002"


def test_dataset_json_alone_makes_the_reader_used(tiny, module):
    use_reader(module)
    _rewrite(tiny, ".npz", overwrite_image_reader_writer=module)
    formats._plugged.clear()
    formats._loaded.clear()
    require_whole(open_dataset(tiny))


def test_an_installed_reader_is_used_without_being_named(tiny, module, monkeypatch):
    use_reader(module)
    _rewrite(tiny, ".npz")
    formats._plugged.clear()
    formats._loaded.clear()
    entry = importlib.metadata.EntryPoint("NumpyReader", module, "siccs_net.readers")
    monkeypatch.setattr("siccs_net.plugins.entry_points", lambda group: [entry] if group == "siccs_net.readers" else [])
    assert len(find_scans(tiny / "imagesTr", 1)) == 8
    formats._plugged.clear()
    formats._loaded.clear()
    require_whole(open_dataset(_rename_reader(tiny, "NumpyReader")))


def _rename_reader(folder, name):
    body = json.loads((folder / "dataset.json").read_text())
    (folder / "dataset.json").write_text(json.dumps({**body, "overwrite_image_reader_writer": name}))
    return folder


@pytest.mark.parametrize("name", formats.NNUNET_READERS)
def test_the_readers_of_nnunet_are_understood(tiny, name):
    assert open_dataset(_rename_reader(tiny, name)).problems == ()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("SimpelITKIO", "no reader that is known: 'SimpelITKIO'.*SimpleITKIO, .*Tiff3DIO"),
        ("absent.module:Reader", "cannot import 'absent.module'"),
        ("readers.py:Reader", "names a file of code"),
        ("json:Nothing", "has no class 'Nothing'"),
        ("json:JSONDecoder", "JSONDecoder is no reader"),
    ],
)
def test_a_reader_that_is_not_there_is_one_problem(tiny, name, words):
    with pytest.raises(DatasetError, match=words):
        require_whole(open_dataset(_rename_reader(tiny, name)))


class _Broken(ImageReader):
    endings = (".broken",)

    def read(self, path):
        if path.stem == "flat":
            return Volume(np.zeros((3, 4)), np.eye(4))
        raise KeyError("voxels")


class _Shouting(ImageReader):
    endings = (".XYZ",)


def test_what_a_plug_in_does_wrong_is_named(tmp_path):
    use_reader(_Broken)
    for name in ("flat.broken", "scan.broken"):
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(ImageError, match=r"scan\.broken.*reader _Broken failed.*KeyError"):
        read_image([tmp_path / "scan.broken"])
    with pytest.raises(UsageError, match=r"flat\.broken.*_Broken breaks its contract.*\(3, 4\)"):
        read_image([tmp_path / "flat.broken"])
    with pytest.raises(UsageError, match=r"_Shouting has no usable endings"):
        use_reader(_Shouting)


def test_a_plug_in_may_read_a_built_in_ending(tmp_path, module):
    own = type("Own", (__import__("npz_reader").NumpyReader,), {"endings": (".nii.gz",)})
    use_reader(own)
    place = Orientation.of((6, 5, 4), canonical_affine((1, 1, 1)))
    write_label(tmp_path / "a.nii.gz", np.ones((4, 5, 6), np.uint8), place)
    assert (tmp_path / "a.nii.gz").read_bytes()[:2] == b"PK"
    assert read_label(tmp_path / "a.nii.gz").array.all()


@pytest.mark.parametrize("ending", [".nrrd", ".mha", ".mhd", ".nhdr", ".nii", ".tif"])
def test_labels_may_have_another_ending_than_images(tiny, ending):
    _rewrite(tiny, ending, folders=("labelsTr",), describe=False)
    dataset = open_dataset(tiny)
    assert len(dataset.cases) == 8
    assert dataset.problems == ()
    assert dataset.cases["tiny_000"].label.name == f"tiny_000{ending}"
    problems = validate(dataset, workers=0).problems
    assert problems == () or ending == ".tif"  # a stack of slices in TIFF has no place in space


def test_two_labels_of_one_case_are_a_problem_unless_one_has_the_datasets_ending(tiny):
    for name in ("tiny_000.nrrd", "tiny_000.mha"):
        (tiny / "labelsTr" / name).write_bytes(b"")
    problems = open_dataset(tiny).problems
    assert {problem.severity for problem in problems} == {"warning"}
    assert len(problems) == 2
    (tiny / "labelsTr" / "tiny_000.nii.gz").unlink()
    found = [problem.message for problem in open_dataset(tiny).problems if problem.severity == "error"]
    assert "tiny_000: two label maps: tiny_000.mha and tiny_000.nrrd" in found


def test_listed_files_in_a_format_that_is_not_read_are_named(tiny):
    (tiny / "scan.dcm").write_bytes(b"")
    body = json.loads((tiny / "dataset.json").read_text())
    body["dataset"] = {"one": {"images": ["scan.dcm"], "label": "labelsTr/tiny_001.nii.gz"}}
    (tiny / "dataset.json").write_text(json.dumps(body))
    with pytest.raises(DatasetError, match=r"one: scan\.dcm is in a format that is not read"):
        require_whole(open_dataset(tiny))


def test_evaluation_pairs_masks_of_different_formats(tmp_path):
    place = Orientation.of((6, 5, 4), canonical_affine((2, 1, 1)))
    for folder, ending in (("pred", ".mha"), ("ref", ".nii.gz")):
        write_label(tmp_path / folder / f"a{ending}", np.ones((4, 5, 6), np.uint8), place)
    ((name, predicted, wanted),) = find_pairs(tmp_path / "pred", tmp_path / "ref")[0]
    assert (name, predicted.name, wanted.name) == ("a", "a.mha", "a.nii.gz")


def _label(folder, array, header=None):
    place = Orientation.of((6, 5, 4), canonical_affine((2, 1, 1)))
    write_image(folder / "label.nrrd", array, place)
    return read_label(folder / "label.nrrd").array[0]


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int64, np.float32, np.float64])
def test_label_values_are_whole_numbers_in_any_storage(tmp_path, dtype):
    array = np.array([0, 2, 7, 2], dtype)[np.arange(120) % 4].reshape(4, 5, 6)
    found = _label(tmp_path, array)
    assert found.dtype.kind in "iu"
    assert np.array_equal(found, array)


@pytest.mark.parametrize(("value", "words"), [(0.5, "such as 0.5"), (-1.25, "such as -1.25"), (2.002, "such as 2.002")])
def test_fractions_are_refused_with_the_value(tmp_path, value, words):
    array = np.zeros((4, 5, 6), np.float32)
    array[1, 2, 3] = value
    with pytest.raises(ImageError, match=rf"label\.nrrd.*whole numbers.*1 voxels {words}"):
        _label(tmp_path, array)


def test_schemes_follow_channel_names_in_any_case(tmp_path):
    names = ["CT", "ct", "noNorm", "NONORM", "zscore", "T2", "rescale_to_0_1", "Rescale_To_0_1", "rgb_to_0_1"]
    wanted = ["ct", "ct", "none", "none", *["zscore_image"] * 2, "rescale_to_0_1", "rescale_to_0_1", "rgb_to_0_1"]
    description = types.SimpleNamespace(channel_names=dict(zip("012345678", names, strict=True)), channels=9)
    schemes = normalisation_schemes(types.SimpleNamespace(description=description), region="all")
    assert [item.scheme for item in schemes] == wanted


@pytest.mark.parametrize(
    ("scheme", "by_hand"),
    [
        ("none", lambda x: x),
        ("zscore_image", lambda x: (x - x.mean()) / x.std()),
        ("rescale_to_0_1", lambda x: (x - x.min()) / (x.max() - x.min())),
        ("rgb_to_0_1", lambda x: x / 255),
    ],
)
def test_schemes_are_what_they_say(scheme, by_hand):
    voxels = np.random.default_rng(0).integers(20, 200, (1, 3, 8, 8)).astype(np.float32)
    own = [measure(voxels[0])]
    normalisation = image_normalisation(fold_normalisation([scheme], [own]), own)
    assert np.allclose(apply_normalisation(voxels, normalisation), by_hand(voxels.astype(np.float64)), atol=1e-5)


def test_levels_outside_8_bits_are_named(tiny):
    body = json.loads((tiny / "dataset.json").read_text())
    (tiny / "dataset.json").write_text(json.dumps({**body, "channel_names": {"0": "rgb_to_0_1"}}))
    messages = [problem.message for problem in validate(open_dataset(tiny), workers=0).errors]
    assert len(messages) == 8
    assert "called rgb_to_0_1 but holds -1" in messages[0]


def test_dataset_json_is_written_and_counted(tmp_path):
    folder = write_tiny_dataset(tmp_path / "Dataset999_Tiny", cases=3)
    with pytest.raises(DatasetError, match=r"dataset\.json.*overwrite=True"):
        write_dataset_json(folder, ["CT"], LABELS)
    (folder / "dataset.json").unlink()
    path = write_dataset_json(folder, ["CT"], LABELS, siccs_groups={"lung": [1, 2, 3]}, licence="CC0", name=None)
    body = json.loads(path.read_text())
    assert body["numTraining"] == 3
    assert body["channel_names"] == {"0": "CT"}
    assert body["licence"] == "CC0"
    assert "name" not in body
    assert open_dataset(folder).problems == ()
    write_dataset_json(folder, {0: "CT"}, {"background": 0, "lung": (1, 2, 3)}, regions_class_order=[1], overwrite=True)
    assert json.loads(path.read_text())["labels"]["lung"] == [1, 2, 3]


def test_dataset_json_is_not_written_for_a_wrong_folder(tmp_path):
    folder = write_tiny_dataset(tmp_path / "Dataset999_Tiny", cases=2)
    (folder / "dataset.json").unlink()
    with pytest.raises(DatasetError, match="channel 1 is missing"):
        write_dataset_json(folder, ["CT", "PET"], LABELS)
    with pytest.raises(RecordError, match="background"):
        write_dataset_json(folder, ["CT"], {"a": 1})
    with pytest.raises(DatasetError, match=r"file_ending '\.dcm' is not read"):
        write_dataset_json(folder, ["CT"], LABELS, ".dcm")
    assert not (folder / "dataset.json").exists()
