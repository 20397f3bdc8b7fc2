"""The pages of docs/reference that are made from the source are as the source is now."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from siccs_net.cli.options import new_parser
from siccs_net.trainers.config import TrainerConfig

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "reference"


@pytest.fixture(scope="module")
def maker():
    spec = importlib.util.spec_from_file_location("make_reference", FOLDER / "make_reference.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["commands.md", "plan.md", "trainer.md"])
def test_the_page_is_up_to_date(maker, name):
    made = maker.PAGES[name]()
    assert (FOLDER / name).read_text() == made, "run python docs/reference/make_reference.py"


def test_nothing_is_left_out(maker):
    commands, trainer = maker.commands_page(), maker.trainer_page()
    parser = new_parser("x", "", example="")
    for action in parser._actions:
        assert all(f"`{name}`" in commands for name in action.option_strings)
    assert "| `-np`, `--workers` | `N` | cases handled at once (default: one a processor core) |" in commands
    assert "| `FOLD` | `FOLD` | a number, all (default) or full |" in commands
    assert all(f"| `{name}` |" in trainer for name in TrainerConfig.model_fields)
    assert "Literal['dice_cross_entropy', 'cross_entropy', 'dice', 'topk', 'dice_topk', 'focal_dice']" in trainer
