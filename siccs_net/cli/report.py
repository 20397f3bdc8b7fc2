"""siccs_report: the paper's tables and figures of a cross-validation."""

from __future__ import annotations

import argparse
import logging
import math
from pathlib import Path
from typing import TYPE_CHECKING

from siccs_net.cli.options import count, new_parser
from siccs_net.cli.process import Run

if TYPE_CHECKING:
    from siccs_net.pipeline.report import ReportRequest
    from siccs_net.workspace import ModelFolder, Workspace

logger = logging.getLogger(__name__)
PALETTES = ("paper", "colour_blind")


def make_parser() -> argparse.ArgumentParser:
    """Return the command's parser."""
    parser = new_parser(
        "report",
        "Draw Tables 1-2 and Figures 1-3 of Vahdani et al. 2026 for your cross-validation, with 95 % intervals and the "
        "paper's printed values beside: report.html (one page, works offline), CSV, JSON, PNG and SVG.",
        example="siccs_report 501 --pft pft.csv -o report",
    )
    parser.add_argument("dataset", metavar="DATASET", help="number, name or folder of the dataset")
    parser.add_argument(
        "--pft", metavar="FILE", type=Path, help="lung function: CSV with case, fev1_fvc, fev1_pp, … (default: pft.csv)"
    )
    parser.add_argument(
        "-o",
        "--output",
        metavar="OUT",
        type=Path,
        help="folder for the report; an earlier report there is replaced (default: MODEL/report)",
    )
    parser.add_argument("-m", "--model", metavar="MODEL", type=Path, help="model folder (default: the only one)")
    parser.add_argument("-c", "--configuration", metavar="CONFIG", help="choose the model by its configuration")
    parser.add_argument("-tr", "--trainer", metavar="TRAINER", help="choose the model by its trainer")
    parser.add_argument("-p", "--plan", metavar="PLAN", help="choose the model by its plan")
    parser.add_argument(
        "--against", metavar="MODEL", type=Path, help="compare with another model of the same cases, case by case"
    )
    parser.add_argument(
        "--palette", choices=PALETTES, default="paper", help="class colours: the paper's, or safe for colour blindness"
    )
    parser.add_argument(
        "--thin-below",
        metavar="MM",
        type=_millimetres,
        default=1.0,
        help="slices thinner than this are one subgroup (default: 1)",
    )
    parser.add_argument("--partial", action="store_true", help="report on the folds that are finished so far")
    parser.add_argument("--seed", type=count, default=0, metavar="N", help="seed of bootstrap and permutations")
    return parser


def _millimetres(text: str) -> float:
    number = float(text)
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"must be above 0, not {text}")
    return number


def run(run: Run) -> int:
    """Write the report and print its tables."""
    from siccs_net.evaluation.reporting.tables import report_text
    from siccs_net.io.dataset import open_dataset
    from siccs_net.io.files import file_sha256
    from siccs_net.pipeline.report import make_report
    from siccs_net.workspace import Workspace

    args = run.args
    workspace = Workspace.resolve(args.workspace)
    logger.info("%s", workspace.describe())
    dataset = open_dataset(workspace.find_dataset(args.dataset))
    request = _request(args, dataset.name, workspace)
    output = args.output or request.model.root / "report"
    done = make_report(dataset, request, output, workspace=workspace)
    run.say(report_text(done.report))
    run.say(f"\nreport: {done.files['report.html']} (with report.json, tables as CSV, figures as PNG and SVG)")
    run.settings = {
        "model": str(request.model.root),
        "against": None if request.against is None else str(request.against.root),
        "palette": args.palette,
        "thin_below_mm": args.thin_below,
        "partial": args.partial,
        "seed": args.seed,
    }
    if run.reported:
        run.outputs |= {str(path): file_sha256(path) for path in done.files.values()}
        run.inputs |= {} if done.pft is None else {str(done.pft): file_sha256(done.pft)}
    return 0


def _request(args: argparse.Namespace, dataset_name: str, workspace: Workspace) -> ReportRequest:
    from siccs_net.pipeline.report import ReportRequest, find_model

    if args.model is not None:
        model = _model_folder(args.model)
    else:
        model = find_model(
            dataset_name, workspace, configuration=args.configuration, trainer=args.trainer, plan=args.plan
        )
    return ReportRequest(
        model=model,
        pft=args.pft,
        against=None if args.against is None else _model_folder(args.against),
        palette=args.palette,
        thin_below_mm=args.thin_below,
        partial=args.partial,
        seed=args.seed,
    )


def _model_folder(path: Path) -> ModelFolder:
    from siccs_net.errors import MissingPathError
    from siccs_net.workspace import ModelFolder

    if not (path / "model.json").is_file():
        raise MissingPathError("is not a model folder", path=path, expected="a folder with model.json and fold_K")
    return ModelFolder(path)
