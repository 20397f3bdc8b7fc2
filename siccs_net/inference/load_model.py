"""Load a model: the folder that training made, or one file of siccs_export_model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from siccs_net.errors import MissingPathError, ModelError, UnavailableError, UsageError
from siccs_net.inference.ensemble import Member
from siccs_net.inference.model_folder import choose_folds, one_configuration, previous_folder, read_fold
from siccs_net.inference.predictor import Model
from siccs_net.io import files
from siccs_net.io.checkpoint import read_tensors
from siccs_net.io.dataset import read_description
from siccs_net.io.model_file import unpacked
from siccs_net.networks.build import build_network
from siccs_net.networks.numerics import choose_device, choose_numerics
from siccs_net.plugins import find_class
from siccs_net.records.checkpoint import FinalRecord, ModelRecord
from siccs_net.records.dataset import DatasetDescription
from siccs_net.records.network import NetworkSpec
from siccs_net.records.plan import Configuration
from siccs_net.workspace import ModelFolder

NetworkFactory = Callable[[NetworkSpec], nn.Module]


def load_model(
    folder: Path | str,
    *,
    folds: Sequence[int | str] | None = None,
    most_folds: int | None = None,
    device: str = "auto",
    precision: str = "auto",
    network: str | NetworkFactory | None = None,
    previous: Path | str | Literal[False] | None = None,
) -> Model:
    """Load a model folder, or the file that siccs_export_model made of one: all folds it holds, or those named.

    Where none are named, no more than `most_folds` are loaded, the first ones.

    The second stage of a cascade comes with the model before it: `previous`, or the folder beside it that its
    model.json names, with the weights that it was trained after; `False` leaves it out (for given masks).

    `network` (`package.module:Class`, or what takes a NetworkSpec to a network) is needed only for a trainer with a
    network of its own. Executes nothing that the folder names. Raises MissingPathError, ModelError (damaged, folds that
    disagree) or UsageError (no such fold).
    """
    if Path(folder).is_file():
        with unpacked(Path(folder)) as held:
            return load_model(
                held.root,
                folds=folds,
                most_folds=most_folds,
                device=device,
                precision=precision,
                network=network,
                previous=previous,
            )
    paths = ModelFolder(Path(folder))
    if not paths.model.is_file():
        raise MissingPathError("not a model folder", path=folder, expected="model.json, plan.json and fold_K folders")
    model = files.read_record(paths.model, ModelRecord)
    description = read_description(paths.description)
    chosen = choose_folds(paths, folds, most=most_folds)
    records = [read_fold(paths, fold) for fold in chosen]
    configuration = one_configuration(records, chosen, paths.root)
    target = choose_device(device)
    members = [_member(paths, record, configuration, target, network) for record in records]
    digest = _digest(records, configuration, description)
    numerics = choose_numerics(target, precision, deterministic=False)
    name = f"{model.dataset_name} {model.configuration}"
    loaded = Model(name, configuration, description.label_scheme, tuple(members), target, numerics, digest)
    if configuration.previous_stage is None and previous:
        raise UsageError("the model is no second stage of a cascade, so no model comes before it", path=paths.root)
    if configuration.previous_stage is None or previous is False:
        return loaded
    before = previous_folder(paths, model, previous)
    first = load_model(before.root, most_folds=most_folds, device=device, precision=precision, network=network)
    together = hashlib.sha256((digest + first.sha256).encode()).hexdigest()
    return replace(loaded, previous=first, sha256=together)


def _digest(records: Sequence[FinalRecord], configuration: Configuration, description: DatasetDescription) -> str:
    """Return the SHA-256 of all that decides what a model answers."""
    identity: dict[str, Any] = {
        "weights": sorted(record.weights_sha256 for record in records),
        "configuration": configuration.model_dump(mode="json"),
        "labels": description.labels,
    }
    if order := description.label_scheme.regions_class_order:
        identity["regions_class_order"] = order
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def _member(
    paths: ModelFolder,
    record: FinalRecord,
    configuration: Configuration,
    device: torch.device,
    network: str | NetworkFactory | None,
) -> Member:
    run = paths.fold(record.fold)
    if record.network_class is not None and network is None:
        raise UnavailableError(
            f"the network of trainer {record.trainer} is its own class {record.network_class}",
            path=run.root,
            hint="Name it with --network package.module:Class or path/file.py:Class; no file names code that is run",
        )
    spec = configuration.network
    factory = find_class(network, "siccs_net.networks") if isinstance(network, str) else network or build_network
    built = factory(spec)
    try:
        built.load_state_dict(read_tensors(run.weights, record.weights_sha256))
    except RuntimeError as error:
        raise ModelError(
            "the weights do not fit the network", path=run.weights, found=str(error).splitlines()[0]
        ) from error
    return Member(record.fold, built.to(device).eval(), record.normalisation, record.weights_sha256)
