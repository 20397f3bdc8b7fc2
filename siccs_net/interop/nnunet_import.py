"""nnU-Net v2 models become model folders of ours: from a results folder, or the zip that nnU-Net exports.

Only plans.json, dataset.json and the folds' checkpoints are read. Weights become safetensors, the plan one of ours.
"""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from siccs_net.errors import MissingPathError, ModelError, RecordError, UsageError
from siccs_net.interop.nnunet_checkpoint import StoredTensor, read_checkpoint
from siccs_net.interop.nnunet_plan import check_labels, translate
from siccs_net.interop.nnunet_weights import stored_weights
from siccs_net.io import files
from siccs_net.io.checkpoint import write_arrays
from siccs_net.io.dataset import read_description
from siccs_net.io.model_folder import check_name, new_model_folder
from siccs_net.records.checkpoint import FinalRecord, ModelRecord, Numerics
from siccs_net.records.dataset import DatasetDescription
from siccs_net.records.plan import Configuration, Plan
from siccs_net.records.statistics import ChannelScaling, Normalisation
from siccs_net.workspace import ModelFolder, RunFolder, Workspace

CHECKPOINTS = ("checkpoint_final.pth", "checkpoint_best.pth")
"""Which of a fold's checkpoints is taken: the first that is there."""
MAX_MEMBER_BYTES = 16 << 30
_MAX_JSON_BYTES = 256 << 20
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ForeignFold:
    """One fold of an nnU-Net model: its weights by our names, still on disk."""

    name: str
    weights: Mapping[str, StoredTensor]
    epochs: int
    checkpoint: Path


@dataclass(frozen=True)
class ForeignModel:
    """An nnU-Net model, read and understood, with the names that it gets here."""

    dataset_name: str
    trainer: str
    plan_name: str
    configuration_name: str
    configuration: Configuration
    description: DatasetDescription
    folds: tuple[ForeignFold, ...]


def import_nnunet(
    source: Path,
    output: Path | None = None,
    *,
    configuration: str | None = None,
    folds: Sequence[int | str] | None = None,
    checkpoint: str | None = None,
    overwrite: bool = False,
    workspace: Workspace | None = None,
) -> list[Path]:
    """Import the models of an nnU-Net v2 results folder or exported zip; return the model folders made.

    They go to the workspace's results, or to `output` when there is one model (`configuration` chooses among
    several). All are read before any is written. Fold `all` becomes `full`. Raises ModelError for a damaged or
    dangerous checkpoint, UnavailableError for a model that would not be computed here exactly as there.
    """
    place = workspace or Workspace.resolve()
    made = []
    with _model_folders(source, checkpoint) as found:
        chosen = _chosen(found, configuration, source)
        models = [read_nnunet_model(folder, folds=folds, checkpoint=checkpoint) for folder in chosen]
        if configuration is not None and (others := {model.configuration_name for model in models} - {configuration}):
            raise UsageError(f"no configuration {configuration!r}", path=source, found=", ".join(sorted(others)))
        if output is not None and len(models) > 1:
            listed = ", ".join(model.configuration_name for model in models)
            raise UsageError("-o takes one model", path=source, found=listed, hint="Choose a configuration with -c")
        for model in models:
            names = (model.dataset_name, model.trainer, model.plan_name, model.configuration_name)
            destination = place.model_folder(*names).root if output is None else output
            _write(model, destination, overwrite=overwrite)
            made.append(destination)
    return made


def is_nnunet(source: Path) -> bool:
    """Say whether a folder or zip looks like nnU-Net's: it holds plans.json and dataset.json, itself or below."""
    if source.is_dir():
        return bool(_folders_below(source))
    if not zipfile.is_zipfile(source):
        return False
    with zipfile.ZipFile(source) as archive:
        return any(PurePosixPath(name).name == "plans.json" for name in archive.namelist())


@contextlib.contextmanager
def _model_folders(source: Path, checkpoint: str | None) -> Iterator[list[Path]]:
    """Yield the model folders of a folder, or those of a zip, unpacked for the time being."""
    if not source.exists():
        raise MissingPathError("the model to import does not exist", path=source)
    if source.is_dir():
        yield _folders_below(source)
        return
    with tempfile.TemporaryDirectory(prefix="siccs_import_") as scratch:
        _unpack(source, Path(scratch), (checkpoint,) if checkpoint else CHECKPOINTS)
        yield _folders_below(Path(scratch))


def _folders_below(folder: Path) -> list[Path]:
    """Return the folder, or those up to two levels below it, with nnU-Net's plans.json and dataset.json."""
    for pattern in ("plans.json", "*/plans.json", "*/*/plans.json"):
        found = sorted(path.parent for path in folder.glob(pattern) if (path.parent / "dataset.json").is_file())
        if found:
            return found
    return []


def _chosen(folders: list[Path], configuration: str | None, source: Path) -> list[Path]:
    there = {folder: folder.name.rpartition("__")[2] for folder in folders}
    if not folders:
        raise MissingPathError(
            "holds no nnU-Net v2 model",
            path=source,
            expected="plans.json, dataset.json and fold_X/checkpoint_final.pth",
        )
    if configuration is None or len(folders) == 1:
        return folders
    chosen = [folder for folder, name in there.items() if name == configuration]
    if not chosen:
        raise UsageError(f"no configuration {configuration!r}", path=source, found=", ".join(there.values()))
    return chosen


def _unpack(source: Path, scratch: Path, checkpoints: Sequence[str]) -> None:
    """Unpack what an import reads and nothing else; a member's name cannot lead out of `scratch`."""
    try:
        with zipfile.ZipFile(source) as archive:
            for item in archive.infolist():
                parts = PurePosixPath(item.filename).parts
                if item.is_dir() or not parts or parts[-1] not in ("plans.json", "dataset.json", *checkpoints):
                    continue
                _check_member(item, parts, source)
                target = scratch.joinpath(*parts)
                target.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(item) as packed, open(target, "wb") as unpacked:
                    shutil.copyfileobj(packed, unpacked, 1 << 20)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        raise ModelError("is not a readable zip file", path=source, found=str(error)) from error
    except OSError as error:
        raise files.disk_problem(error, scratch) from error


def _check_member(item: zipfile.ZipInfo, parts: Sequence[str], source: Path) -> None:
    if len(parts) > 5 or any(part in ("..", "/") or "\\" in part or ":" in part for part in parts):
        raise ModelError("holds a file whose name leads elsewhere", path=source, found=repr(item.filename))
    if item.file_size > (_MAX_JSON_BYTES if parts[-1].endswith(".json") else MAX_MEMBER_BYTES):
        raise ModelError("holds too large a file", path=source, found=f"{item.filename}: {item.file_size} bytes")


def read_nnunet_model(
    folder: Path, *, folds: Sequence[int | str] | None = None, checkpoint: str | None = None
) -> ForeignModel:
    """Read and translate one nnU-Net model folder; weights stay on disk until they are asked for."""
    plans = _read_json(folder / "plans.json")
    description = read_description(folder / "dataset.json")
    check_labels(description, folder / "dataset.json")
    wanted = (checkpoint,) if checkpoint else CHECKPOINTS
    found = {name: _checkpoint_path(folder, name, wanted) for name in _fold_names(folder, folds, wanted)}
    contents = {name: read_checkpoint(path) for name, path in found.items()}
    first = next(iter(found))
    trainer, configuration_name, mirror = _facts(contents[first], found[first])
    for name, content in contents.items():
        if _facts(content, found[name]) != (trainer, configuration_name, mirror):
            raise ModelError(f"is of another training than fold {first}", path=found[name])
    configuration = translate(plans, configuration_name, description, mirror, path=folder / "plans.json")
    levels = len(configuration.network.widths)
    return ForeignModel(
        dataset_name=check_name(plans.get("dataset_name"), "the dataset", folder / "plans.json"),
        trainer=check_name(trainer, "the trainer", found[first]),
        plan_name=check_name(plans.get("plans_name"), "the plan", folder / "plans.json"),
        configuration_name=check_name(configuration_name, "the configuration", found[first]),
        configuration=configuration,
        description=description,
        folds=tuple(
            ForeignFold(
                "full" if name == "all" else name,
                stored_weights(content, levels, found[name]),
                _epochs(content),
                found[name],
            )
            for name, content in contents.items()
        ),
    )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        body = json.loads(files.read_bytes(path))
    except (ValueError, RecursionError) as error:
        raise RecordError("not readable as JSON", path=path, found=str(error)) from error
    if not isinstance(body, dict):
        raise RecordError("not a JSON object", path=path, found=type(body).__name__)
    return body


def _fold_names(folder: Path, folds: Sequence[int | str] | None, wanted: Sequence[str]) -> list[str]:
    """Return the folds to import by nnU-Net's names: those asked for, or all that have a checkpoint."""
    there = sorted(path.name.removeprefix("fold_") for path in folder.glob("fold_*") if path.is_dir())
    known = [name for name in there if name.isdigit() or name == "all"]
    if folds is None:
        whole = [name for name in known if any((folder / f"fold_{name}" / file).is_file() for file in wanted)]
        if not whole:
            raise ModelError("holds no fold with a checkpoint", path=folder, expected=f"fold_0/{wanted[0]}")
        return whole
    chosen = ["all" if str(fold) == "full" else str(fold) for fold in folds]
    if missing := [name for name in chosen if name not in known]:
        raise UsageError(f"the model has no fold {', '.join(missing)}", path=folder, found=f"folds {', '.join(known)}")
    return list(dict.fromkeys(chosen))


def _checkpoint_path(folder: Path, fold: str, wanted: Sequence[str]) -> Path:
    paths = [folder / f"fold_{fold}" / name for name in wanted]
    for path in paths:
        if path.is_file():
            logger.info("fold %s: %s", fold, path.name)
            return path
    raise MissingPathError("the fold has no checkpoint", path=paths[0].parent, expected=" or ".join(wanted))


def _facts(content: Mapping[str, Any], path: Path) -> tuple[str, str, tuple[int, ...] | None]:
    """Return trainer, configuration and mirrored axes of a checkpoint."""
    arguments, mirror = content.get("init_args"), content.get("inference_allowed_mirroring_axes")
    if not isinstance(arguments, dict) or not isinstance(arguments.get("configuration"), str):
        raise ModelError("does not say which configuration it is of", path=path, expected="a checkpoint of nnU-Net v2")
    if mirror is not None and not (isinstance(mirror, tuple | list) and set(mirror) <= {0, 1, 2}):
        raise ModelError("mirrors axes that do not exist", path=path, found=repr(mirror))
    return str(content.get("trainer_name")), arguments["configuration"], None if mirror is None else tuple(mirror)


def _epochs(content: Mapping[str, Any]) -> int:
    epoch = content.get("current_epoch", 0)
    return int(epoch) if isinstance(epoch, int) else 0


def _write(model: ForeignModel, destination: Path, *, overwrite: bool) -> None:
    """Write a model folder and load it once, so that weights that do not fit are refused before it is there."""
    with new_model_folder(destination, overwrite=overwrite) as paths:
        record = ModelRecord(
            dataset_name=model.dataset_name,
            configuration=model.configuration_name,
            trainer=model.trainer,
            plan=model.plan_name,
        )
        files.write_record(paths.model, record)
        files.write_record(paths.plan, _plan(model))
        files.write_record(paths.description, model.description)
        for fold in model.folds:
            _write_fold(model, fold, paths.fold(fold.name))
            _check_loads(paths, fold.name)


def _plan(model: ForeignModel) -> Plan:
    return Plan(
        name=model.plan_name,
        dataset_name=model.dataset_name,
        planner="nnunet_import",
        trainer=model.trainer,
        folds=max(1, sum(fold.name.isdigit() for fold in model.folds)),
        configurations={model.configuration_name: model.configuration},
        provenance={"configurations": "rule:nnunet_import"},
    )


def _write_fold(model: ForeignModel, fold: ForeignFold, run: RunFolder) -> None:
    digest = write_arrays(run.weights, {name: tensor.read() for name, tensor in fold.weights.items()})
    channels = model.configuration.network.in_channels
    record = FinalRecord(
        fold=fold.name,
        trainer=model.trainer,
        weights_sha256=digest,
        training_sha256="",
        epochs=fold.epochs,
        training_cases=(),
        validation_cases=(),
        normalisation=Normalisation(channels=(ChannelScaling(scheme="none"),) * channels),
        configuration=model.configuration,
        config={
            "program": "nnU-Net v2",
            "checkpoint": fold.checkpoint.name,
            "checkpoint_sha256": files.file_sha256(fold.checkpoint),
        },
        numerics=Numerics(device="cpu", precision="float32", threads=1, deterministic=False),
    )
    files.write_record(run.record, record)


def _check_loads(paths: ModelFolder, fold: str) -> None:
    from siccs_net.inference.load_model import load_model

    try:
        load_model(paths.root, folds=[fold], device="cpu")
    except ModelError as error:
        raise ModelError(
            f"the weights of fold {fold} do not fit the plan's network",
            found=error.found,
            hint="The trainer may have built another network than its plan says: such models are not imported",
        ) from error
