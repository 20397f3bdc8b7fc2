"""Train: one fold or all, one after another; each is fitted, then validated on whole scans."""

from __future__ import annotations

import contextlib
import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from siccs_net.errors import DatasetError, ModelError, UsageError
from siccs_net.io import files
from siccs_net.io.dataset import Dataset, read_splits
from siccs_net.io.stage_store import StageStore
from siccs_net.io.store import PreparedStore
from siccs_net.networks.numerics import choose_device
from siccs_net.pipeline.preprocess import configuration_of
from siccs_net.pipeline.previous_stage import (
    PreviousStage,
    check_same_previous,
    find_previous,
    prepare_stage,
    stage_store,
)
from siccs_net.pipeline.validate import split_problems
from siccs_net.pipeline.validate_fold import cross_validation_summary, validate_fold
from siccs_net.preprocessing.preprocess import recipe_sha256
from siccs_net.preprocessing.statistics import merged_normalisation
from siccs_net.records.checkpoint import FinalRecord, ModelRecord
from siccs_net.records.dataset import Splits
from siccs_net.records.metrics import Summary
from siccs_net.records.plan import Configuration, Plan
from siccs_net.trainers.base import Trainer, find_trainer
from siccs_net.trainers.config import TrainerConfig, resolve_config
from siccs_net.trainers.devices import joined, this_process
from siccs_net.trainers.pretrained import find_weights
from siccs_net.trainers.state import check_may_start
from siccs_net.trainers.task import TrainTask
from siccs_net.workspace import DatasetFolder, ModelFolder, RunFolder, Workspace

FULL = "full"
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Training:
    """Everything that the folds of one training share; in a cascade also the stage before and its segmentations."""

    dataset: Dataset
    plan: Plan
    configuration_name: str
    trainer: type[Trainer]
    config: TrainerConfig
    splits: Splits
    store: PreparedStore
    model: ModelFolder
    device: str
    show_progress: bool
    pretrained: Path | None = None
    validated: bool = True
    save_probabilities: bool = False
    previous: PreviousStage | None = None
    stage: StageStore | None = None

    @property
    def configuration(self) -> Configuration:
        """The plan's configuration, before a trainer adapts it."""
        return configuration_of(self.plan, self.configuration_name)


@dataclass(frozen=True)
class FoldResult:
    """A trained fold: its model's record and its validation on whole scans (None for `full`)."""

    fold: str
    record: FinalRecord
    validation: Summary | None


def train(
    dataset: Dataset,
    plan: Plan,
    configuration: str,
    fold: int | str = "all",
    *,
    trainer: str | type[Trainer] | None = None,
    settings: Sequence[str] | Mapping[str, Any] = (),
    resume: bool = False,
    overwrite: bool = False,
    device: str = "auto",
    workspace: Workspace | None = None,
    show_progress: bool = False,
    pretrained: Path | str | None = None,
    pretrained_fold: str | None = None,
    validate: bool = True,
    save_probabilities: bool = False,
) -> list[FoldResult]:
    """Train one fold (a number, or `full` for one model on every case), or `all` folds one after another.

    With `resume` finished folds are skipped and an unfinished one goes on where it stood. `pretrained` is a model
    folder (with `pretrained_fold` where it has several), a fold's folder or a file of weights that new runs start
    from. Without `validate` no whole scan is predicted; with `save_probabilities` the class probabilities of validation
    cases are kept, from which ensembles are judged. In a process started by torchrun it takes its part in a training
    on several devices. Raises UsageError for an unknown fold, trainer or setting, StoreError for prepared
    data that is missing, damaged or of another plan.
    """
    if resume and overwrite:
        raise UsageError("resume and overwrite contradict each other")
    start = find_weights(Path(pretrained), pretrained_fold) if pretrained is not None else None
    training = prepare_training(
        dataset,
        plan,
        configuration,
        trainer=trainer,
        settings=settings,
        device=device,
        workspace=workspace,
        show_progress=show_progress,
    )
    training = replace(training, save_probabilities=save_probabilities)
    chosen = choose_folds(training.splits, fold)
    for name in chosen:
        check_may_start(training.model.fold(name), resume=resume or overwrite)
    with joined(device) as own_device:
        training = replace(training, device=own_device, pretrained=start, validated=validate)
        first = this_process().leads
        if first:
            verify_store(training)
            write_model_files(training, replaced=chosen if overwrite else ())
        # Nobody may begin before all have seen that the folds may start.
        this_process().wait()
        results = [train_fold(training, name, resume=resume, overwrite=overwrite) for name in chosen]
        if first:
            cross_validation_summary(training.model)
    return results


def prepare_training(
    dataset: Dataset,
    plan: Plan,
    configuration: str,
    *,
    trainer: str | type[Trainer] | None,
    settings: Sequence[str] | Mapping[str, Any],
    device: str,
    workspace: Workspace | None,
    show_progress: bool,
) -> Training:
    """Resolve trainer, settings, folds and folders of a training; reads no image."""
    place = workspace or Workspace.resolve()
    folder = place.prepared_dataset(dataset.name)
    kind = find_trainer(trainer or plan.trainer)
    chosen = configuration_of(plan, configuration)
    config = resolve_config(kind.config_class, kind.defaults, plan, settings)
    store = PreparedStore(folder.prepared(plan.name, plan.prepared_name(configuration)), chosen.dimension)
    model = place.model_folder(dataset.name, kind.__name__, plan.name, configuration)
    splits = _splits(folder, dataset, plan)
    training = Training(dataset, plan, configuration, kind, config, splits, store, model, device, show_progress)
    if chosen.previous_stage is None:
        return training
    asked = trainer if isinstance(trainer, str) else kind.__name__
    return _with_previous(training, place, "" if asked == plan.trainer else f" -tr {asked}")


def _with_previous(training: Training, place: Workspace, given: str) -> Training:
    """Add the finished stage before. Raises UsageError with the command that trains it, ending with `given`."""
    dataset, plan, name = training.dataset.name, training.plan, str(training.configuration.previous_stage)
    trainer = training.trainer.__name__
    command = f"siccs_train {dataset} {name} all -p {plan.name}{given}"
    model = place.model_folder(dataset, trainer, plan.name, name)
    previous = find_previous(model, name, training.splits, command=command)
    folder, dimension = place.prepared_dataset(dataset), training.configuration.dimension
    stage = stage_store(folder, plan.name, training.configuration_name, dimension, previous)
    return replace(training, previous=previous, stage=stage)


def _splits(folder: DatasetFolder, dataset: Dataset, plan: Plan) -> Splits:
    """Return the folds. Raises UsageError when they are not the plan's, DatasetError when they do not fit the data."""
    if not folder.splits.is_file():
        raise UsageError("the dataset is not planned", path=folder.root, hint="Run siccs_plan_and_preprocess first")
    splits = read_splits(folder.splits)
    if len(splits.folds) != plan.folds:
        raise UsageError(
            f"plan {plan.name!r} was made for {plan.folds} folds",
            path=folder.splits,
            found=f"{len(splits.folds)} folds, drawn since",
            hint="Run siccs_plan_and_preprocess again with the plan's number of --folds",
        )
    if problems := split_problems(dataset, splits):
        listed = "; ".join(problem.message for problem in problems[:5])
        raise DatasetError(f"the folds do not fit the dataset: {listed}", path=folder.splits)
    return splits


def choose_folds(splits: Splits, fold: int | str) -> list[str]:
    """Return the folds that `fold` means. Raises UsageError for one that splits_final.json does not have."""
    count = len(splits.folds)
    if fold == "all":
        return [str(number) for number in range(count)]
    if fold == FULL:
        logger.info("fold full: one model on every case (nnU-Net calls this fold 'all')")
        return [FULL]
    if not str(fold).isdigit() or int(fold) >= count:
        raise UsageError(f"there is no fold {fold!r}", expected=f"0 to {count - 1}, all or full")
    return [str(int(fold))]


def verify_store(training: Training) -> None:
    """Check every prepared case against its hashes and the plan's recipe; in a cascade prepare the stage before."""
    recipe = recipe_sha256(training.configuration, training.dataset.labels)
    for case in training.dataset.cases:
        training.store.verify(case, recipe)
    if training.previous is not None and training.stage is not None:
        prepare_stage(
            training.previous,
            training.dataset,
            training.configuration,
            training.store,
            training.stage,
            show_progress=training.show_progress,
        )


def write_model_files(training: Training, *, replaced: Sequence[str] = ()) -> None:
    """Write model.json, plan.json and dataset.json. Raises ModelError when another plan was trained here."""
    model, plan = training.model, training.plan
    if model.plan.is_file() and model.folds() and _differs(files.read_record(model.plan, Plan), training):
        raise ModelError(
            "holds folds that were trained with another version of this plan",
            path=model.root,
            hint="Give the new plan another --plan-name, or delete this folder",
        )
    previous = None if training.previous is None else training.previous.record
    check_same_previous(model, previous, replaced)
    record = ModelRecord(
        dataset_name=training.dataset.name,
        configuration=training.configuration_name,
        trainer=training.trainer.__name__,
        plan=plan.name,
        previous=previous,
    )
    files.write_record(model.plan, plan)
    files.write_record(model.description, training.dataset.description)
    files.write_record(model.model, record)


def _differs(trained: Plan, training: Training) -> bool:
    """Say whether the configuration or the training settings are others; further configurations do not matter."""
    before = trained.configurations.get(training.configuration_name)
    return before != training.configuration or trained.training != training.plan.training


def train_fold(training: Training, fold: str, *, resume: bool, overwrite: bool) -> FoldResult:
    """Fit one fold and validate it."""
    run, first = training.model.fold(fold), this_process().leads
    with files.exclusive(run.root, f"training fold {fold}") if first else contextlib.nullcontext():
        trainer = training.trainer(make_task(training, fold, resume=resume))
        record = _finished(run, trainer) if resume else None
        if overwrite and first:
            _clear(run.root)
        if record is None:
            record = trainer.fit()
        validation = None
        if first and fold != FULL and training.validated:
            validation = validate_trained(training, trainer, record)
        this_process().wait()
    return FoldResult(fold, record, validation)


def validate_trained(training: Training, trainer: Trainer, record: FinalRecord, *, again: bool = False) -> Summary:
    """Validate a fold on whole scans. The trainer is at hand, so a network of its own can be built by it."""
    own = record.network_class is not None
    return validate_fold(
        training.model,
        record.fold,
        training.dataset,
        training.store,
        device=training.device,
        network=(lambda spec: trainer.rebuild_network(record.configuration)) if own else None,
        previous=training.stage,
        show_progress=training.show_progress,
        again=again,
        save_probabilities=training.save_probabilities,
    )


def _finished(run: RunFolder, trainer: Trainer) -> FinalRecord | None:
    """Return the record of a fold whose every epoch is done. Raises UsageError when it is another training's."""
    if not (run.record.is_file() and run.weights.is_file()):
        return None
    record = files.read_record(run.record, FinalRecord)
    if record.training_sha256 != trainer.training_sha256():
        raise UsageError(
            "the fold was trained with other settings, another plan, other folds or other prepared data",
            path=run.root,
            hint="--overwrite trains it anew",
        )
    budgeted = trainer.config.budget_minutes is not None
    if not record.complete or (not budgeted and record.epochs < trainer.config.epochs):
        logger.info("fold %s was stopped after %d epochs", record.fold, record.epochs)
        return None
    logger.info("fold %s is trained already", record.fold)
    return record


def _clear(folder: Any) -> None:
    for path in folder.iterdir():
        if path.name == ".lock":
            continue
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def make_task(training: Training, fold: str, *, resume: bool = False) -> TrainTask:
    """Return the task of one fold: its cases and the normalisation of its training cases."""
    if fold == FULL:
        cases = tuple(sorted(training.dataset.cases))
        training_cases = validation_cases = cases
    else:
        members = training.splits.folds[int(fold)]
        training_cases, validation_cases = members.train, members.val
    return TrainTask(
        plan=training.plan,
        configuration_name=training.configuration_name,
        configuration=training.configuration,
        config=training.config,
        fold=fold,
        training_cases=training_cases,
        validation_cases=validation_cases,
        store=training.store,
        labels=training.dataset.labels,
        normalisation=merged_normalisation(
            [training.store.read_record(case) for case in training_cases], training.configuration.normalisation
        ),
        device=choose_device(training.device),
        run=training.model.fold(fold),
        resume=resume,
        show_progress=training.show_progress and this_process().leads,
        pretrained=training.pretrained,
        previous=training.stage,
    )
