"""Validate a fold: predict its validation cases whole, on their native grids, and measure them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from siccs_net.errors import DataError
from siccs_net.evaluation.summary import measure_case, summarise, summary_csv
from siccs_net.inference.load_model import NetworkFactory, load_model
from siccs_net.inference.predictor import Model
from siccs_net.io import files
from siccs_net.io.dataset import Case, Dataset
from siccs_net.io.image import read_label, write_label
from siccs_net.io.probabilities import cases_with_probabilities, open_probabilities
from siccs_net.io.probabilities import save_probabilities as save_levels
from siccs_net.io.stage_store import StageStore
from siccs_net.io.store import PreparedCase, PreparedStore
from siccs_net.preprocessing.probabilities import LEVELS
from siccs_net.records.checkpoint import FinalRecord
from siccs_net.records.metrics import CaseMetrics, Summary
from siccs_net.workspace import ModelFolder, RunFolder


def validate_fold(
    model: ModelFolder,
    fold: str,
    dataset: Dataset,
    store: PreparedStore,
    *,
    device: str,
    surface: bool = True,
    network: NetworkFactory | None = None,
    previous: StageStore | None = None,
    show_progress: bool = False,
    again: bool = False,
    save_probabilities: bool = False,
) -> Summary:
    """Predict and measure a fold's validation cases; write masks, summary.json and summary.csv in its folder.

    Metrics run on the native grid against the raw label files. A summary of the same weights is kept as it is unless it
    is to be made `again`, or `save_probabilities` asks for class probabilities that are not beside it. The second stage
    of a cascade is shown the out-of-fold segmentations in `previous`.
    """
    run = model.fold(fold)
    record = files.read_record(run.record, FinalRecord)
    again = again or (save_probabilities and not probabilities_are_saved(run, record))
    if not again and (done := _finished(run, record)) is not None:
        return done
    loaded = load_model(model.root, folds=[fold], device=device, network=network, previous=False)
    bar = tqdm(
        record.validation_cases, desc=f"validating fold {fold}", leave=False, disable=None if show_progress else True
    )
    cases = [
        _validate_case(
            dataset.cases[name],
            loaded,
            store,
            dataset,
            run.validation,
            previous,
            surface=surface,
            save_probabilities=save_probabilities,
        )
        for name in bar
    ]
    summary = summarise(cases, {name: int(fold) for name in record.validation_cases if fold.isdigit()})
    write_summary(run.validation, summary)
    files.write_bytes(run.stamp, record.weights_sha256.encode())
    return summary


def _finished(run: RunFolder, record: FinalRecord) -> Summary | None:
    path = run.validation / "summary.json"
    if not path.is_file() or not run.stamp.is_file():
        return None
    same = files.read_bytes(run.stamp).decode() == record.weights_sha256
    return files.read_record(path, Summary) if same else None


def probabilities_are_saved(run: RunFolder, record: FinalRecord) -> bool:
    """Say whether the probabilities of every validation case are there, made by the fold's own weights."""
    folder = run.validation
    there = set(cases_with_probabilities(folder)) if folder.is_dir() else set()
    return there.issuperset(record.validation_cases) and all(
        open_probabilities(folder, case).record.sources_sha256 == (record.weights_sha256,)
        for case in record.validation_cases
    )


def _validate_case(
    case: Case,
    model: Model,
    store: PreparedStore,
    dataset: Dataset,
    folder: Path,
    previous: StageStore | None,
    *,
    surface: bool,
    save_probabilities: bool,
) -> CaseMetrics:
    if case.label is None:
        raise DataError("the case has no label", path=case.images[0])
    reference = read_label(case.label)
    stage = None if previous is None else np.asarray(previous.stage(case.name)[:])
    prepared = PreparedCase(np.asarray(store.image(case.name)[:]), None, store.read_record(case.name), stage)
    found = model.restore(prepared, reference.orientation, probabilities=save_probabilities)
    if found.levels is not None:
        weights = tuple(member.weights_sha256 for member in model.members)
        save_levels(folder, case.name, found.levels, LEVELS, model.labels, reference.orientation, weights)
    labels = found.labels
    output = folder / f"{case.name}{dataset.description.file_ending}"
    write_label(output, labels, reference.orientation, reference.header)
    return measure_case(
        labels,
        reference.array[0],
        reference.grid.spacing_mm,
        dataset.labels.measured,
        dataset.labels.unions,
        case=case.name,
        prediction_file=output.name,
        reference_file=case.label.name,
        surface=surface,
        ignore_label=dataset.labels.ignore,
    )


def write_summary(folder: Path, summary: Summary, *, name: str = "summary") -> None:
    """Write a summary as JSON and CSV."""
    files.write_record(folder / f"{name}.json", summary)
    files.write_bytes(folder / f"{name}.csv", summary_csv(summary).encode())


def merged_summary(model: ModelFolder) -> Summary | None:
    """Return one summary of all validated folds' cases; None while no fold is validated."""
    cases: list[CaseMetrics] = []
    folds: dict[str, int] = {}
    for fold in (name for name in model.folds() if name.isdigit()):
        path = model.fold(fold).validation / "summary.json"
        if path.is_file():
            found: Sequence[CaseMetrics] = files.read_record(path, Summary).metric_per_case
            cases += found
            folds |= {item.case: int(fold) for item in found}
    return summarise(cases, folds) if cases else None


def cross_validation_summary(model: ModelFolder) -> Summary | None:
    """Write the merged summary of the validated folds as crossval_summary.json; None while no fold is validated."""
    summary = merged_summary(model)
    if summary is not None:
        write_summary(model.root, summary, name=model.summary.stem)
    return summary
