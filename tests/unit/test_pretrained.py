"""Weights of another network: what fits is loaded, kernels and input channels are resized, the rest is skipped."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from siccs_net.errors import MissingPathError, ModelError, UsageError
from siccs_net.io.checkpoint import write_tensors
from siccs_net.networks.build import build_network
from siccs_net.records.network import NetworkSpec
from siccs_net.trainers.averaging import WeightAverage
from siccs_net.trainers.pretrained import describe_transfer, find_weights, load_pretrained, transferred


def spec(**changes):
    values = {
        "architecture": "convnext_unet",
        "dimension": 3,
        "in_channels": 1,
        "classes": 4,
        "widths": (4, 8),
        "strides": ((1, 1, 1), (2, 2, 2)),
        "kernel_sizes": ((3, 3, 3), (3, 3, 3)),
        "blocks_encoder": (1, 1),
        "blocks_decoder": (1, 1),
        "stem_stride": (1, 1, 1),
        "deep_supervision": False,
    }
    return NetworkSpec.model_validate({**values, **changes})


def rows(source, target):
    weights, found = transferred(source.state_dict(), target.state_dict())
    return weights, {row.name: row for row in found}


def test_equal_networks_are_loaded_whole():
    source, target = build_network(spec()), build_network(spec())
    weights, found = rows(source, target)
    assert {row.action for row in found.values()} == {"loaded"}
    assert all(torch.equal(weights[name], value) for name, value in source.state_dict().items())


def test_kernels_are_interpolated_as_in_upkern():
    source = build_network(spec())
    target = build_network(spec(kernel_sizes=((5, 5, 5), (5, 5, 5))))
    weights, found = rows(source, target)
    resized = [name for name, row in found.items() if row.action == "resized"]
    assert resized
    assert all(found[name].why == "kernel" for name in resized)
    for name in resized:
        whole = functional.interpolate(source.state_dict()[name], (5, 5, 5), mode="trilinear")
        assert torch.allclose(weights[name], whole)
    assert not [row for row in found.values() if row.action == "skipped"]


@pytest.mark.parametrize("architecture", ["convnext_unet", "plain_unet", "resenc_unet"])
@pytest.mark.parametrize(("before", "after"), [(1, 3), (2, 1), (3, 1), (1, 2)])
def test_input_channels_keep_the_output_of_alike_channels(architecture, before, after):
    decoder = (1, 1) if architecture == "convnext_unet" else (1,)
    make = {"architecture": architecture, "blocks_decoder": decoder}
    source, target = (build_network(spec(in_channels=count, **make)) for count in (before, after))
    weights, found = rows(source, target)
    assert [row.why for row in found.values() if row.action != "loaded"] == ["input channels"]
    target.load_state_dict(weights)
    image = torch.randn(1, 1, 8, 8, 8)
    with torch.no_grad():
        assert torch.allclose(
            source.eval()(image.expand(-1, before, -1, -1, -1)),
            target.eval()(image.expand(-1, after, -1, -1, -1)),
            atol=1e-5,
        )


def test_heads_and_widths_that_differ_are_skipped_and_told(tmp_path):
    source = build_network(spec(classes=3))
    digest = write_tensors(tmp_path / "some.safetensors", source.state_dict())
    target = build_network(spec(widths=(4, 12)))
    before = {name: value.clone() for name, value in target.state_dict().items()}
    record = load_pretrained(tmp_path / "some.safetensors", target, ())
    assert record.sha256 == digest
    why = {row.name: row.why for row in record.weights if row.action == "skipped"}
    assert why["head.weight"] == "another number of classes"
    assert "another width" in why.values()
    for name, value in target.state_dict().items():
        assert torch.equal(value, before[name] if name in why else source.state_dict()[name])
    table = describe_transfer(record)
    assert f"{record.count('loaded')} loaded, 0 resized, {len(why)} skipped" in table
    assert len(table.splitlines()) == 1 + len(why)
    with pytest.raises(ModelError, match=r"some\.safetensors.*no pretrained weight fits"):
        load_pretrained(tmp_path / "some.safetensors", nn.Linear(3, 3), ())


def test_what_a_path_means(tmp_path):
    for fold in ("0", "1"):
        (tmp_path / f"fold_{fold}").mkdir()
        write_tensors(tmp_path / f"fold_{fold}" / "final.safetensors", {"w": torch.zeros(1)})
    weights = tmp_path / "fold_1" / "final.safetensors"
    assert find_weights(tmp_path, "1") == find_weights(tmp_path / "fold_1") == find_weights(weights) == weights
    with pytest.raises(UsageError, match="several folds; found 0, 1"):
        find_weights(tmp_path)
    with pytest.raises(UsageError, match="no fold 7"):
        find_weights(tmp_path, "7")
    with pytest.raises(MissingPathError, match="no trained model"):
        find_weights(tmp_path / "absent")


def test_the_average_of_weights():
    network = nn.Linear(1, 1, bias=False)
    nn.init.ones_(network.weight)
    average = WeightAverage(network, 0.9)
    expected = 1.0
    for step in range(200):
        with torch.no_grad():
            network.weight.fill_(step)
        average.update(network, step)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * step
    assert average.network.weight.item() == pytest.approx(expected, rel=1e-5)
    assert not average.network.weight.requires_grad
