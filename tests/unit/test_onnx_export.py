"""ONNX export: each network's graph gives torch's logits in onnxruntime, for any batch; absent packages are named."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from nnunet_files import spec_of, write_foreign_model

from siccs_net.cli.process import run_command
from siccs_net.errors import ModelError
from siccs_net.inference.load_model import load_model
from siccs_net.interop import onnx_export
from siccs_net.networks.build import build_network
from siccs_net.networks.tracing import onnx_graph, run_plain
from siccs_net.pipeline.share_model import export_onnx, import_model


@pytest.fixture
def model(tmp_path) -> Path:
    torch.set_num_threads(1)
    folder, _ = write_foreign_model(tmp_path, dimension=2, folds=("0", "1"))
    import_model(folder, tmp_path / "model")
    return tmp_path / "model"


def _convnext(dimension):
    spec = spec_of("plain_unet", dimension)
    changes = {
        "architecture": "convnext_unet",
        "blocks_decoder": (1, 1, 1),
        "blocks_encoder": (1, 1, 1),
        "initialisation": "fan_in",
    }
    return spec.model_validate({**spec.model_dump(), **changes})


@pytest.mark.parametrize("dimension", [2, 3])
@pytest.mark.parametrize("kind", ["plain_unet", "resenc_unet", "convnext_unet"])
def test_graph_equals_torch(kind, dimension):
    runtime = pytest.importorskip("onnxruntime")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    network = build_network(_convnext(dimension) if kind == "convnext_unet" else spec_of(kind, dimension)).eval()
    rng = np.random.default_rng(0)
    images = rng.standard_normal((3, 1, *((16, 24) if dimension == 2 else (8, 16, 24)))).astype(np.float32)
    session = runtime.InferenceSession(onnx_graph(network, images[:1], opset=onnx_export.OPSET))
    (found,) = session.run(["logits"], {"image": images})
    with torch.no_grad():
        expected = network(torch.from_numpy(images)).numpy()
    assert np.abs(expected).max() > 1e-3
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(run_plain(network, images), expected, rtol=1e-3, atol=1e-5)


def test_files_say_what_comes_before_and_after(model, tmp_path):
    pytest.importorskip("onnxruntime")
    assert run_command("export_model", [str(model), "--onnx", str(tmp_path / "net.onnx"), "--quiet"]) == 0
    assert sorted(path.name for path in tmp_path.glob("net*")) == [
        f"net_fold_{fold}.{kind}" for fold in (0, 1) for kind in ("json", "onnx")
    ]
    body = json.loads((tmp_path / "net_fold_0.json").read_text())
    configuration = load_model(model, device="cpu").configuration
    assert body["before"]["steps"] == [step.model_dump(mode="json") for step in configuration.steps]
    assert body["tiles"] == configuration.inference.model_dump(mode="json")
    assert body["after"]["class_values"] == [0, 1, 2]
    assert body["input"]["axes"] == ["batch", "channels", "height", "width"]
    assert body["largest_difference_of_logits"] < 1e-4
    assert run_command("export_model", [str(model), "--onnx", str(tmp_path / "net.onnx"), "-f", "0"]) == 0
    assert (tmp_path / "net.onnx").is_file()
    assert run_command("export_model", [str(model), "--onnx", str(tmp_path / "net.onnx"), "-f", "0"]) == 2
    assert (
        run_command("export_model", [str(model), "--onnx", str(tmp_path / "net.onnx"), "-f", "0", "--overwrite"]) == 0
    )


def test_other_logits_are_refused_and_nothing_is_written(model, tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    other = build_network(spec_of("plain_unet", 2)).eval()
    monkeypatch.setattr(
        onnx_export,
        "_trace",
        lambda _, configuration: onnx_graph(other, onnx_export._patch(configuration, 1), opset=18),
    )
    with pytest.raises(ModelError, match="other logits"):
        export_onnx(model, tmp_path / "net.onnx", folds=[0])
    assert not list(tmp_path.glob("net*"))


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_absent_package_names_the_extra(model, tmp_path, monkeypatch, capsys, package):
    monkeypatch.setitem(sys.modules, package, None)
    assert run_command("export_model", [str(model), "--onnx", str(tmp_path / "net.onnx")]) == 3
    assert "siccs-net[onnx]" in capsys.readouterr().err
