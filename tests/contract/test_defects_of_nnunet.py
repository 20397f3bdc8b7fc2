"""What is known to go wrong in nnU-Net 2.8.1's source, each with a test that it does not happen here."""

from __future__ import annotations

import argparse
import ast
import contextlib
import gc
import importlib
import io
import json
import logging
import re
import time
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import siccs_net
from siccs_net.augment.intensity import GaussianNoise
from siccs_net.augment.settings import AugmentationSettings
from siccs_net.augment.spatial import draw_spatial
from siccs_net.data.loader import PatchReader
from siccs_net.data.sampling import Place
from siccs_net.errors import UsageError
from siccs_net.inference.load_model import load_model
from siccs_net.io.dataset import open_dataset
from siccs_net.io.image import Image
from siccs_net.io.store import PreparedStore
from siccs_net.pipeline.plan import plan
from siccs_net.pipeline.predict import predict_scans
from siccs_net.pipeline.preprocess import preprocess
from siccs_net.pipeline.scans import Scan, find_scans, part_of
from siccs_net.pipeline.train import make_task, prepare_training, train
from siccs_net.preprocessing.resample_labels import resample_labels
from siccs_net.records.plan import Plan
from siccs_net.records.statistics import ChannelScaling, Normalisation
from siccs_net.testing.tiny import make_tiny_case, write_tiny_dataset
from siccs_net.trainers import log, state
from siccs_net.trainers.siccs import SiccsTrainer
from siccs_net.workspace import RunFolder, Workspace

PACKAGE = Path(siccs_net.__file__).parent
SMALL = {"network.widths": [4, 4, 6, 6], "patch_size": [16, 16, 16], "batch_size": 1}
QUICK = {"epochs": 1, "iterations_per_epoch": 1, "workers": 0, "validation_patches": 1}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A tiny dataset, planned and prepared, with one fold trained."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    workspace = Workspace.resolve(tmp_path_factory.mktemp("workspace"))
    dataset = open_dataset(write_tiny_dataset(workspace.raw[0] / "Dataset999_Tiny", cases=4, shape=(12, 24, 28)))
    made = plan(dataset, preset="demo", settings=SMALL, folds=2, workspace=workspace)
    preprocess(dataset, made, "3d_fullres", workspace=workspace, workers=0)
    train(dataset, made, "3d_fullres", 0, settings=QUICK, device="cpu", workspace=workspace)
    yield dataset, made, workspace
    torch.set_num_threads(before)


def _model(place):
    dataset, made, workspace = place
    return workspace.model_folder(dataset.name, "SiccsTrainer", made.name, "3d_fullres")


def test_a_trainer_made_in_python_needs_only_the_plan_and_leaves_it_as_it_is(place):
    """There, the constructor takes a key out of the plan that only the command puts in: from Python it fails."""
    dataset, made, workspace = place
    document = json.loads(made.to_json())
    untouched = json.dumps(document)
    of_text = Plan.from_json(json.dumps(document))
    training = prepare_training(
        dataset,
        of_text,
        "3d_fullres",
        trainer=None,
        settings=QUICK,
        device="cpu",
        workspace=workspace,
        show_progress=False,
    )
    task = make_task(training, "0")
    SiccsTrainer(task)
    SiccsTrainer(task)
    assert of_text == made
    assert json.dumps(document) == untouched


def _calls(name):
    """Yield (file, call, statement) of every call of a method of this name in the package."""
    for path in sorted(PACKAGE.rglob("*.py")):
        tree = ast.parse(path.read_text())
        dropped = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        dropped |= {id(node.elt) for node in ast.walk(tree) if isinstance(node, ast.ListComp) and id(node) in dropped}
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == name:
                yield path.name, node, id(node) in dropped


@pytest.mark.parametrize("method", ["pin_memory", "to", "contiguous", "cpu", "float"])
def test_no_copy_of_a_tensor_is_made_and_dropped(method):
    """There, both prediction iterators pin copies of their tensors and drop them."""
    assert [path for path, call, dropped in _calls(method) if dropped and not _is_module(call)] == []


def _is_module(call):
    """`network.to(device)` moves a module in place."""
    return isinstance(call.func.value, ast.Name | ast.Attribute) and "network" in ast.unparse(call.func.value)


def _parsers():
    for path in sorted((PACKAGE / "cli").glob("*.py")):
        module = importlib.import_module(f"siccs_net.cli.{path.stem}")
        if hasattr(module, "make_parser"):
            yield path.stem, module.make_parser()


def _actions(parser):
    """Yield every action of a parser and of its sub-commands."""
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for child in action.choices.values():
                yield from _actions(child)


def test_every_switch_switches_something():
    """There, an option of the export command stores the value that it has by default, so it never takes effect."""
    switches = 0
    for verb, parser in _parsers():
        for action in _actions(parser):
            if action.nargs == 0 and not isinstance(action, argparse._HelpAction | argparse._VersionAction):
                assert action.const != action.default, (verb, action.option_strings)
                switches += 1
    assert switches > 20


def test_every_option_is_read():
    """An option that no line of its command reads could not take effect either.

    Two are every command's or the other side of a choice: --workspace, and convert's --copy beside --link.
    """
    unread, own = set(), {"plan_and_preprocess": ["plan_options.py"]}
    for verb, parser in _parsers():
        names = [f"{verb}.py", "process.py", "options.py", *own.get(verb, [])]
        text = "".join((PACKAGE / "cli" / name).read_text() for name in names)
        for action in _actions(parser):
            if not isinstance(action, argparse._HelpAction | argparse._VersionAction):
                unread |= {action.dest} - set(re.findall(r"args\.(\w+)", text))
    assert unread <= {"workspace", "copy"}


def test_an_empty_segmentation_is_noticed(tmp_path, capsys):
    """There, the warning about a label map of background only asks for two things that cannot be true together."""
    root = write_tiny_dataset(tmp_path / "Dataset999_Tiny", cases=2, shape=(8, 16, 16))
    path = root / "labelsTr" / "tiny_001.nii.gz"
    label = nibabel.load(path)
    nibabel.save(nibabel.Nifti1Image(np.zeros(label.shape, np.uint8), label.affine, label.header), path)
    from siccs_net.cli.process import run_command

    assert run_command("validate", [str(root)]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "only background" in line]
    assert line.startswith("warning")
    assert "tiny_001" in line


@given(st.integers(0, 40), st.integers(1, 12))
def test_parts_share_the_scans_and_no_part_is_one_too_many(count, parts):
    """There, the number of the part may be as large as the number of parts: one too many, and empty."""
    scans = [Scan(f"case{number}", ()) for number in range(count)]
    shared = [part_of(scans, parts, part) for part in range(parts)]
    assert sorted(scan.name for part in shared for scan in part) == sorted(scan.name for scan in scans)
    assert max(map(len, shared)) - min(map(len, shared)) <= 1
    for wrong in (parts, -1):
        with pytest.raises(UsageError, match=f"no part {wrong} of {parts}"):
            part_of(scans, parts, wrong)
    with pytest.raises(UsageError):
        part_of(scans, 0, 0)


def test_the_output_folder_is_made_and_parts_are_of_the_one_way_to_predict(place, tmp_path):
    """There, the prediction without workers makes no output folder, and leaves the parts out of account."""
    dataset, _, _ = place
    model = load_model(_model(place).root, device="cpu")
    output = tmp_path / "not" / "there" / "yet"
    scans = find_scans(dataset.folder / "imagesTr", 1)
    for part in range(3):
        predict_scans(model, part_of(scans, 3, part), output)
    assert {path.name for path in output.glob("*.nii.gz")} == {f"tiny_00{number}.nii.gz" for number in range(4)}


class _Ones:
    """A store of one case full of ones, so that what was padded shows as 0."""

    def image(self, case):
        return np.ones((1, 20, 30, 40), np.int16)

    def label(self, case):
        return np.ones((20, 30, 40), np.uint8)


class _Reader(PatchReader):
    def _normalisation(self, case):
        return self.normalisation


@settings(deadline=None)
@given(st.tuples(st.integers(0, 19), st.integers(0, 29), st.integers(0, 39)))
def test_patches_about_any_voxel_lie_inside_the_case(centre):
    """There, a patch about a voxel near the far border hangs over it: only the near border is looked at."""
    scaling = ChannelScaling(scheme="none", mean=None, std=None, lower=None, upper=None)
    size = (8, 16, 24)
    reader = _Reader(_Ones(), Normalisation(channels=(scaling,)), size)
    image, label = reader.read(Place("one", centre), size, clamp=True)
    assert image.shape == (1, *size)
    assert image.min() == 1
    assert label.min() == 1


@settings(deadline=None)
@given(
    arrays(np.uint8, (3, 4, 4), elements=st.integers(1, 3)),
    st.tuples(st.integers(1, 9), st.integers(1, 11), st.integers(1, 11)),
    st.sampled_from([None, 0]),
)
def test_no_hole_opens_where_labels_meet(labels, shape, separate_axis):
    """There, a voxel where three labels meet, none of which has half of it, becomes background."""
    assert resample_labels(labels, shape, separate_axis=separate_axis).min() >= 1


def test_no_hole_opens_where_labels_are_turned():
    """The same in augmentation."""
    turning = AugmentationSettings(rotation_probability=1.0, scaling_probability=1.0)
    labels = np.random.default_rng(0).integers(1, 4, (40, 40, 40)).astype(np.uint8)
    for seed in range(5):
        spatial = draw_spatial(turning, (), (1.0, 1.0, 1.0), np.random.default_rng(seed))
        size = spatial.footprint((12, 12, 12))
        box = tuple(slice(0, n) for n in size)
        assert all(n <= 40 for n in size)
        _, turned = spatial.apply(labels[box][None].astype(np.float32), labels[box], (12, 12, 12))
        assert turned.min() >= 1


@pytest.mark.parametrize("std", [0.05, 0.1, 1.0])
def test_the_noises_number_is_its_standard_deviation(std):
    """There, a number that is called a variance is used as the standard deviation."""
    noise = GaussianNoise(1.0, (std, std))
    drawn = noise.draw(np.random.default_rng(1))
    assert noise.apply(np.zeros((1, 60, 60, 60), np.float32), drawn).std() == pytest.approx(std, rel=0.01)


def test_prediction_keeps_nothing_on_the_device(place):
    """There, the map of weights of each patch size stays in the device's memory for good."""
    model = load_model(_model(place).root, device="cpu")
    model.predict(Image.from_array(make_tiny_case(1, (12, 24, 28))[0], spacing_mm=(5, 4, 4)))
    before = _tensors()
    for shape in ((12, 24, 28), (16, 30, 20), (9, 17, 33)):
        model.predict(Image.from_array(make_tiny_case(1, shape)[0], spacing_mm=(5, 4, 4)))
    assert _tensors() == before


def _tensors():
    gc.collect()
    return sum(issubclass(type(item), torch.Tensor) for item in gc.get_objects())


def test_no_function_that_handles_tensors_has_a_cache():
    cached = []
    for path in sorted(PACKAGE.rglob("*.py")):
        text = path.read_text()
        if "import torch" in text:
            nodes = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef)]
            names = [ast.unparse(mark) for node in nodes for mark in node.decorator_list]
            cached += [f"{path.name}: {name}" for name in names if name.split("(")[0].endswith("cache")]
    assert cached == []


def test_sidecars_are_not_read_again_for_every_sample(place, monkeypatch):
    """There, the loader unpickles a case's whole record, with all its class locations, for every sample."""
    dataset, made, workspace = place
    counts = []
    read = PreparedStore.read_record
    monkeypatch.setattr(PreparedStore, "read_record", lambda self, case: counts.append(case) or read(self, case))
    store = PreparedStore(workspace.prepared_dataset(dataset.name).prepared(made.name, "3d_fullres"), 3)
    scaling = ChannelScaling(scheme="none", mean=None, std=None, lower=None, upper=None)
    reader = PatchReader(store, Normalisation(channels=(scaling,)), (8, 8, 8))
    for number in range(40):
        reader.read(Place(sorted(dataset.cases)[number % 4], (4, 9, 9)), (8, 8, 8), clamp=True)
    assert sorted(counts) == sorted(dataset.cases)


def test_resuming_where_nothing_is_says_so_and_never_replaces_weights(tmp_path, caplog):
    """There, resuming without a checkpoint warns and starts anew in the same folder, over what is there."""
    empty = RunFolder(tmp_path / "empty")
    with caplog.at_level(logging.INFO, logger="siccs_net"):
        assert state.begin(empty, resume=True) is None
    assert "no training state" in caplog.text
    assert "starting at epoch 0" in caplog.text
    run = RunFolder(tmp_path / "run")
    run.root.mkdir()
    run.weights.write_bytes(b"weights of somebody's training")
    with pytest.raises(UsageError, match="no state to resume from"):
        state.begin(run, resume=True)
    with pytest.raises(UsageError, match="--resume goes on with it, --overwrite starts it anew"):
        state.begin(run, resume=False)
    assert run.weights.read_bytes() == b"weights of somebody's training"


def _lines(epochs):
    dice = {"normal_lung": 0.8, "EF": 0.5, "GGO": None}
    shared = {"validation_loss": 0.6, "learning_rate": 1e-3, "seconds": 1.0}
    return [{"epoch": n, "loss": 1 / (n + 1), "dice": dice, **shared} for n in range(epochs)]


def test_the_progress_picture_is_small_and_cheap(tmp_path):
    """There, a picture of 3000 by 5400 pixels is drawn after every epoch."""
    log.draw_progress(_lines(10), tmp_path / "first.png")
    started = time.process_time()
    log.draw_progress(_lines(1000), tmp_path / "progress.png")
    assert time.process_time() - started < 2.0
    assert (tmp_path / "progress.png").stat().st_size < 200_000
    from matplotlib.image import imread

    height, width = imread(tmp_path / "progress.png").shape[:2]
    assert height * width < 1_000_000


def test_the_progress_picture_is_not_drawn_after_every_epoch(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(log, "draw_progress", lambda lines, path: drawn.append(len(lines)))
    picture = log.ProgressPicture(tmp_path / "progress.png")
    for epochs in range(1, 200):
        picture.draw(_lines(epochs)[-1:])
    picture.draw(_lines(3), last=True)
    assert drawn == [3]


def test_help_of_every_command_can_be_printed():
    """A stray per cent sign in a help text only fails when somebody asks for help."""
    for _, parser in _parsers():
        with contextlib.redirect_stdout(io.StringIO()) as said:
            parser.print_help()
        assert "example:" in said.getvalue()
