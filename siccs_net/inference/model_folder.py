"""A model folder on disk: which folds it holds, what they were trained on, which model comes before it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from siccs_net.errors import MissingPathError, ModelError, UsageError
from siccs_net.io import files
from siccs_net.records.checkpoint import FinalRecord, ModelRecord
from siccs_net.records.plan import Configuration
from siccs_net.workspace import ModelFolder

logger = logging.getLogger(__name__)


def previous_folder(paths: ModelFolder, model: ModelRecord, given: Path | str | None) -> ModelFolder:
    """Return the folder of the model before a cascade's second stage: `given`, or the one beside it by name.

    Raises MissingPathError when it is not there, ModelError when its weights are not those that the second stage was
    trained after. A folder that is `given` may hold others, which is logged.
    """
    if model.previous is None:
        raise ModelError("does not say which model comes before it", path=paths.model, hint="Train it anew")
    before = ModelFolder(paths.root.parent / model.previous.folder if given is None else Path(given))
    hint = "Put it there, name it with --previous-model, or give its masks with --prev-stage-predictions"
    if not before.model.is_file():
        raise MissingPathError("the model of the cascade's previous stage is not there", path=before.root, hint=hint)
    found = {fold: read_fold(before, fold).weights_sha256 for fold in before.folds() if fold.isdigit()}
    if found == model.previous.weights_sha256:
        return before
    if given is None:
        raise ModelError(
            "the previous stage was trained anew since this second stage was trained after it",
            path=before.root,
            hint="Train the second stage anew (--overwrite), or name the folder with --previous-model to use it anyway",
        )
    logger.warning("%s holds other weights than those that the second stage was trained after", before.root)
    return before


def choose_folds(paths: ModelFolder, folds: Sequence[int | str] | None, *, most: int | None = None) -> list[str]:
    """Return the folds to use: those named, else at most so many of the numbered ones, else of all.

    Raises UsageError for a fold that is not there, ModelError for a folder without any.
    """
    there = paths.folds()
    if not there:
        raise ModelError("holds no trained fold", path=paths.root, hint="Train with siccs_train first")
    if folds is None:
        return ([fold for fold in there if fold.isdigit()] or there)[:most]
    wanted = [str(fold) for fold in folds]
    missing = [fold for fold in wanted if fold not in there]
    if missing:
        raise UsageError(
            f"the model has no fold {', '.join(missing)}", path=paths.root, found=f"folds {', '.join(there)}"
        )
    return list(dict.fromkeys(wanted))


def read_fold(paths: ModelFolder, fold: str) -> FinalRecord:
    """Return a fold's record. Raises ModelError for weights without one."""
    run = paths.fold(fold)
    if not run.record.is_file():
        raise ModelError(
            "the fold has weights but no final.json", path=run.root, hint="Its training was cut: --resume it"
        )
    return files.read_record(run.record, FinalRecord)


def one_configuration(records: Sequence[FinalRecord], folds: Sequence[str], root: Path) -> Configuration:
    """Return the configuration that all folds were trained on. Raises ModelError when they differ."""
    first = records[0].configuration
    for record, fold in zip(records, folds, strict=True):
        if record.configuration != first:
            raise ModelError(
                f"fold {fold} was trained with another configuration than fold {folds[0]}",
                path=root,
                hint="Predict with folds of one training only (-f)",
            )
    return first
