"""nnU-Net's recipe as settings: the trainers' defaults, and every row of the page that lists nnU-Net's variants."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from siccs_net.augment.settings import NNUNET
from siccs_net.augment.spatial import resolve_rotation
from siccs_net.errors import UsageError
from siccs_net.plugins import registered
from siccs_net.records.checkpoint import Numerics
from siccs_net.records.plan import Plan
from siccs_net.trainers.config import resolve_config
from siccs_net.trainers.nnunet import NnUNetResEncTrainer, NnUNetTrainer
from siccs_net.trainers.optimisation import optimizer, schedule

PAGE = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "nnunet-trainers.md"
ROWS = re.findall(r"^\| (`[^|]+) \| `([^`]+)` \|$", PAGE.read_text(), re.MULTILINE)
PLAN = Plan(name="p", dataset_name="d", planner="nnunet", trainer="NnUNetTrainer", folds=5, configurations={})
NUMERICS = Numerics(device="cpu", precision="float32", threads=1, deterministic=False)


def config(*settings):
    return resolve_config(NnUNetTrainer.config_class, NnUNetTrainer.defaults, PLAN, settings)


def at(settings, name):
    for part in name.split("."):
        settings = getattr(settings, part)
    return settings


@pytest.mark.parametrize(("names", "settings"), ROWS, ids=[names.split("`")[1] for names, _ in ROWS])
def test_every_row_of_the_page_resolves_and_changes_what_it_names(names, settings):
    resolved, plain = config(*settings.split()), config()
    for text in settings.split():
        name, _, value = text.partition("=")
        found = at(resolved, name)
        wanted = {"false": False, "true": True}.get(value, value)
        if isinstance(found, tuple):
            assert str(list(found)).replace("'", '"').replace(" ", "") == value
        else:
            assert found == (float(value) if re.fullmatch(r"[-\d.e]+", value) else wanted)
    changed = {name for name in type(plain).model_fields if getattr(plain, name) != getattr(resolved, name)}
    same_as_ours = "DASegOrd0" in names or "`nnUNetTrainer_1epoch`" in names
    assert changed or same_as_ours, "the row changes nothing"


def test_the_page_lists_nnunets_trainers():
    text = PAGE.read_text()
    assert len(ROWS) == 30
    for name in (
        "NoMirroring",
        "Topk10LossLS01",
        "CosAnneal",
        "VanillaAdam3en4",
        "nnUNetTrainerBN",
        "nnUNetTrainerDA5",
    ):
        assert name in text


def test_the_trainers_are_registered_and_the_planners_name_them():
    from siccs_net.planners.presets import TRAINER_OF

    pyproject = (PAGE.parents[2] / "pyproject.toml").read_text()
    for name in ("NnUNetTrainer", "NnUNetResEncTrainer"):
        assert f'{name} = "siccs_net.trainers.nnunet:{name}"' in pyproject
        assert name in TRAINER_OF.values()
    assert TRAINER_OF["nnunet"] == "NnUNetTrainer"
    assert {TRAINER_OF[f"nnunet_resenc{size}"] for size in ("", "_m", "_l", "_xl")} == {"NnUNetResEncTrainer"}
    assert "SiccsTrainer" in registered("siccs_net.trainers")
    assert NnUNetResEncTrainer.defaults == NnUNetTrainer.defaults


def test_the_optimizers():
    network = nn.Sequential(nn.Conv3d(2, 4, 3), nn.InstanceNorm3d(4, affine=True))
    sgd = optimizer(network, config(), NUMERICS)
    assert isinstance(sgd, torch.optim.SGD)
    (group,) = sgd.param_groups
    assert (group["lr"], group["momentum"], group["nesterov"], group["weight_decay"]) == (1e-2, 0.99, True, 3e-5)
    assert len(group["params"]) == 4  # biases and norms are decayed too
    adam = optimizer(network, config("optimizer=adam", "amsgrad=false", "learning_rate=3e-4"), NUMERICS)
    assert type(adam) is torch.optim.Adam
    assert adam.param_groups[0]["lr"] == 3e-4
    spared = optimizer(network, config("decay_everything=false"), NUMERICS)
    assert [(len(group["params"]), group["weight_decay"]) for group in spared.param_groups] == [(1, 3e-5), (3, 0.0)]
    assert isinstance(optimizer(network, config("optimizer=adamw"), NUMERICS), torch.optim.AdamW)


def test_the_polynomial_schedule():
    factor = schedule(config())
    for epoch in (0, 1, 250, 999):
        assert 1e-2 * factor(epoch + 0.7) == pytest.approx(1e-2 * (1 - epoch / 1000) ** 0.9, rel=1e-12)
    warm = schedule(config("warmup_epochs=50"))
    assert warm(25) == pytest.approx(0.5, abs=1e-3)
    assert warm(525.5) == pytest.approx((1 - 475 / 950) ** 0.9)
    assert schedule(config("schedule=cosine_per_epoch"))(500.9) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("patch", "degrees", "in_plane"),
    [
        ((128, 128, 128), 30, "never"),
        ((40, 120, 120), 30, "never"),  # exactly 3 times is not flat
        ((28, 256, 256), 180, "always"),
        ((512, 512), 180, "never"),
        ((512, 256), 15, "never"),
    ],
)
def test_the_rotation_follows_the_patch(patch, degrees, in_plane):
    found = resolve_rotation(NNUNET, patch)
    assert (found.rotation_degrees, found.in_plane) == (degrees, in_plane)


def test_a_plan_with_another_network_is_refused():
    class Other:
        class network:
            architecture = "plain_unet"

    with pytest.raises(UsageError, match="residual encoder; found plain_unet"):
        NnUNetResEncTrainer.adapt_plan(None, Other)


def test_no_transform_is_left_of_nnunets_without_augmentation():
    from siccs_net.augment.intensity import intensity_transforms

    none = dict(ROWS)["`nnUNetTrainerNoDA`"]
    assert intensity_transforms(config(*none.split()).augmentation) == []
    made = intensity_transforms(resolve_rotation(NNUNET, (128, 128, 128)))
    assert [transform.probability for transform in made] == [0.1, 0.2, 0.15, 0.15, 0.25, 0.1, 0.3]
    assert np.isclose(1 / NNUNET.scale[0], 1.4)
