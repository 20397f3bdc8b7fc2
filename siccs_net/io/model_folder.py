"""Making a model folder in one step: filled under a temporary name beside its place, then moved there whole."""

from __future__ import annotations

import contextlib
import re
import secrets
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from siccs_net.errors import DataError, MissingPathError, ModelError, UsageError
from siccs_net.io import files
from siccs_net.records.checkpoint import FinalRecord
from siccs_net.workspace import ModelFolder

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,150}")


def check_name(name: object, what: str, path: Path) -> str:
    """Return a name that a file gives, if it can be a folder's. Raises DataError: it may not leave its place."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise DataError(f"{what} cannot be the name of a folder", path=path, found=repr(name))
    return name


@contextlib.contextmanager
def new_model_folder(destination: Path, *, overwrite: bool) -> Iterator[ModelFolder]:
    """Yield an empty folder to fill; it becomes `destination` when the block ends well and vanishes otherwise.

    Raises UsageError when something is there already; with `overwrite` a model folder is replaced, nothing else.
    """
    _check_free(destination, overwrite=overwrite)
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise files.disk_problem(error, destination) from error
    temporary = destination.with_name(f".{destination.name[:100]}.{secrets.token_hex(6)}.tmp")
    try:
        yield ModelFolder(temporary)
        if destination.exists():
            shutil.rmtree(destination)
        temporary.rename(destination)
    except OSError as error:
        raise files.disk_problem(error, destination) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _check_free(destination: Path, *, overwrite: bool) -> None:
    if not destination.exists() or (destination.is_dir() and not any(destination.iterdir())):
        return
    is_model = ModelFolder(destination).model.is_file()
    if is_model and overwrite:
        return
    hint = "--overwrite replaces it, or choose another place with -o" if is_model else "Choose another place with -o"
    raise UsageError("there is a model already" if is_model else "there is something else", path=destination, hint=hint)


def chosen_folds(model: ModelFolder, folds: Sequence[int | str] | None) -> list[str]:
    """Return the names of the folds of a model folder, or of those asked for, each once.

    Raises MissingPathError for another kind of folder, ModelError without a trained fold, UsageError for no such fold.
    """
    if not model.model.is_file():
        raise MissingPathError(
            "not a model folder", path=model.root, expected="model.json, plan.json and fold_K folders"
        )
    there = model.folds()
    if not there:
        raise ModelError("holds no trained fold", path=model.root)
    wanted = there if folds is None else [str(fold) for fold in folds]
    if missing := [fold for fold in wanted if fold not in there]:
        raise UsageError(
            f"the model has no fold {', '.join(missing)}", path=model.root, found=f"folds {', '.join(there)}"
        )
    return list(dict.fromkeys(wanted))


def model_members(model: ModelFolder, folds: Sequence[str]) -> dict[str, Path]:
    """Return the files that prediction needs, by their names in the model folder, weights checked.

    Raises ModelError for weights that are not their record's.
    """
    found = {path.name: path for path in (model.model, model.plan, model.description)}
    for fold in folds:
        run = model.fold(fold)
        record = files.read_record(run.record, FinalRecord)
        if files.file_sha256(run.weights) != record.weights_sha256:
            raise ModelError("is damaged: its SHA-256 is not its record's", path=run.weights)
        found |= {f"{run.root.name}/{path.name}": path for path in (run.record, run.weights)}
    return found


def copy_model(source: ModelFolder, target: ModelFolder, *, folds: Sequence[int | str] | None = None) -> None:
    """Copy what prediction needs of a model folder into an empty one."""
    for name, path in model_members(source, chosen_folds(source, folds)).items():
        destination = target.root / name
        destination.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, destination)
