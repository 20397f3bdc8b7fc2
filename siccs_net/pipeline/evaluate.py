"""Evaluate: a folder of predictions against a folder of references, per case and in summary."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from siccs_net.errors import DataError, MissingPathError, SiccsError, UsageError
from siccs_net.evaluation.summary import measure_case, summarise
from siccs_net.io.dataset import read_description
from siccs_net.io.image import ENDINGS, check_same_grid, read_label
from siccs_net.parallel import run_all
from siccs_net.pipeline.validate_fold import write_summary
from siccs_net.records.dataset import LabelScheme
from siccs_net.records.metrics import CaseMetrics, Summary


@dataclass(frozen=True)
class Evaluation:
    """The summary of the pairs that could be measured, and the errors of those that could not."""

    summary: Summary | None
    errors: tuple[tuple[str, SiccsError], ...]


def find_pairs(
    predictions: Path, references: Path
) -> tuple[list[tuple[str, Path, Path]], list[tuple[str, SiccsError]]]:
    """Match predictions with references by file name; each reference without a prediction is an error."""
    for folder in (predictions, references):
        if not folder.is_dir():
            raise MissingPathError("the folder does not exist", path=folder)
    predicted, wanted = _masks(predictions), _masks(references)
    if not wanted:
        raise UsageError("the folder holds no reference", path=references, expected=" or ".join(ENDINGS))
    common = sorted(set(predicted) & set(wanted))
    if not common:
        found = f"{', '.join(sorted(predicted)[:3]) or 'no mask'} beside {', '.join(sorted(wanted)[:3])}"
        raise UsageError("no prediction has the name of a reference", path=predictions, found=found)
    missing = sorted(set(wanted) - set(predicted))
    errors: list[tuple[str, SiccsError]] = [
        (name, DataError("the reference has no prediction", path=wanted[name])) for name in missing
    ]
    return [(name, predicted[name], wanted[name]) for name in common], errors


def _masks(folder: Path) -> dict[str, Path]:
    paths = [path for path in sorted(folder.iterdir()) if path.name.endswith(ENDINGS) and not path.name.startswith(".")]
    return {next(path.name.removesuffix(e) for e in ENDINGS if path.name.endswith(e)): path for path in paths}


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
        check_same_grid(prediction.orientation, reference.orientation, path=predicted, other="its reference")
        return measure_case(
            prediction.array[0],
            reference.array[0],
            reference.grid.spacing_mm,
            {**labels.plain, **labels.regions},
            labels.unions,
            case=name,
            prediction_file=predicted.name,
            reference_file=wanted.name,
            surface=surface,
            ignore_label=labels.ignore,
        )
    except DataError as error:
        return error
