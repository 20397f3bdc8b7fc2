"""What predict and evaluate are given: names, formats, files in the way, scans too large; each is refused by name."""

from __future__ import annotations

import json
import logging
import os
import types

import nibabel as nib
import numpy as np
import pytest
from PIL import Image as Pillow

from siccs_net.errors import DataError, EnvironmentProblem, UsageError
from siccs_net.geometry import Orientation, canonical_affine
from siccs_net.inference.predictor import Answer
from siccs_net.io.files import file_sha256
from siccs_net.io.image import Segmentation, read_label, write_image
from siccs_net.pipeline import predict as predict_module
from siccs_net.pipeline.evaluate import evaluate, find_pairs
from siccs_net.pipeline.predict import predict_scans
from siccs_net.pipeline.scans import find_scans
from siccs_net.records.plan import InferenceSettings
from siccs_net.records.prediction import Tiles


class _Model:
    """What a batch needs of a Model: a threshold, or an error for one scan."""

    sha256 = "0" * 64
    folds = ("0",)
    speed = "balanced"
    configuration = types.SimpleNamespace(inference=InferenceSettings(), previous_stage=None)

    def __init__(self, **errors):
        self.errors = errors
        self.calls = 0

    def prepare(self, image):
        return types.SimpleNamespace(image=image.array)

    def segment(self, image, prepared, *, previous=None, probabilities=False, show_progress=False):
        self.calls += 1
        if image.sha256[0] in self.errors:
            raise self.errors[image.sha256[0]]
        mask = (prepared.image[:1] > 0).astype(np.uint8)
        segmentation = Segmentation(mask, image.orientation, {"bright": (1,)}, image.header)
        return Answer(segmentation, None, Tiles(run=1, total=1, skipped="nothing"))


def _save(path, value=1, shape=(4, 5, 6)):
    path.parent.mkdir(exist_ok=True, parents=True)
    nib.save(nib.Nifti1Image(np.full(shape, value, np.int16), np.diag([-1, -1, 2, 1.0])), path)
    return path


def _names(scans):
    return {scan.name: sorted(path.name for path in scan.paths) for scan in scans}


def test_with_one_channel_only_0000_is_a_channel(tmp_path):
    for name in ("patient_0012", "other_0000", "plain"):
        _save(tmp_path / f"{name}.nii.gz")
    scans = find_scans(tmp_path, 1)
    assert list(_names(scans)) == ["other", "patient_0012", "plain"]
    assert not [scan for scan in scans if scan.problem]
    assert _names(find_scans(tmp_path / "patient_0012.nii.gz", 1)) == {"patient_0012": ["patient_0012.nii.gz"]}


@pytest.mark.parametrize(
    ("files", "channels"),
    [
        (["a.nii.gz", "a_0000.nii.gz"], 1),
        (["a_0000.nii.gz", "a_0001.nii.gz"], 1),
        (["a.nii", "a.nii.gz"], 1),
        (["a.mha", "a.nii.gz"], 1),
        (["a_0000.nii.gz", "a_0002.nii.gz"], 2),
    ],
)
def test_refused_groups_name_every_file(tmp_path, files, channels):
    for name in files:
        (tmp_path / name).write_bytes(b"x")
    (scan,) = find_scans(tmp_path, channels)
    assert _names([scan]) == {"a": sorted(files)}
    for name in files:
        assert name in str(scan.problem)


@pytest.mark.parametrize(
    "name", ["a.gipl", "a.mgz", "a.hdr", "a.dcm", "a.NII.GZ", "a.NII", "a.Nii.gz", "a.jpg", "a.TIF"]
)
def test_images_in_other_formats_are_refused_by_name(tmp_path, name):
    _save(tmp_path / "in" / "good.nii.gz")
    (tmp_path / "in" / name).write_bytes(b"x")
    (tmp_path / "in" / "notes.txt").write_bytes(b"x")
    outcomes = predict_scans(_Model(), find_scans(tmp_path / "in", 1), tmp_path / "out")
    assert {outcome.scan.name: outcome.status for outcome in outcomes} == {name: "refused", "good": "written"}
    refused = next(outcome for outcome in outcomes if outcome.status == "refused")
    assert name in str(refused.error)
    assert "not read by this version" in str(refused.error)


def test_a_mask_has_its_scans_format_and_is_kept(tmp_path):
    """A stack in TIFF has its spacing in CASE.json: our record holds it, and a second run still knows the mask."""
    place = Orientation.of((6, 5, 4), canonical_affine((3, 0.5, 0.25)))
    (tmp_path / "in").mkdir()
    for name in ("a.nii", "b_0000.mha", "c.nrrd", "d_0000.tif"):
        write_image(tmp_path / "in" / name, np.ones((4, 5, 6), np.int16), place)
    (tmp_path / "in" / "d_0000.json").rename(tmp_path / "in" / "d.json")
    for status in ("written", "kept"):
        outcomes = predict_scans(_Model(), find_scans(tmp_path / "in", 1), tmp_path / "out")
        assert [outcome.output.name for outcome in outcomes] == ["a.nii", "b.mha", "c.nrrd", "d.tif"]
        assert [outcome.status for outcome in outcomes] == [status] * 4
    assert json.loads((tmp_path / "out" / "d.json").read_text())["spacing"] == [3, 0.5, 0.25]
    for outcome in outcomes:
        assert np.allclose(read_label(outcome.output).grid.spacing_mm, (3, 0.5, 0.25))


def test_a_picture_of_other_channels_than_the_models_is_refused(tmp_path):
    Pillow.fromarray(np.zeros((5, 6, 3), np.uint8)).save(tmp_path / "colour_0000.png")
    Pillow.fromarray(np.zeros((5, 6), np.uint8)).save(tmp_path / "grey_0000.png")
    for channels, wrong in ((3, "grey"), (1, "colour")):
        outcomes = predict_scans(_Model(), find_scans(tmp_path, channels), tmp_path / f"out{channels}")
        assert {outcome.scan.name for outcome in outcomes if outcome.status == "refused"} == {wrong}
        (error,) = [outcome.error for outcome in outcomes if outcome.error]
        assert f"{wrong}_0000.png" in str(error)
        assert "another number of channels" in str(error)


def test_names_that_are_not_utf8_are_refused(tmp_path):
    for name in (b"caf\xe9_0000.nii.gz", b"caf\xe9.gipl"):
        (tmp_path / os.fsdecode(name)).write_bytes(b"x")
    _save(tmp_path / "good.nii.gz")
    outcomes = predict_scans(_Model(), find_scans(tmp_path, 1), tmp_path / "out")
    assert sorted(outcome.status for outcome in outcomes) == ["refused", "refused", "written"]
    for outcome in outcomes:
        f"{outcome.scan.name} {outcome.error}".encode()
        assert outcome.error is None or "not UTF-8" in str(outcome.error)


def test_a_mask_never_replaces_an_input(tmp_path):
    path = _save(tmp_path / "a.nii.gz")
    before, model = path.read_bytes(), _Model()
    with pytest.raises(UsageError, match=r"a\.nii\.gz.*would replace an input"):
        predict_scans(model, find_scans(tmp_path, 1), tmp_path, overwrite=True)
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(UsageError, match="would replace an input"):
        predict_scans(model, find_scans(path, 1), tmp_path / "link")
    assert path.read_bytes() == before
    assert model.calls == 0


@pytest.mark.parametrize("name", ["mask.nii.gz", "mask.nii", "mask.NII.GZ"])
def test_an_output_named_like_a_file_is_refused(tmp_path, name):
    scans = find_scans(_save(tmp_path / "in" / "a.nii.gz"), 1)
    with pytest.raises(UsageError, match="output is a folder"):
        predict_scans(_Model(), scans, tmp_path / name)
    assert not (tmp_path / name).exists()


def test_a_foreign_json_in_the_records_place_is_kept(tmp_path):
    scans = find_scans(_save(tmp_path / "in" / "a.nii.gz"), 1)
    foreign = tmp_path / "out" / "a.json"
    foreign.parent.mkdir()
    foreign.write_text('{"mine": 1}')
    (refused,) = predict_scans(_Model(), scans, tmp_path / "out")
    assert isinstance(refused.error, DataError)
    assert "a.json" in str(refused.error)
    assert foreign.read_text() == '{"mine": 1}'
    assert not (tmp_path / "out" / "a.nii.gz").exists()
    assert predict_scans(_Model(), scans, tmp_path / "out", overwrite=True)[0].status == "written"
    (tmp_path / "out" / "a.nii.gz").unlink()
    assert predict_scans(_Model(), scans, tmp_path / "out")[0].status == "written"


def _chained():
    error = EnvironmentProblem("the GPU has too little memory for this prediction")
    error.__cause__ = type("OutOfMemoryError", (RuntimeError,), {})("CUDA")
    return error


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] . DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("not enough memory: you tried to allocate 9 bytes"),
        type("OutOfMemoryError", (RuntimeError,), {})("CUDA"),
        MemoryError(),
        _chained(),
    ],
    ids=["cpu", "cpu words", "cuda", "python", "named"],
)
def test_a_scan_too_large_is_refused_and_the_batch_goes_on(tmp_path, error):
    for number in range(3):
        _save(tmp_path / "in" / f"{number}.nii.gz", number + 1)
    scans = find_scans(tmp_path / "in", 1)
    model = _Model(**{file_sha256(scans[1].paths[0]): error})
    outcomes = predict_scans(model, scans, tmp_path / "out")
    assert [outcome.status for outcome in outcomes] == ["written", "refused", "written"]
    assert isinstance(outcomes[1].error, EnvironmentProblem)
    assert "1.nii.gz" in str(outcomes[1].error)
    assert "memory" in str(outcomes[1].error)


@pytest.mark.parametrize("error", [RuntimeError("a bug"), EnvironmentProblem("the disk is full")])
def test_other_errors_end_the_batch(tmp_path, error):
    scans = find_scans(_save(tmp_path / "in" / "a.nii.gz"), 1)
    with pytest.raises(type(error), match=str(error)):
        predict_scans(_Model(**{file_sha256(scans[0].paths[0]): error}), scans, tmp_path / "out")


def test_a_refusal_does_not_hold_the_scans_arrays(tmp_path):
    """Each refused scan's error is kept until the end of the batch; its frames held every array of the scan."""
    path = tmp_path / "in" / "a.nii"
    path.parent.mkdir()
    nib.save(nib.Nifti1Image(np.full((4, 5, 6), np.nan, np.float32), np.eye(4)), path)
    (outcome,) = predict_scans(_Model(), find_scans(path, 1), tmp_path / "out")
    step = outcome.error.__traceback__
    held = []
    while step is not None:
        held += [value for value in step.tb_frame.f_locals.values() if isinstance(value, np.ndarray | bytes)]
        step = step.tb_next
    assert held == []


@pytest.fixture
def pairs(tmp_path):
    labels = {"background": 0, "a": 1, "ignore": 3}
    description = {"channel_names": {"0": "CT"}, "labels": labels, "numTraining": 0, "file_ending": ".nii.gz"}
    for folder in ("pred", "ref"):
        for name in ("x", "y"):
            _save(tmp_path / folder / f"{name}.nii.gz")
    (tmp_path / "ref" / "dataset.json").write_text(json.dumps(description))
    run = lambda: evaluate(tmp_path / "pred", tmp_path / "ref", tmp_path / "out", workers=0)  # noqa: E731
    return types.SimpleNamespace(pred=tmp_path / "pred", ref=tmp_path / "ref", evaluate=run)


@pytest.mark.parametrize(("folder", "value"), [("pred", 7), ("ref", 7), ("pred", -1), ("pred", 3)])
def test_values_without_a_name_are_an_error_of_their_pair(pairs, folder, value):
    path = _save(getattr(pairs, folder) / "x.nii.gz", value)
    result = pairs.evaluate()
    ((name, error),) = result.errors
    assert name == "x"
    assert isinstance(error, DataError)
    assert str(path) in str(error)
    assert f"found {value};" in str(error)
    assert [case.case for case in result.summary.metric_per_case] == ["y"]


def test_the_ignore_label_is_fine_in_a_reference(pairs):
    _save(pairs.ref / "x.nii.gz", 3)
    assert pairs.evaluate().errors == ()


def test_a_prediction_without_a_reference_is_a_warning(pairs, caplog):
    _save(pairs.pred / "extra.nii.gz")
    with caplog.at_level(logging.WARNING):
        assert len(find_pairs(pairs.pred, pairs.ref)[0]) == 2
    assert "extra.nii.gz" in caplog.text


@pytest.mark.parametrize("folder", ["pred", "ref"])
def test_two_masks_of_one_name_are_refused(pairs, folder):
    _save(getattr(pairs, folder) / "x.nii")
    with pytest.raises(UsageError, match=r"x\.nii and x\.nii\.gz"):
        pairs.evaluate()


def _everything(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_reading_ahead_changes_nothing_but_the_time(tmp_path, monkeypatch):
    """Five scans, a bad one in the middle, one whose output is there already: ahead as one after another."""
    for number in range(5):
        _save(tmp_path / "in" / f"{number}.nii.gz", number)
    (tmp_path / "in" / "2.nii.gz").write_bytes(b"no gzip file")
    found = {}
    for ahead in (False, True):
        monkeypatch.setattr(predict_module, "has_room", lambda *sizes, ahead=ahead, **more: ahead)
        output = tmp_path / f"out{ahead}"
        predict_scans(_Model(), [find_scans(tmp_path / "in", 1)[3]], output)
        reported = []
        outcomes = predict_scans(_Model(), find_scans(tmp_path / "in", 1), output, on_outcome=reported.append)
        assert outcomes == reported
        assert [outcome.status for outcome in outcomes] == ["written", "written", "refused", "kept", "written"]
        assert "2.nii.gz" in str(outcomes[2].error)
        found[ahead] = _everything(output)
    assert found[True] == found[False]


def test_an_interrupted_batch_leaves_whole_files_only(tmp_path):
    class Interrupted(_Model):
        def segment(self, image, prepared, **settings):
            if self.calls == 2:
                raise KeyboardInterrupt
            return super().segment(image, prepared, **settings)

    for number in range(4):
        _save(tmp_path / "in" / f"{number}.nii.gz", number + 1)
    scans = find_scans(tmp_path / "in", 1)
    with pytest.raises(KeyboardInterrupt):
        predict_scans(Interrupted(), scans, tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["0.json", "0.nii.gz", "1.json", "1.nii.gz"]
    outcomes = predict_scans(_Model(), scans, tmp_path / "out")
    assert [outcome.status for outcome in outcomes] == ["kept", "kept", "written", "written"]


def test_the_record_says_what_was_used(tmp_path):
    predict_scans(_Model(), find_scans(_save(tmp_path / "in" / "a.nii.gz"), 1), tmp_path / "out")
    record = json.loads((tmp_path / "out" / "a.json").read_text())
    assert record["tiles"] == {"run": 1, "total": 1, "skipped": "nothing"}
    assert (record["speed"], record["overlap"], record["mirror_axes"]) == ("balanced", 0.5, [])
