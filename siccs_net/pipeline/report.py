"""Report: the paper's tables and figures of a finished cross-validation, with intervals and the paper's values."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import siccs_net
from siccs_net.errors import MissingPathError, ModelError, UsageError
from siccs_net.evaluation.reporting.build import (
    BURDEN,
    THIN_SLICES_MM,
    ReportSource,
    build_report,
    require_paper_classes,
)
from siccs_net.evaluation.reporting.figures import (
    FigureSlices,
    draw_figures,
    figure_points_csv,
    page_pictures,
    save_figures,
)
from siccs_net.evaluation.reporting.html import render_html
from siccs_net.evaluation.reporting.methods import MethodsSource, assumed_settings, methods_paragraphs
from siccs_net.evaluation.reporting.palettes import Palette
from siccs_net.evaluation.reporting.tables import tables_csv
from siccs_net.io import files
from siccs_net.io.dataset import Dataset
from siccs_net.io.image import read_image, read_label
from siccs_net.io.pft import read_pft
from siccs_net.pipeline.validate_fold import merged_summary
from siccs_net.records.checkpoint import FinalRecord, ModelRecord
from siccs_net.records.fingerprint import Fingerprint
from siccs_net.records.metrics import Summary
from siccs_net.records.plan import Plan
from siccs_net.records.report import Report, ReportCase
from siccs_net.workspace import ModelFolder, Workspace

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
    """A written report: its record, and its files by what they are."""

    report: Report
    files: dict[str, Path]


def make_report(
    dataset: Dataset, request: ReportRequest, output: Path, *, workspace: Workspace | None = None
) -> FinishedReport:
    """Write report.html, report.json, tables as CSV and figures as PNG and SVG to `output`.

    Raises UnavailableError for labels that are not the paper's, ModelError for folds that are not finished (unless
    `partial`), DataError for a lung function table with a mistake (naming its line), before anything is written.
    """
    require_paper_classes(dataset.labels)
    place = (workspace or Workspace.resolve()).prepared_dataset(dataset.name)
    fingerprint = files.read_record(place.fingerprint, Fingerprint)
    report = build_report(_source(dataset, request, fingerprint))
    return FinishedReport(report, _write(report, dataset, request, output))


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


def _source(dataset: Dataset, request: ReportRequest, fingerprint: Fingerprint) -> ReportSource:
    model = request.model
    summary = _complete_summary(model, dataset, partial=request.partial)
    cases = [item.case for item in summary.metric_per_case]
    pft = _lung_function_file(dataset, request.pft)
    spacing = {item.case: item.spacing_mm for item in fingerprint.cases}
    methods = _methods_source(model, cases, [spacing[case][0] for case in cases])
    against = request.against
    return ReportSource(
        dataset=dataset.name,
        model=model.root.name,
        folds=methods.folds,
        labels=dataset.labels,
        summary=summary,
        slice_thickness_mm={case: spacing[case][0] for case in cases},
        patients=dataset.patients or {},
        lung_function=read_pft(pft, dataset.cases, patients=dataset.patients).values if pft else {},
        thin_below_mm=request.thin_below_mm,
        other_name=against.root.name if against else None,
        other=_complete_summary(against, dataset, partial=request.partial) if against else None,
        methods=methods_paragraphs(methods),
        assumed=assumed_settings(methods),
        notes=_partial_notes(cases, dataset),
        seed=request.seed,
    )


def _complete_summary(model: ModelFolder, dataset: Dataset, *, partial: bool) -> Summary:
    """Return the merged summary of a model's folds, every case of the dataset in it unless `partial`."""
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
            found=f"{len(measured)} of {len(dataset.cases)} cases; folds {', '.join(model.folds())} are finished",
            hint="Train the other folds with siccs_train DATASET CONFIGURATION all --resume, or report with --partial",
        )
    return summary


def _partial_notes(cases: Sequence[str], dataset: Dataset) -> tuple[str, ...]:
    if len(cases) == len(dataset.cases):
        return ()
    return (f"Partial report: {len(cases)} of {len(dataset.cases)} cases have an out-of-fold prediction so far.",)


def _lung_function_file(dataset: Dataset, given: Path | None) -> Path | None:
    if given is not None:
        return given
    own = dataset.folder / "pft.csv"
    if not own.is_file():
        logger.info("no lung function table (--pft, or pft.csv in the dataset): Table 2 and Figure 3 stay empty")
        return None
    return own


def _methods_source(model: ModelFolder, cases: Sequence[str], thickness_mm: Sequence[float]) -> MethodsSource:
    folds = [name for name in model.folds() if name.isdigit()]
    records = [files.read_record(model.fold(name).record, FinalRecord) for name in folds]
    sizes = [len(record.training_cases) for record in records]
    return MethodsSource(
        plan=files.read_record(model.plan, Plan),
        configuration_name=files.read_record(model.model, ModelRecord).configuration,
        record=records[0],
        cases=len(cases),
        folds=len(folds),
        training_cases=(min(sizes), max(sizes)),
        slice_thickness_mm=(min(thickness_mm), max(thickness_mm)),
        version=siccs_net.__version__,
    )


def _write(report: Report, dataset: Dataset, request: ReportRequest, output: Path) -> dict[str, Path]:
    slices = [_slices(case, dataset, request.model) for case in _shown(report.cases)]
    figures = draw_figures(report, slices, dataset.labels, palette=request.palette)
    texts = {**tables_csv(report), **figure_points_csv(report)}
    for name, text in texts.items():
        files.write_bytes(output / f"{name}.csv", text.encode())
    drawn = save_figures(figures, output)
    files.write_record(output / "report.json", report)
    tables = {f"{name}.csv": output / f"{name}.csv" for name in texts}
    listed = {**tables, **drawn, "report.json": output / "report.json"}
    page = render_html(report, page_pictures(figures), files={name: path.name for name, path in listed.items()})
    files.write_bytes(output / "report.html", page.encode())
    return {**listed, "report.html": output / "report.html"}


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
    prediction = read_label(predicted).array[0]
    image = read_image(files_of.images[:1])
    weights = [(dataset.labels.reported[BURDEN], 1e6), (dataset.labels.reported["lung"], 1.0)]
    area = sum(weight * np.isin(reference, values).sum((1, 2)) for values, weight in weights)
    place = int(np.argmax(area))
    burden = case.reference_percent[BURDEN]
    return FigureSlices(
        case=case.case,
        title=f"{case.case}: EF+GGO " + ("unknown" if burden is None else f"{burden:.1f} % of lung"),
        image_hu=image.array[0][place].astype(np.int16),
        prediction=prediction[place].astype(np.uint8),
        reference=reference[place].astype(np.uint8),
        spacing_mm=image.grid.spacing_mm[1:],
    )
