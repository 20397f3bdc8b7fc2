"""Starting from another model's weights: those that fit are loaded, kernels and input channels are resized."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from siccs_net.errors import MissingPathError, ModelError, UsageError
from siccs_net.io import files
from siccs_net.io.checkpoint import read_tensors
from siccs_net.records.checkpoint import FinalRecord, PretrainedRecord, TransferredWeight
from siccs_net.trainers.task import TrainTask
from siccs_net.workspace import ModelFolder, RunFolder

_INTERPOLATION = {1: "linear", 2: "bilinear", 3: "trilinear"}
_HEADS = ("head.", "supervision.", "decoder.heads.")
logger = logging.getLogger(__name__)


def find_weights(path: Path, fold: str | None = None) -> Path:
    """Return the weights that a model folder (with a fold where it has several), a fold's folder or a file means.

    Raises MissingPathError, or UsageError for a fold that is missing or must be named.
    """
    if path.is_file():
        if fold is not None:
            raise UsageError("a file of weights has no folds", path=path, hint="Leave out -f")
        return path
    run = RunFolder(path)
    if run.weights.is_file() and fold is None:
        return run.weights
    model = ModelFolder(path)
    there = model.folds() if path.is_dir() else []
    if not there:
        raise MissingPathError(
            "no trained model", path=path, expected="a model folder, a fold_K folder or final.safetensors"
        )
    if fold is None and len(there) > 1:
        raise UsageError("the model has several folds", path=path, found=", ".join(there), hint="Name one with -f")
    chosen = there[0] if fold is None else str(fold)
    if chosen not in there:
        raise UsageError(f"the model has no fold {chosen}", path=path, found=", ".join(there))
    return model.fold(chosen).weights


def begin_pretrained(task: TrainTask, network: nn.Module, *, write: bool) -> PretrainedRecord | None:
    """Start a new run from the task's pretrained weights, if it has some; return and (one process) write the record."""
    if task.pretrained is None:
        if write:
            task.run.pretrained.unlink(missing_ok=True)
        return None
    record = load_pretrained(task.pretrained, network, task.validation_cases)
    logger.info("%s", describe_transfer(record))
    if write:
        files.write_record(task.run.pretrained, record)
    return record


def resumed_pretrained(task: TrainTask) -> PretrainedRecord | None:
    """Return what a run that is resumed started from; its weights are not loaded again.

    Raises UsageError when the task names other pretrained weights than the run began with.
    """
    path = task.run.pretrained
    record = files.read_record(path, PretrainedRecord) if path.is_file() else None
    if task.pretrained is not None and (record is None or files.file_sha256(task.pretrained) != record.sha256):
        raise UsageError(
            "the run began with other pretrained weights",
            path=task.run.root,
            found=str(task.pretrained),
            expected=record.source if record else "none",
            hint="Resume without --pretrained, or start anew with --overwrite",
        )
    return record


def load_pretrained(path: Path, network: nn.Module, validation_cases: tuple[str, ...]) -> PretrainedRecord:
    """Put a file's weights into a network as far as they fit; return what became of each.

    Warns when the model was trained on cases that this fold is validated on. Raises ModelError for a damaged file and
    when nothing fits.
    """
    record_path = path.with_name("final.json")
    record = files.read_record(record_path, FinalRecord) if record_path.is_file() else None
    source = read_tensors(path, record.weights_sha256 if record else None)
    seen = sorted(set(record.training_cases if record else ()) & set(validation_cases))
    if seen:
        logger.warning(
            "the pretrained model was trained on %d of this fold's validation cases (such as %s): its scores there "
            "are no longer those of unseen cases",
            len(seen),
            seen[0],
        )
    weights, rows = transferred(source, network.state_dict())
    if not weights:
        raise ModelError(
            "no pretrained weight fits this network",
            path=path,
            found=f"weights such as {', '.join(sorted(source)[:3])}",
            expected=f"weights such as {', '.join(list(network.state_dict())[:3])}",
        )
    network.load_state_dict(weights, strict=False)
    digest = record.weights_sha256 if record else files.file_sha256(path)
    return PretrainedRecord(source=str(path), sha256=digest, weights=tuple(rows))


def transferred(
    source: Mapping[str, Tensor], target: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], list[TransferredWeight]]:
    """Return the weights of `source` as they fit those of `target` by name, and what became of each of the target's.

    Kernels of another size are interpolated linearly (UpKern: Roy et al., MedNeXt, MICCAI 2023). The first
    convolution's input channels are repeated (and divided) or added up, so that its output keeps its size. Weights of
    another width, and heads of another number of classes, are skipped.
    """
    first = next((name for name, weight in target.items() if weight.ndim > 3), None)
    weights, rows = {}, []
    for name, wanted in target.items():
        given = source.get(name)
        fitted, why = (None, "not in the source") if given is None else _fit(given, wanted, name, inputs=name == first)
        if fitted is None:
            action = "skipped"
        else:
            action = "resized" if why else "loaded"
            weights[name] = fitted.to(wanted.dtype)
        rows.append(
            TransferredWeight.model_validate(
                {
                    "name": name,
                    "action": action,
                    "shape": tuple(wanted.shape),
                    "source_shape": None if given is None else tuple(given.shape),
                    "why": why,
                }
            )
        )
    return weights, rows


def _fit(given: Tensor, wanted: Tensor, name: str, *, inputs: bool) -> tuple[Tensor | None, str]:
    """Return a weight in another's shape and what was done, or None and why that cannot be."""
    if given.shape == wanted.shape:
        return given, ""
    if given.ndim != wanted.ndim:
        return None, "another number of dimensions"
    if given.shape[0] != wanted.shape[0]:
        return None, "another number of classes" if name.startswith(_HEADS) else "another width"
    done = []
    if given.ndim > 1 and given.shape[1] != wanted.shape[1]:
        if not inputs:
            return None, "another width"
        given = _input_channels(given, wanted.shape[1])
        done.append("input channels")
    if given.shape[2:] != wanted.shape[2:]:
        size = tuple(wanted.shape[2:])
        given = functional.interpolate(given.float(), size, mode=_INTERPOLATION[len(size)], align_corners=False)
        done.append("kernel")
    return given, " and ".join(done)


def _input_channels(weight: Tensor, channels: int) -> Tensor:
    """Repeat the channels of a convolution's weight [out, in, *kernel] in turn, or add neighbours up to fewer.

    The sum over the inputs stays, so that the output for alike channels does (up to repeats in unequal number).
    """
    before = weight.shape[1]
    if channels < before:
        return torch.stack([part.sum(1) for part in weight.tensor_split(channels, 1)], 1)
    return weight[:, torch.arange(channels) % before] * (before / channels)


def describe_transfer(record: PretrainedRecord) -> str:
    """Return the table of what became of the weights: a line for each that was not simply loaded, and the counts."""
    changed = [weight for weight in record.weights if weight.action != "loaded"]
    width = max((len(weight.name) for weight in changed), default=0)
    lines = [
        f"  {weight.action:<8} {weight.name:<{width}}  {_shape(weight.source_shape):>18} -> {_shape(weight.shape):<18} "
        f"{weight.why}"
        for weight in changed
    ]
    counts = ", ".join(f"{record.count(action)} {action}" for action in ("loaded", "resized", "skipped"))
    return "\n".join([f"pretrained weights from {record.source}: {counts}", *lines])


def _shape(shape: tuple[int, ...] | None) -> str:
    return "x".join(map(str, shape)) if shape else "none"
