"""Validate trained folds on whole scans again, without training."""

from __future__ import annotations

from dataclasses import replace

from siccs_net.errors import UsageError
from siccs_net.io import files
from siccs_net.io.dataset import Dataset
from siccs_net.pipeline.previous_stage import check_same_previous
from siccs_net.pipeline.train import (
    FULL,
    FoldResult,
    choose_folds,
    make_task,
    prepare_training,
    validate_trained,
    verify_store,
)
from siccs_net.pipeline.validate_fold import cross_validation_summary
from siccs_net.records.checkpoint import FinalRecord
from siccs_net.records.plan import Plan
from siccs_net.trainers.base import Trainer
from siccs_net.workspace import Workspace


def revalidate(
    dataset: Dataset,
    plan: Plan,
    configuration: str,
    fold: int | str = "all",
    *,
    trainer: str | type[Trainer] | None = None,
    device: str = "auto",
    workspace: Workspace | None = None,
    show_progress: bool = False,
    save_probabilities: bool = False,
) -> list[FoldResult]:
    """Validate trained folds on whole scans again and merge their summaries; nothing is trained.

    `all` means the folds that are trained. `save_probabilities` keeps class probabilities as in `train`.
    Raises UsageError when there is none, or the named one is not.
    """
    training = prepare_training(
        dataset,
        plan,
        configuration,
        trainer=trainer,
        settings=(),
        device=device,
        workspace=workspace,
        show_progress=show_progress,
    )
    training = replace(training, save_probabilities=save_probabilities)
    asked = choose_folds(training.splits, fold)
    chosen = [name for name in asked if name != FULL and training.model.fold(name).record.is_file()]
    if not chosen or (fold != "all" and chosen != asked):
        raise UsageError(
            "there is no trained fold to validate" if fold == "all" else f"fold {fold} cannot be validated",
            path=training.model.root,
            found=", ".join(f"fold {name}" for name in training.model.folds()) or "no trained fold",
        )
    verify_store(training)
    check_same_previous(training.model, training.previous.record if training.previous else None)
    results = []
    for name in chosen:
        run = training.model.fold(name)
        with files.exclusive(run.root, f"validating fold {name}"):
            record = files.read_record(run.record, FinalRecord)
            task = replace(make_task(training, name), configuration=record.configuration)
            results.append(
                FoldResult(name, record, validate_trained(training, training.trainer(task), record, again=True))
            )
    cross_validation_summary(training.model)
    return results
