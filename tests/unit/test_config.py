"""Settings: precedence, names and types; schedules; plug-in lookup."""

from __future__ import annotations

import math

import pytest

from siccs_net.errors import MissingPathError, UsageError
from siccs_net.plugins import find_class
from siccs_net.records.plan import Plan
from siccs_net.records.settings import parse_set
from siccs_net.trainers.config import TrainerConfig, resolve_config
from siccs_net.trainers.optimisation import schedule


def _plan(**training):
    return Plan(
        name="p", dataset_name="d", planner="x", trainer="SiccsTrainer", folds=2, training=training, configurations={}
    )


def test_set_overrides_the_plan_which_overrides_the_trainer():
    defaults = {"epochs": 10, "learning_rate": 0.5, "loss": {"name": "focal_dice"}}
    config = resolve_config(TrainerConfig, defaults, _plan(epochs=20, seed=3), ["epochs=30", "loss.gamma=1.5"])
    assert (config.epochs, config.learning_rate, config.seed) == (30, 0.5, 3)
    assert (config.loss.name, config.loss.gamma) == ("focal_dice", 1.5)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("epoch=3", "epoch.*Did you mean epochs"),
        ("epochs", "name=value"),
        ("epochs=many", "epochs"),
        ("epochs=0", "greater than or equal to 1"),
        ("loss.gama=2", "loss.gama.*Did you mean gamma"),
        ("epochs.x=2", "epochs.x"),
    ],
)
def test_a_wrong_setting_is_one_clear_error(text, words):
    with pytest.raises(UsageError, match=words):
        resolve_config(TrainerConfig, {}, _plan(), [text])


def test_values_are_json_or_text():
    assert parse_set(["a=1", "b=[1, 2]", "c=word", "d=true", "e=x=y"]) == {
        "a": 1,
        "b": [1, 2],
        "c": "word",
        "d": True,
        "e": "x=y",
    }


def test_schedules():
    cosine = schedule(TrainerConfig(epochs=10, warmup_epochs=0.0, schedule="cosine_per_epoch"))
    assert [cosine(epoch) for epoch in (0, 5, 5.9)] == pytest.approx([1, 0.5, 0.5])
    smooth = schedule(TrainerConfig(epochs=10, warmup_epochs=2.0))
    assert smooth(0) < 0.01
    assert smooth(2) == pytest.approx(1)
    assert smooth(6) == pytest.approx(0.5)
    assert smooth(10) == pytest.approx(0)
    assert smooth(8) == pytest.approx(0.5 * (1 + math.cos(math.pi * 0.75)))
    assert schedule(TrainerConfig(schedule="constant", warmup_epochs=0.0))(77) == 1.0


def test_plug_ins_are_found_four_ways(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("class Mine:\n    pass\n")
    assert find_class(f"{path}:Mine", "siccs_net.trainers").__name__ == "Mine"
    assert find_class(f"{path}:Mine", "siccs_net.trainers") is find_class(f"{path}:Mine", "siccs_net.trainers")
    assert find_class(dict, "siccs_net.trainers") is dict
    assert find_class("collections:Counter", "siccs_net.trainers").__name__ == "Counter"
    with pytest.raises(UsageError, match="no class 'Other'; found Mine"):
        find_class(f"{path}:Other", "siccs_net.trainers")
    with pytest.raises(MissingPathError):
        find_class(f"{tmp_path}/absent.py:Mine", "siccs_net.trainers")
    with pytest.raises(UsageError, match="cannot import"):
        find_class("no.such.module:Mine", "siccs_net.trainers")
    (tmp_path / "broken.py").write_text("1/0\n")
    with pytest.raises(UsageError, match=r"broken\.py.*ZeroDivisionError"):
        find_class(f"{tmp_path}/broken.py:Mine", "siccs_net.trainers")
    with pytest.raises(UsageError, match="no trainer called 'SicsTrainer'"):
        find_class("SicsTrainer", "siccs_net.trainers")
