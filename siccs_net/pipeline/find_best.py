"""Compare a dataset's models, and ensembles of two, on cross-validation; choose one and say how to predict with it."""

from __future__ import annotations

import itertools
import logging
import shlex
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from siccs_net.errors import DataError, UsageError
from siccs_net.evaluation.summary import measure_case, summarise
from siccs_net.inference.postprocess import describe
from siccs_net.io import files
from siccs_net.io.dataset import Dataset
from siccs_net.io.image import read_label
from siccs_net.parallel import run_all
from siccs_net.pipeline.cross_validation import Validated, comparable, read_validated
from siccs_net.pipeline.ensemble import ensemble_out_of_fold
from siccs_net.pipeline.judge_postprocessing import MaskPair, candidates, dice_of, judge
from siccs_net.pipeline.validate_fold import write_summary
from siccs_net.records.checkpoint import ModelRecord
from siccs_net.records.comparison import Candidate, Instructions
from siccs_net.records.metrics import CaseMetrics, Summary
from siccs_net.records.postprocessing import PostProcessing
from siccs_net.workspace import ModelFolder, Workspace

logger = logging.getLogger(__name__)
SMALLEST_GAIN = 0.001
"""An ensemble of two takes twice the time, and is made of rounded probabilities: it must gain this much Dice."""


@dataclass(frozen=True)
class _Contender:
    """A single model, or two whose probabilities are averaged, with its figures."""

    members: tuple[Validated, ...]
    summary: Summary
    masks: Mapping[str, Path]

    @property
    def rank(self) -> tuple[float, int, tuple[str, ...]]:
        """Sorts the best first: an ensemble counts for `SMALLEST_GAIN` less; of equals a single model, then by name."""
        dice = self.summary.foreground_mean.Dice
        worth = -1.0 if dice is None else dice - SMALLEST_GAIN * (len(self.members) - 1)
        return (-worth, len(self.members), self.names)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(member.name for member in self.members)


def find_best_configuration(
    dataset: Dataset,
    *,
    configurations: Collection[str] | None = None,
    trainers: Collection[str] | None = None,
    plans: Collection[str] | None = None,
    folds: Collection[str] | None = None,
    ensembles: bool = True,
    postprocessing: bool = True,
    workspace: Workspace | None = None,
    workers: int | None = None,
) -> Instructions:
    """Compare every model of a dataset (or those named), and every pair, by the mean foreground Dice.

    An ensemble is preferred when it gains `SMALLEST_GAIN` at least. All figures come from out-of-fold masks of the
    same cases: those of the folds that are named, or of any fold. A model without some of them is left out, and a pair
    without saved probabilities too; both are noted. Post-processing is then decided for the best one. Writes
    `inference_instructions.json` and `.txt` beside the model folders, and `postprocessing.json` where the best one is.
    Raises UsageError when nothing can be compared.
    """
    place = workspace or Workspace.resolve()
    found = _wanted(place, dataset.name, configurations, trainers, plans)
    validated = [read_validated(model, folds) for model in found]
    _check_folds(validated, folds)
    models, notes = comparable(validated, place.results / dataset.name)
    contenders = [_Contender((model,), model.summary, _masks(model, dataset)) for model in models]
    if ensembles:
        contenders += _pairs(models, dataset, place, notes, workers)
    contenders.sort(key=lambda contender: contender.rank)
    return _conclude(contenders, dataset, place, notes, folds, postprocessing=postprocessing, workers=workers)


def _wanted(
    place: Workspace,
    dataset: str,
    configurations: Collection[str] | None,
    trainers: Collection[str] | None,
    plans: Collection[str] | None,
) -> list[ModelFolder]:
    """Return the models that are asked for. Raises UsageError for a name that no model of the dataset has."""
    models = [(model, files.read_record(model.model, ModelRecord)) for model in place.model_folders(dataset)]
    for key, wanted in (("configuration", configurations), ("trainer", trainers), ("plan", plans)):
        there = {str(getattr(record, key)) for _, record in models}
        if wanted is not None and (unknown := sorted(set(wanted) - there)):
            found = ", ".join(sorted(there)) or "no model"
            problem = f"no trained model has the {key} {', '.join(unknown)}"
            raise UsageError(problem, path=place.results / dataset, found=found)
        models = [(model, record) for model, record in models if wanted is None or getattr(record, key) in wanted]
    return [model for model, _ in models]


def _check_folds(validated: Sequence[Validated | None], folds: Collection[str] | None) -> None:
    there = {fold for model in validated if model is not None for fold in model.folds}
    if folds is not None and there and (unknown := sorted(set(folds) - there)):
        raise UsageError(f"no model has a validated fold {', '.join(unknown)}", found=", ".join(sorted(there)))


def _masks(model: Validated, dataset: Dataset) -> dict[str, Path]:
    """Return the out-of-fold mask of each case."""
    return {case: folder / f"{case}{dataset.description.file_ending}" for case, folder in model.folders.items()}


def _pairs(
    models: Sequence[Validated], dataset: Dataset, place: Workspace, notes: list[str], workers: int | None
) -> list[_Contender]:
    """Make and measure the ensembles of all pairs; a note on each model that saved no probabilities."""
    if len(models) < 2:
        return []
    notes += [
        f"{model.name} is in no ensemble: its validation probabilities were not saved "
        "(siccs_train … --val-only --save-probabilities makes them)"
        for model in models
        if not model.has_probabilities
    ]
    usable = [model for model in models if model.has_probabilities]
    return [_ensemble(pair, dataset, place, workers) for pair in itertools.combinations(usable, 2)]


def _ensemble(pair: tuple[Validated, Validated], dataset: Dataset, place: Workspace, workers: int | None) -> _Contender:
    folder = place.comparison(dataset.name).ensemble([model.name for model in pair])
    logger.info("ensemble of %s and %s", *(model.name for model in pair))
    cases = sorted(pair[0].folders)
    ensemble_out_of_fold({case: [model.folders[case] for model in pair] for case in cases}, folder.validation)
    masks = {case: folder.validation / f"{case}{dataset.description.file_ending}" for case in cases}
    measured = run_all(lambda case: _measure(case, masks[case], dataset), cases, workers=workers)
    summary = summarise(sorted((found for _, found in measured), key=lambda item: item.case), pair[0].summary.folds)
    write_summary(folder.validation, summary)
    return _Contender(pair, summary, masks)


def _measure(case: str, mask: Path, dataset: Dataset) -> CaseMetrics:
    reference = read_label(_reference(case, dataset))
    return measure_case(
        read_label(mask).array[0],
        reference.array[0],
        reference.grid.spacing_mm,
        dataset.labels.measured,
        dataset.labels.unions,
        case=case,
        prediction_file=mask.name,
        reference_file=_reference(case, dataset).name,
        surface=False,
        ignore_label=dataset.labels.ignore,
    )


def _reference(case: str, dataset: Dataset) -> Path:
    known = dataset.cases.get(case)
    if known is None or known.label is None:
        raise DataError(f"the validated case {case!r} is not in the dataset any more", path=dataset.folder)
    return known.label


def _conclude(
    contenders: Sequence[_Contender],
    dataset: Dataset,
    place: Workspace,
    notes: Sequence[str],
    folds: Collection[str] | None,
    *,
    postprocessing: bool,
    workers: int | None,
) -> Instructions:
    """Decide the best one's post-processing and write down everything."""
    best, folder = contenders[0], place.comparison(dataset.name)
    decision = _decide(best, dataset, workers) if postprocessing else None
    path = best.members[0].model.postprocessing
    if len(best.members) > 1:
        path = folder.ensemble(best.names).postprocessing
    if decision is not None:
        files.write_record(path, decision)
    instructions = Instructions(
        dataset_name=dataset.name,
        folds=best.members[0].folds,
        names=best.summary.names,
        candidates=tuple(map(_candidate, contenders)),
        notes=tuple(notes),
        models=tuple(str(member.model.root) for member in best.members),
        masks=tuple(sorted({str(mask.parent) for mask in best.masks.values()})),
        postprocessing=str(path) if decision is not None else None,
        steps=tuple(map(describe, decision.steps)) if decision is not None else (),
        foreground_dice=_final_dice(best, decision),
        commands=commands(best.members, path, decision, folds),
    )
    files.write_record(folder.instructions, instructions)
    files.write_bytes(folder.instructions.with_suffix(".txt"), (instructions_text(instructions) + "\n").encode())
    return instructions


def _decide(best: _Contender, dataset: Dataset, workers: int | None) -> PostProcessing:
    pairs = [MaskPair(case, mask, _reference(case, dataset)) for case, mask in sorted(best.masks.items())]
    weights = [digest for member in best.members for digest in member.weights_sha256]
    return judge(pairs, dataset.labels, candidates(dataset.labels), weights_sha256=weights, workers=workers)


def _final_dice(best: _Contender, decision: PostProcessing | None) -> float | None:
    kept = [judgement for judgement in decision.judged if judgement.kept] if decision is not None else []
    return kept[-1].foreground_after if kept else best.summary.foreground_mean.Dice


def _candidate(contender: _Contender) -> Candidate:
    summary = contender.summary
    return Candidate(
        models=contender.names,
        foreground_dice=summary.foreground_mean.Dice,
        dice=dice_of(summary),
        cases=len(summary.metric_per_case),
    )


def commands(
    members: Sequence[Validated], path: Path, decision: PostProcessing | None, folds: Collection[str] | None
) -> tuple[str, ...]:
    """Return the command lines that predict new scans in IN into OUT with these models and what was decided.

    `path` is the postprocessing.json, `folds` those that were asked for. siccs_predict applies a model's own
    post-processing unless it is told not to.
    """
    models = " ".join(shlex.quote(str(member.model.root)) for member in members)
    chosen = f" -f {' '.join(folds)}" if folds is not None else ""
    if len(members) == 1:
        off = " --no-postprocessing" if decision is None and path.is_file() else ""
        return (f"siccs_predict -i IN -o OUT -m {models}{chosen}{off}",)
    steps = f" --postprocessing {shlex.quote(str(path))}" if decision is not None and decision.steps else ""
    return (f"siccs_ensemble -i IN -o OUT -m {models}{chosen}{steps}",)


def instructions_text(instructions: Instructions) -> str:
    """Return the comparison as a table, its notes, the choice and the commands."""
    names = instructions.names
    lines = [f"{instructions.dataset_name}: mean Dice on {instructions.candidates[0].cases} out-of-fold cases", ""]
    for number, candidate in enumerate(instructions.candidates):
        classes = ", ".join(f"{names[key]} {_number(value)}" for key, value in candidate.dice.items())
        mark = "*" if number == 0 else " "
        lines.append(f"{mark} {_number(candidate.foreground_dice)}  {' + '.join(candidate.models)}  ({classes})")
    lines += ["", *(f"note: {note}" for note in instructions.notes)]
    if instructions.postprocessing is None:
        lines.append("post-processing was not judged")
    else:
        kept = "; ".join(instructions.steps) or "no step raises the mean and lowers no class"
        lines.append(f"post-processing: {kept} (Dice {_number(instructions.foreground_dice)})")
    return "\n".join([*lines, "", "predict scans in folder IN into folder OUT:", *instructions.commands])


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
