"""The stage before a cascade's second stage: its out-of-fold masks, put on the second stage's grid before training.

Every case is taken from the fold that did not train on it, also for the fold `full`, so that the second stage learns
from mistakes as they will be.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from tqdm import tqdm

from siccs_net.errors import ModelError, UsageError
from siccs_net.io import files
from siccs_net.io.dataset import Dataset
from siccs_net.io.image import read_label
from siccs_net.io.stage_store import StageStore
from siccs_net.io.store import PreparedStore
from siccs_net.parallel import run_all
from siccs_net.preprocessing.previous_stage import stage_on_grid
from siccs_net.records.case import StageRecord
from siccs_net.records.checkpoint import FinalRecord, ModelRecord, PreviousModel
from siccs_net.records.dataset import Splits
from siccs_net.records.metrics import Summary
from siccs_net.records.plan import Configuration
from siccs_net.workspace import DatasetFolder, ModelFolder, RunFolder

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PreviousStage:
    """A finished model of the first stage: its folder and record, and the fold that did not see each case."""

    model: ModelFolder
    record: PreviousModel
    fold_of: Mapping[str, str]


def find_previous(model: ModelFolder, configuration: str, splits: Splits, *, command: str) -> PreviousStage:
    """Return the finished first stage of a cascade. Reads records, no mask.

    `command` trains it. Raises UsageError with that command unless every fold is trained and validated with its last
    weights, ModelError when its folds are others than the dataset's now.
    """
    names = [str(number) for number in range(len(splits.folds))]
    missing = [name for name in names if not _is_finished(model.fold(name))]
    if missing:
        there = f"folds {', '.join(missing)} of {len(names)} not trained and validated"
        raise UsageError(
            f"a cascade needs every fold of its previous stage {configuration} first",
            path=model.root,
            found=there if model.root.is_dir() else "no such model",
            hint=f"Run {command}{' --resume' if len(missing) < len(names) else ''}",
        )
    records = {name: files.read_record(model.fold(name).record, FinalRecord) for name in names}
    for name, record in records.items():
        if set(record.validation_cases) != set(splits.folds[int(name)].val):
            raise ModelError(
                f"fold {name} of {configuration} was trained on other folds than the dataset has now",
                path=model.root,
                hint=f"Run {command} --overwrite",
            )
    fold_of = {case: name for name, record in records.items() for case in record.validation_cases}
    weights = {name: record.weights_sha256 for name, record in records.items()}
    return PreviousStage(model, PreviousModel(folder=model.root.name, weights_sha256=weights), fold_of)


def _is_finished(run: RunFolder) -> bool:
    """Say whether a fold is trained and its masks are those of its weights."""
    if not (run.record.is_file() and run.weights.is_file() and (run.validation / "summary.json").is_file()):
        return False
    weights = files.read_record(run.record, FinalRecord).weights_sha256
    return run.stamp.is_file() and files.read_bytes(run.stamp).decode() == weights


def prepare_stage(
    previous: PreviousStage,
    dataset: Dataset,
    configuration: Configuration,
    prepared: PreparedStore,
    folder: StageStore,
    *,
    show_progress: bool = False,
) -> None:
    """Put the out-of-fold mask of every case on its prepared grid; cases that are there and unchanged are kept.

    Raises the reader's error for a mask that is missing or damaged, DataError for one that is not of its scan.
    """
    missing = sorted(set(dataset.cases) - set(previous.fold_of))
    if missing:
        raise ModelError("no fold has validated these cases", path=previous.model.root, found=", ".join(missing[:10]))
    masks = _mask_names(previous)
    # No lock: folds may start side by side, and each would write the same bytes, whole or not at all.
    jobs = run_all(
        lambda case: _prepare(case, previous, masks[case], dataset, configuration, prepared, folder), dataset.cases
    )
    made = sum(outcome for _, outcome in _shown(jobs, len(dataset.cases), show_progress))
    logger.info("previous stage: %d cases prepared, %d kept, in %s", made, len(dataset.cases) - made, folder.folder)


def _shown(jobs: Iterable[tuple[str, bool]], total: int, show_progress: bool) -> Iterable[tuple[str, bool]]:
    shown: Iterable[tuple[str, bool]] = tqdm(
        jobs, desc="previous stage", total=total, leave=False, disable=None if show_progress else True
    )
    return shown


def _mask_names(previous: PreviousStage) -> dict[str, str]:
    """Return the file name of each case's mask, as the validation of its fold has written it down."""
    names: dict[str, str] = {}
    for fold in previous.record.weights_sha256:
        summary = files.read_record(previous.model.fold(fold).validation / "summary.json", Summary)
        names |= {item.case: item.prediction_file for item in summary.metric_per_case}
    return names


def _prepare(
    case: str,
    previous: PreviousStage,
    mask_name: str,
    dataset: Dataset,
    configuration: Configuration,
    prepared: PreparedStore,
    folder: StageStore,
) -> bool:
    """Prepare one case; return False when it was there already."""
    fold = previous.fold_of[case]
    path = previous.model.fold(fold).validation / mask_name
    own = prepared.read_record(case)
    record = StageRecord(
        case=case,
        fold=fold,
        weights_sha256=previous.record.weights_sha256[fold],
        mask_sha256=files.file_sha256(path),
        image_sha256=own.image_sha256,
        recipe_sha256=own.recipe_sha256,
        array_sha256="",
    )
    if folder.holds(record):
        return False
    mask = read_label(path).array[0]
    folder.save(record, stage_on_grid(mask, own.geometry, configuration, dataset.labels))
    return True


def stage_store(place: DatasetFolder, plan: str, name: str, dimension: int, previous: PreviousStage) -> StageStore:
    """Return the store of a second stage's inputs: a folder of its own for every set of first-stage weights."""
    identity = previous.record.identity
    return StageStore(place.stage(plan, name, identity), dimension, identity)


def check_same_previous(model: ModelFolder, previous: PreviousModel | None, replaced: Sequence[str] = ()) -> None:
    """Raise ModelError when a fold of a second stage that stays was trained after other weights of the first."""
    kept = set(model.folds()) - set(replaced)
    if model.model.is_file() and kept and files.read_record(model.model, ModelRecord).previous != previous:
        raise ModelError(
            "holds folds that were trained after other weights of the previous stage",
            path=model.root,
            found=f"folds {', '.join(sorted(kept))}",
            hint="Train all folds of the second stage anew with --overwrite",
        )
