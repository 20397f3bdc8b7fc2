"""Every snippet of the README and the docs: Python is executed, command lines are parsed by their own parsers."""

from __future__ import annotations

import functools
import importlib
import re
import shlex
from pathlib import Path

import pytest

import siccs_net
from siccs_net.geometry import Orientation, canonical_affine
from siccs_net.io.image import write_image
from siccs_net.records.dataset import DatasetDescription
from siccs_net.testing import check_trainer
from siccs_net.testing.tiny import make_tiny_case, write_tiny_dataset
from siccs_net.trainers.hooks import HOOKS

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])
QUICK = {"epochs": 1, "iterations_per_epoch": 1, "workers": 0, "validation_patches": 1, "batch_size": 1}


def _snippets(language):
    found = []
    for page in PAGES:
        blocks = re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)
        found += [pytest.param(text, id=f"{page.name}-{number}") for number, text in enumerate(blocks)]
    return found


@pytest.mark.slow
@pytest.mark.parametrize("code", _snippets("python"))
def test_python_snippets_run(code, tmp_path, monkeypatch):
    """In a folder with the dataset that they name, with a training of one step."""
    monkeypatch.chdir(tmp_path)
    write_tiny_dataset(tmp_path / "siccs_workspace" / "raw" / "Dataset501_Name", cases=8)
    image, _ = make_tiny_case(3)
    z, y, x = image.shape
    write_image(tmp_path / "scan.nii.gz", image, Orientation.of((x, y, z), canonical_affine((5.0, 4.0, 4.0))))
    monkeypatch.setattr(siccs_net, "train", functools.partial(siccs_net.train, settings=QUICK, device="cpu"))
    space = {}
    exec(compile(code, "snippet", "exec"), space)
    for value in [item for name, item in space.items() if name.endswith("Trainer") and name != "SiccsTrainer"]:
        check_trainer(value)
    if "segmentation.save" in code:
        assert (tmp_path / "mask.nii.gz").is_file()


COMMANDS = [
    pytest.param(line, id=f"{snippet.id}-{number}")
    for snippet in _snippets("bash")
    for number, line in enumerate(re.findall(r"siccs_\w+ .*", snippet.values[0]))
]


@pytest.mark.parametrize("line", COMMANDS)
def test_command_lines_are_understood(line):
    verb, *arguments = shlex.split(line, comments=True)
    module = importlib.import_module(f"siccs_net.cli.{verb.removeprefix('siccs_')}")
    assert module.make_parser().parse_args(arguments)


def test_there_are_snippets():
    assert len(_snippets("python")) >= 2
    assert len(COMMANDS) >= 10


def test_examples_of_dataset_json_are_right():
    texts = [snippet.values[0] for snippet in _snippets("json") if snippet.id.startswith("labels.md")]
    schemes = [DatasetDescription.from_json(text).label_scheme for text in texts]
    assert [bool(scheme.regions) for scheme in schemes] == [False, True, False, False]
    assert [scheme.ignore for scheme in schemes] == [None, None, 4, None]


def test_links_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            assert target.startswith("http") or (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_trainer_page_names_every_hook():
    text = (ROOT / "docs" / "how-to" / "write-a-trainer.md").read_text()
    for hook in HOOKS:
        assert f"`{hook}(" in text
