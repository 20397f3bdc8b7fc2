"""A fold's network as ONNX, with a JSON of what comes before and after it, checked by onnxruntime.

The graph takes normalised patches [batch, channels, *patch] in float32 to logits [batch, classes, *patch]; the batch is
of any size. Everything else (steps before, tiles, mirrors, the mean over folds, the way back) is in the JSON.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from siccs_net.errors import EnvironmentProblem, ModelError, UsageError
from siccs_net.io import files
from siccs_net.io.model_folder import chosen_folds
from siccs_net.records.dataset import LabelScheme
from siccs_net.records.plan import Configuration
from siccs_net.workspace import ModelFolder

OPSET = 18
TOLERANCE = 1e-3
"""Largest difference of logits, as a fraction of the largest logit, that counts as equal."""


def write_onnx(
    folder: Path, output: Path, *, folds: Sequence[int | str] | None, overwrite: bool
) -> list[tuple[Path, str, float]]:
    """Write one ONNX file a fold, and its JSON beside it; return (file, SHA-256, largest difference of logits).

    `output` is the file of a single fold; of several, each gets its name with `_fold_K`. Raises EnvironmentProblem
    where the packages of the extra `onnx` are missing, ModelError when onnxruntime's logits differ from torch's.
    """
    runtime = _packages()
    model = ModelFolder(folder)
    chosen = chosen_folds(model, folds)
    several = len(chosen) > 1
    targets = {
        fold: output.with_name(f"{output.stem}_fold_{fold}{output.suffix}") if several else output for fold in chosen
    }
    for target in targets.values():
        if target.exists() and not overwrite:
            raise UsageError("the file exists", path=target, hint="--overwrite replaces it")
    return [_write_fold(model, fold, target, runtime) for fold, target in targets.items()]


def _packages() -> Any:
    try:
        importlib.import_module("onnx")
        return importlib.import_module("onnxruntime")
    except ImportError as error:
        raise EnvironmentProblem(
            "ONNX export needs a package that is not installed",
            found=error.name,
            hint="Install the extra: pip install 'siccs-net[onnx]'",
        ) from error


def _write_fold(model: ModelFolder, fold: str, target: Path, runtime: Any) -> tuple[Path, str, float]:
    from siccs_net.inference.load_model import load_model

    loaded = load_model(model.root, folds=[fold], device="cpu", precision="float32")
    configuration = loaded.configuration
    graph = _trace(loaded.members[0].network, configuration)
    difference = _check(graph, loaded.members[0].network, configuration, runtime, target)
    digest = files.write_bytes(target, graph)
    body = {
        "schema": "siccs_net.onnx",
        "version": 1,
        "model": loaded.name,
        "fold": fold,
        "onnx_sha256": digest,
        "input": {"name": "image", "axes": ["batch", "channels", *_axes(configuration)], "type": "float32"},
        "output": {"name": "logits", "axes": ["batch", "classes", *_axes(configuration)], "type": "float32"},
        "patch_size": list(configuration.patch_size),
        "before": {
            "steps": [step.model_dump(mode="json") for step in configuration.steps],
            "storage": configuration.storage,
            "normalisation": loaded.members[0].normalisation.model_dump(mode="json")["channels"],
            "padding": "0 after normalisation, on both sides, where a scan is smaller than the patch",
        },
        "tiles": configuration.inference.model_dump(mode="json"),
        "after": {
            "mean": "logits over mirrors, over tiles with Gaussian weights, then over folds, in float32",
            "resample": "logits linearly to the cropped scan, voxel centres at half indices, edges repeated",
            "decision": _decision(loaded.labels),
            "class_values": list(loaded.labels.class_values),
            "labels": {name: list(values) for name, values in loaded.labels.reported.items()},
        },
        "largest_difference_of_logits": difference,
    }
    files.write_bytes(target.with_suffix(".json"), (json.dumps(body, indent=1) + "\n").encode())
    return target, digest, difference


def _decision(labels: LabelScheme) -> str:
    if labels.regions:
        return "0, then class_values[i + 1] wherever logit i is positive, in this order; background outside the crop"
    return "class_values of the largest logit, the lowest of a tie; background outside the crop"


def _axes(configuration: Configuration) -> list[str]:
    return ["depth", "height", "width"][-configuration.dimension :]


def _patch(configuration: Configuration, batch: int) -> Any:
    rng = np.random.default_rng(0)
    shape = (batch, configuration.network.in_channels, *configuration.patch_size)
    return rng.standard_normal(shape).astype(np.float32)


def _trace(network: Any, configuration: Configuration) -> bytes:
    from siccs_net.networks.tracing import onnx_graph

    return onnx_graph(network, _patch(configuration, 1), opset=OPSET)


def _check(graph: bytes, network: Any, configuration: Configuration, runtime: Any, path: Path) -> float:
    """Return the largest difference between onnxruntime's logits and torch's for two random patches at once."""
    from siccs_net.networks.tracing import run_plain

    images = _patch(configuration, 2)
    expected = run_plain(network, images)
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    session = runtime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    (found,) = session.run(["logits"], {"image": images})
    difference = float(np.abs(found - expected).max())
    if not difference <= TOLERANCE * max(1.0, float(np.abs(expected).max())):
        raise ModelError(
            "onnxruntime computes other logits than torch", path=path, found=difference, expected=f"<= {TOLERANCE:g}"
        )
    return difference
