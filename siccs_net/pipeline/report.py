"""Report: the paper's tables and figures of a finished cross-validation, with intervals and the paper's values."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import siccs_net
from siccs_net.errors import DataError, MissingPathError, ModelError, UsageError
from siccs_net.evaluation.reporting.build import (
    BURDEN,
    THIN_SLICES_MM,
    ReportSource,
    build_report,
    require_paper_classes,
)
from siccs_net.evaluation.reporting.figures import (
    FIGURES,
    FigureSlices,
    draw_figures,
    figure_points_csv,
    page_pictures,
    save_figures,
)
from siccs_net.evaluation.reporting.html import render_html
from siccs_net.evaluation.reporting.methods import MethodsSource, assumed_settings, methods_paragraphs
from siccs_net.evaluation.reporting.numbers import number
from siccs_net.evaluation.reporting.palettes import Palette
from siccs_net.evaluation.reporting.tables import TABLES, tables_csv
from siccs_net.io import files
from siccs_net.io.dataset import Dataset
from siccs_net.io.image import read_image, read_label
from siccs_net.io.pft import read_pft
from siccs_net.io.table import shorten
from siccs_net.pipeline.validate_fold import merged_summary
from siccs_net.records.checkpoint import FinalRecord, ModelRecord
from siccs_net.records.fingerprint import Fingerprint
from siccs_net.records.metrics import Summary
from siccs_net.records.plan import Plan
from siccs_net.records.report import Report, ReportCase
from siccs_net.workspace import DatasetFolder, ModelFolder, Workspace

# Fig. 1 shows these quantiles of the reference burden, from little to much disease.
SHOWN_QUANTILES = (0.1, 0.5, 0.75, 1.0)
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ReportRequest:
    """What to report on, and how. `pft` None takes the dataset's own pft.csv, where there is one."""

    model: ModelFolder
    pft: Path | None = None
    against: ModelFolder | None = None
    palette: Palette = "paper"
    thin_below_mm: float = THIN_SLICES_MM
    partial: bool = False
    seed: int = 0


@dataclass(frozen=True)
class FinishedReport:
    """A written report: its record, its files by what they are, and the lung function table it was made with."""

    report: Report
    files: dict[str, Path]
    pft: Path | None


def make_report(
    dataset: Dataset, request: ReportRequest, output: Path, *, workspace: Workspace | None = None
) -> FinishedReport:
    """Write report.html, report.json, tables as CSV and figures as PNG and SVG to `output`, in place of an earlier one.

    Raises UnavailableError for labels that are not the paper's, ModelError for folds that are not finished (unless
    `partial`), DataError for a lung function table with a mistake (naming its line), before anything is written.
    """
    require_paper_classes(dataset.labels)
    if output.exists() and not output.is_dir():
        raise UsageError("is a file, not a folder for a report", path=output, hint="Name a folder")
    place = (workspace or Workspace.resolve()).prepared_dataset(dataset.name)
    pft = _lung_function_file(dataset, request.pft)
    report = build_report(_source(dataset, request, place, pft))
    return FinishedReport(report, _write(report, dataset, request, output), pft)


def find_model(
    dataset_name: str,
    workspace: Workspace,
    *,
    configuration: str | None = None,
    trainer: str | None = None,
    plan: str | None = None,
) -> ModelFolder:
    """Return the one model folder of a dataset that fits what is given.

    Raises MissingPathError for none, UsageError for several.
    """
    root = workspace.results / dataset_name
    folders = sorted(path.parent for path in root.glob("*/model.json")) if root.is_dir() else []
    wanted = {"configuration": configuration, "trainer": trainer, "plan": plan}
    given = {name: value for name, value in wanted.items() if value is not None}
    fitting = [folder for folder in folders if _fits(ModelFolder(folder), given)]
    if not fitting:
        found = ", ".join(folder.name for folder in folders) or "none"
        raise MissingPathError("no such trained model", path=root, found=found, hint="Train one with siccs_train")
    if len(fitting) > 1:
        listed = ", ".join(folder.name for folder in fitting)
        raise UsageError(
            "the dataset has several models", path=root, found=listed, hint="Name one with -m, -c, -tr or -p"
        )
    return ModelFolder(fitting[0])


def _fits(model: ModelFolder, wanted: Mapping[str, str]) -> bool:
    record = files.read_record(model.model, ModelRecord)
    return all(getattr(record, name) == value for name, value in wanted.items())


def _source(dataset: Dataset, request: ReportRequest, place: DatasetFolder, pft: Path | None) -> ReportSource:
    model = request.model
    summary = _complete_summary(model, dataset, partial=request.partial)
    cases = [item.case for item in summary.metric_per_case]
    thickness_mm = _slice_thickness(dataset, cases, place.fingerprint)
    methods = _methods_source(model, summary, dataset, list(thickness_mm.values()))
    against = request.against
    return ReportSource(
        dataset=dataset.name,
        model=model.root.name,
        folds=methods.folds,
        labels=dataset.labels,
        summary=summary,
        slice_thickness_mm=thickness_mm,
        patients=dataset.patients or {},
        lung_function=read_pft(pft, dataset.cases, patients=dataset.patients).values if pft else {},
        thin_below_mm=request.thin_below_mm,
        other_name=against.root.name if against else None,
        other=_complete_summary(against, dataset, partial=request.partial) if against else None,
        methods=methods_paragraphs(methods),
        assumed=assumed_settings(methods),
        notes=tuple(_notes(cases, dataset, methods.plan)),
        seed=request.seed,
    )


def _complete_summary(model: ModelFolder, dataset: Dataset, *, partial: bool) -> Summary:
    """Return the merged summary of a model's folds, every case of the dataset in it unless `partial`."""
    trained_on = files.read_record(model.model, ModelRecord).dataset_name
    if trained_on != dataset.name:
        raise ModelError("was trained on another dataset", path=model.root, found=trained_on, expected=dataset.name)
    summary = merged_summary(model)
    if summary is None:
        raise ModelError("no fold of the model is validated", path=model.root, hint="Train it with siccs_train")
    measured = {item.case for item in summary.metric_per_case}
    if strangers := sorted(measured - set(dataset.cases)):
        raise ModelError(
            "was validated on cases that the dataset lacks", path=model.root, found=", ".join(strangers[:5])
        )
    missing = sorted(set(dataset.cases) - measured)
    if missing and not partial:
        raise ModelError(
            "not every case has an out-of-fold prediction",
            path=model.root,
            found=f"{len(measured)} of {len(dataset.cases)} cases, none for {_lacking(model, summary, missing)}",
            hint="Finish the folds with siccs_train DATASET CONFIGURATION all --resume, or report with --partial",
        )
    return summary


def _lacking(model: ModelFolder, summary: Summary, missing: Sequence[str]) -> str:
    """Name the folds without a validation; where there is none, the cases that no fold validates."""
    validated = set((summary.folds or {}).values())
    folds = [str(fold) for fold in range(files.read_record(model.plan, Plan).folds) if fold not in validated]
    return f"fold {', '.join(folds)}" if folds else shorten(missing)


def _slice_thickness(dataset: Dataset, cases: Sequence[str], fingerprint: Path) -> dict[str, float]:
    """Return each case's slice thickness: that of patients.csv, else the distance of its slices."""
    if not fingerprint.is_file():
        raise MissingPathError("the dataset is not planned", path=fingerprint, hint="Run siccs_plan_and_preprocess")
    measured = {item.case: item.spacing_mm[0] for item in files.read_record(fingerprint, Fingerprint).cases}
    known = measured | dataset.thickness_mm
    if lost := [case for case in cases if case not in known]:
        hint = "Run siccs_plan_and_preprocess again"
        raise DataError("lacks cases of the dataset", path=fingerprint, found=f"no {shorten(lost)}", hint=hint)
    return {case: known[case] for case in cases}


def _notes(cases: Sequence[str], dataset: Dataset, plan: Plan) -> Iterator[str]:
    """Say what a reader must know of the model and of the cases as a whole."""
    of_user = [path for path, origin in plan.provenance.items() if origin == "user"]
    if changed := sorted(path for path in of_user if not path.startswith("configurations.")):
        yield (
            f"Not as in the preset {plan.preset}, but set by hand: {', '.join(changed)}."
            if plan.preset
            else (f"Set by hand when planning: {', '.join(changed)}.")
        )
    if len(cases) < len(dataset.cases):
        yield f"Partial report: {len(cases)} of {len(dataset.cases)} cases have an out-of-fold prediction so far."
    if unknown := sum(case not in dataset.thickness_mm for case in cases):
        whose = "every case" if unknown == len(cases) else f"{unknown} of {len(cases)} cases"
        yield f"Slice thickness is the distance between slices in {whose}: patients.csv gives no thickness_mm there."
    scans = Counter((dataset.patients or {}).get(case, case) for case in cases)
    if several := sum(count > 1 for count in scans.values()):
        who = f"{several} patient has" if several == 1 else f"{several} of {len(scans)} patients have"
        yield f"{who} several scans. Intervals and p take all scans as independent: they may claim too much."


def _lung_function_file(dataset: Dataset, given: Path | None) -> Path | None:
    if given is not None:
        return given
    own = dataset.folder / "pft.csv"
    if not own.is_file():
        logger.info("no lung function table (--pft, or pft.csv in the dataset): Table 2 and Figure 3 stay empty")
        return None
    return own


def _methods_source(
    model: ModelFolder, summary: Summary, dataset: Dataset, thickness_mm: Sequence[float]
) -> MethodsSource:
    folds = sorted(set((summary.folds or {}).values()))
    records = [files.read_record(model.fold(number).record, FinalRecord) for number in folds]
    sizes = [len(record.training_cases) for record in records]
    return MethodsSource(
        plan=files.read_record(model.plan, Plan),
        configuration_name=files.read_record(model.model, ModelRecord).configuration,
        record=records[0],
        cases=len(summary.metric_per_case),
        folds=len(folds),
        own_folds=dataset.splits is not None,
        patients_known=dataset.patients is not None,
        training_cases=(min(sizes), max(sizes)),
        slice_thickness_mm=(min(thickness_mm), max(thickness_mm)),
        version=siccs_net.__version__,
    )


def _write(report: Report, dataset: Dataset, request: ReportRequest, output: Path) -> dict[str, Path]:
    slices = [_slices(case, dataset, request.model) for case in _shown(report.cases)]
    figures = draw_figures(report, slices, dataset.labels, palette=request.palette)
    texts = {**tables_csv(report), **figure_points_csv(report)}
    _remove_earlier(output)
    for name, text in texts.items():
        files.write_bytes(output / f"{name}.csv", text.encode())
    drawn = save_figures(figures, output)
    files.write_record(output / "report.json", report)
    tables = {f"{name}.csv": output / f"{name}.csv" for name in texts}
    listed = {**tables, **drawn, "report.json": output / "report.json"}
    page = render_html(report, page_pictures(figures), files={name: path.name for name, path in listed.items()})
    files.write_bytes(output / "report.html", page.encode())
    return {**listed, "report.html": output / "report.html"}


def _remove_earlier(output: Path) -> None:
    """Remove the files of an earlier report: a figure of it that is not drawn again would pass for one of this."""
    if not (output / "report.json").is_file():
        return
    for name in ("report", *TABLES, *FIGURES):
        for ending in (".html", ".json", ".csv", ".png", ".svg"):
            (output / f"{name}{ending}").unlink(missing_ok=True)


def _shown(cases: Sequence[ReportCase]) -> list[ReportCase]:
    """Return the cases at `SHOWN_QUANTILES` of the reference burden, each once."""
    ordered = sorted(cases, key=lambda case: (case.reference_percent[BURDEN] or 0.0, case.case))
    places = sorted({round(quantile * (len(ordered) - 1)) for quantile in SHOWN_QUANTILES})
    return [ordered[place] for place in places]


def _slices(case: ReportCase, dataset: Dataset, model: ModelFolder) -> FigureSlices:
    """Read a case and take the axial slice with the most lesion (else the most lung) in its reference."""
    files_of = dataset.cases[case.case]
    if files_of.label is None:
        raise MissingPathError("the case has no label", path=files_of.images[0])
    reference = read_label(files_of.label).array[0]
    predicted = model.fold(case.fold).validation / f"{case.case}{dataset.description.file_ending}"
    if not predicted.is_file():
        hint = "Delete the folder validation of this fold and run siccs_train again with --resume"
        raise MissingPathError("the prediction is not there", path=predicted, hint=hint)
    prediction = read_label(predicted).array[0]
    image = read_image(files_of.images[:1])
    weights = [(dataset.labels.reported[BURDEN], 1e6), (dataset.labels.reported["lung"], 1.0)]
    area = sum(weight * np.isin(reference, values).sum((1, 2)) for values, weight in weights)
    place = int(np.argmax(area))
    percent = [number(share[BURDEN], 1) for share in (case.predicted_percent, case.reference_percent)]
    return FigureSlices(
        case=case.case,
        title=f"{case.case}: EF+GGO {percent[0]} % of lung predicted, {percent[1]} % in the reference",
        image_hu=image.array[0][place].astype(np.int16),
        prediction=prediction[place].astype(np.uint8),
        reference=reference[place].astype(np.uint8),
        spacing_mm=image.grid.spacing_mm[1:],
    )
