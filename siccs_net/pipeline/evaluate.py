"""Evaluate: a folder of predictions against a folder of references, per case and in summary."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from siccs_net.errors import DataError, MissingPathError, SiccsError, UsageError
from siccs_net.evaluation.summary import measure_case, summarise
from siccs_net.io.dataset import read_description
from siccs_net.io.formats import endings, is_readable, stem, use_installed_readers
from siccs_net.io.image import check_same_grid, read_label
from siccs_net.parallel import run_all
from siccs_net.pipeline.validate_fold import write_summary
from siccs_net.records.dataset import LabelScheme
from siccs_net.records.metrics import CaseMetrics, Summary

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Evaluation:
    """The summary of the pairs that could be measured, and the errors of those that could not."""

    summary: Summary | None
    errors: tuple[tuple[str, SiccsError], ...]


def find_pairs(
    predictions: Path, references: Path
) -> tuple[list[tuple[str, Path, Path]], list[tuple[str, SiccsError]]]:
    """Match predictions with references by name, whatever their endings.

    A reference without a prediction is an error, a prediction without a reference a warning.
    Raises MissingPathError, or UsageError for a folder without references, without a common name, or with CASE.nii
    beside CASE.nii.gz.
    """
    for folder in (predictions, references):
        if not folder.is_dir():
            raise MissingPathError("the folder does not exist", path=folder)
    use_installed_readers()
    predicted, wanted = _masks(predictions), _masks(references)
    if not wanted:
        raise UsageError("the folder holds no reference", path=references, expected=" or ".join(endings()))
    common = sorted(set(predicted) & set(wanted))
    if not common:
        found = f"{', '.join(sorted(predicted)[:3]) or 'no mask'} beside {', '.join(sorted(wanted)[:3])}"
        raise UsageError("no prediction has the name of a reference", path=predictions, found=found)
    if extra := sorted(set(predicted) - set(wanted)):
        shown = ", ".join(predicted[name].name for name in extra[:10])
        logger.warning("%d predictions have no reference and are left out: %s", len(extra), shown)
    missing = sorted(set(wanted) - set(predicted))
    errors: list[tuple[str, SiccsError]] = [
        (name, DataError("the reference has no prediction", path=wanted[name])) for name in missing
    ]
    return [(name, predicted[name], wanted[name]) for name in common], errors


def _masks(folder: Path) -> dict[str, Path]:
    paths = [path for path in sorted(folder.iterdir()) if is_readable(path) and not path.name.startswith(".")]
    masks: dict[str, Path] = {}
    for path in paths:
        name = stem(path)
        if name in masks:
            raise UsageError("two masks of one case", path=folder, found=f"{masks[name].name} and {path.name}")
        masks[name] = path
    return masks


def evaluate(
    predictions: Path,
    references: Path,
    output: Path,
    *,
    description: Path | None = None,
    surface: bool = True,
    workers: int | None = None,
    show_progress: bool = False,
) -> Evaluation:
    """Measure every pair of masks and write summary.json and summary.csv to `output`.

    `description` is the dataset.json that names the labels; by default it is looked for beside the references.
    Raises MissingPathError or UsageError before any work; a pair that cannot be measured becomes an error of the
    result and the others go on.
    """
    labels = read_description(find_description(references, description)).label_scheme
    pairs, errors = find_pairs(predictions, references)
    jobs = run_all(lambda pair: _measure(pair, labels, surface), pairs, workers=workers)
    bar = tqdm(jobs, desc="measuring", total=len(pairs), leave=False, disable=None if show_progress else True)
    measured: list[CaseMetrics] = []
    for (name, _, _), result in bar:
        if isinstance(result, SiccsError):
            errors.append((name, result))
        else:
            measured.append(result)
    if not measured:
        return Evaluation(None, tuple(errors))
    summary = summarise(sorted(measured, key=lambda item: item.case), None)
    write_summary(output, summary)
    return Evaluation(summary, tuple(errors))


def find_description(references: Path, given: Path | None) -> Path:
    """Return the dataset.json to use: the one given, else in the references' folder or the one above."""
    if given is not None:
        return given
    places: Sequence[Path] = (references / "dataset.json", references.parent / "dataset.json")
    for path in places:
        if path.is_file():
            return path
    raise MissingPathError(
        "no dataset.json says what the labels mean", path=references, hint="Name it with --dataset-json FILE"
    )


def _measure(pair: tuple[str, Path, Path], labels: LabelScheme, surface: bool) -> CaseMetrics | SiccsError:
    name, predicted, wanted = pair
    try:
        reference = read_label(wanted)
        prediction = read_label(predicted)
        _check_values(reference.array, labels.values, wanted)
        _check_values(prediction.array, labels.values - {labels.ignore}, predicted)
        check_same_grid(prediction.orientation, reference.orientation, path=predicted, other="its reference")
        return measure_case(
            prediction.array[0],
            reference.array[0],
            reference.grid.spacing_mm,
            labels.measured,
            labels.unions,
            case=name,
            prediction_file=predicted.name,
            reference_file=wanted.name,
            surface=surface,
            ignore_label=labels.ignore,
        )
    except DataError as error:
        return error


def _check_values(label: NDArray[Any], known: Collection[int | None], path: Path) -> None:
    """Raise DataError for values that dataset.json does not name: they would count as background, unsaid."""
    found = set().union(*(np.unique(plane).tolist() for plane in label[0]))
    if unknown := sorted(found - set(known)):
        raise DataError(
            "the mask holds values that dataset.json does not name",
            path=path,
            found=", ".join(map(str, unknown[:10])),
            expected=", ".join(str(value) for value in sorted(value for value in known if value is not None)),
        )
