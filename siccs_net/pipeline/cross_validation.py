"""A model's cross-validation as one: the out-of-fold masks of all its folds, however many, and their summary."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from siccs_net.errors import DataError, UsageError
from siccs_net.evaluation.summary import summarise
from siccs_net.io import files
from siccs_net.io.probabilities import probabilities_path
from siccs_net.pipeline.validate_fold import probabilities_are_saved, write_summary
from siccs_net.records.checkpoint import FinalRecord
from siccs_net.records.metrics import CaseMetrics, Summary
from siccs_net.records.plan import Plan
from siccs_net.workspace import ModelFolder

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Validated:
    """A model's cross-validation: the summary of its folds' cases, and the fold's folder of each case."""

    model: ModelFolder
    summary: Summary
    folders: Mapping[str, Path]
    folds: tuple[str, ...]
    weights_sha256: tuple[str, ...]
    has_probabilities: bool

    @property
    def name(self) -> str:
        """The folder's name, TRAINER__PLAN__CONFIG."""
        return self.model.root.name


def read_validated(model: ModelFolder, folds: Collection[str] | None = None) -> Validated | None:
    """Read the validated folds of a model (those named, or all); None while none is validated.

    Raises DataError for a case in two folds, or for a summary whose mask is missing.
    """
    cases: list[CaseMetrics] = []
    folders: dict[str, Path] = {}
    used: dict[str, FinalRecord] = {}
    for fold in (name for name in model.folds() if name.isdigit() and (folds is None or name in folds)):
        run = model.fold(fold)
        if not (run.validation / "summary.json").is_file():
            continue
        used[fold] = files.read_record(run.record, FinalRecord)
        for item in files.read_record(run.validation / "summary.json", Summary).metric_per_case:
            if not (run.validation / item.prediction_file).is_file():
                hint = "Validate the fold again: siccs_train --resume after removing its validation folder"
                raise DataError("the mask is missing", path=run.validation / item.prediction_file, hint=hint)
            cases.append(item)
            folders[item.case] = run.validation
    if not cases:
        return None
    saved = all(probabilities_are_saved(model.fold(fold), record) for fold, record in used.items())
    summary = summarise(cases, {case: int(_fold_of(folder)) for case, folder in folders.items()})
    weights = tuple(record.weights_sha256 for record in used.values())
    return Validated(model, summary, folders, tuple(used), weights, saved)


def _fold_of(validation: Path) -> str:
    return validation.parent.name.removeprefix("fold_")


def comparable(found: Sequence[Validated | None], root: Path) -> tuple[list[Validated], list[str]]:
    """Return the models that have every out-of-fold case that any of them has, and a note on each of the others.

    Raises UsageError when there is none, or when models were measured with other classes.
    """
    validated = [model for model in found if model is not None]
    if not validated:
        hint = "Train with siccs_train; a fold that ends is validated"
        raise UsageError("no model of these names has a validated fold", path=root, hint=hint)
    everything = set().union(*(model.folders for model in validated))
    models, notes = [], []
    for model in validated:
        if lacking := sorted(everything - set(model.folders)):
            shown = ", ".join(lacking[:5]) + (" …" if len(lacking) > 5 else "")
            notes.append(f"{model.name} is left out: {len(lacking)} cases are not validated ({shown})")
        else:
            models.append(model)
    if not models:
        hint = "Train the missing folds, or compare some folds with -f"
        raise UsageError(f"no model has all validation cases: {'; '.join(notes)}", path=root, hint=hint)
    if len({tuple(model.summary.names.items()) for model in models}) > 1:
        raise UsageError("the models were measured with other classes", path=root, hint="Choose with -c, -tr and -p")
    return models, notes


def accumulate(
    model: ModelFolder, output: Path, *, folds: Collection[str] | None = None, overwrite: bool = False
) -> Summary:
    """Copy the out-of-fold masks of a model's folds (those named, or all) into one folder, with one summary.

    Saved probabilities are copied along when every case has them. Folds of the plan that are not validated are named
    in a warning. Raises UsageError without a validated fold, for a fold that is named and not there, or for an output
    that is not empty unless `overwrite`.
    """
    _check_folds(model, folds)
    if output.is_dir() and any(output.iterdir()) and not overwrite:
        raise UsageError("the output is not empty", path=output, hint="--overwrite writes into it all the same")
    found = read_validated(model, folds)
    if found is None:
        raise UsageError("the model has no validated fold", path=model.root, hint="Train with siccs_train")
    for item in found.summary.metric_per_case:
        folder = found.folders[item.case]
        _copy(folder / item.prediction_file, output)
        if found.has_probabilities:
            array = probabilities_path(folder, item.case)
            _copy(array, output)
            _copy(array.with_suffix(".json"), output)
    write_summary(output, found.summary)
    return found.summary


def _check_folds(model: ModelFolder, folds: Collection[str] | None) -> None:
    if not model.model.is_file():
        raise UsageError("not a model folder: it has no model.json", path=model.root)
    validated = [fold for fold in model.folds() if (model.fold(fold).validation / "summary.json").is_file()]
    planned = [str(fold) for fold in range(files.read_record(model.plan, Plan).folds)]
    missing = [fold for fold in (planned if folds is None else folds) if fold not in validated]
    if missing and folds is not None:
        raise UsageError(f"fold {', '.join(missing)} is not validated", path=model.root, found=", ".join(validated))
    if missing:
        logger.warning("folds %s of %d are not validated and not in the summary", ", ".join(missing), len(planned))


def _copy(path: Path, folder: Path) -> None:
    files.write_bytes(folder / path.name, files.read_bytes(path))
