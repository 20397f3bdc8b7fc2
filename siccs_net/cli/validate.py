"""siccs_validate: every problem of a dataset, in a table and as JSON."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from siccs_net.cli.options import add_workers, new_parser
from siccs_net.cli.process import Run

logger = logging.getLogger(__name__)


def make_parser() -> argparse.ArgumentParser:
    """Return the command's parser."""
    parser = new_parser(
        "validate",
        "List every problem of a dataset at once: its layout, its splits and every file.",
        example="siccs_validate Dataset501_CovidSlices2D --json problems.json",
    )
    parser.add_argument("dataset", metavar="DATASET", help="number, name or folder of the dataset")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the problems as JSON too")
    add_workers(parser)
    return parser


def run(run: Run) -> int:
    """Validate and print; exit code 4 when there is an error."""
    import json

    from siccs_net.io import files
    from siccs_net.io.dataset import open_dataset
    from siccs_net.pipeline.validate import validate
    from siccs_net.workspace import Workspace

    args = run.args
    workspace = Workspace.resolve(args.workspace)
    logger.info("%s", workspace.describe())
    dataset = open_dataset(workspace.find_dataset(args.dataset))
    result = validate(dataset, workers=args.workers, show_progress=run.show_progress)
    for problem in result.problems:
        run.say(f"{problem.severity:<8} {problem.kind:<22} {problem.message}")
    warnings = len(result.problems) - len(result.errors)
    run.say(f"{dataset.name}: {len(dataset.cases)} whole cases, {len(result.errors)} errors, {warnings} warnings")
    body = [
        {
            "severity": problem.severity,
            "kind": problem.kind,
            "case": problem.case,
            "path": None if problem.path is None else str(problem.path),
            "message": problem.message,
        }
        for problem in result.problems
    ]
    run.settings = {"dataset": dataset.name}
    for item in result.examinations:
        if item.fingerprint is not None:
            run.add_case(dataset.cases[item.case], item.fingerprint.input_sha256)
    run.results |= {"cases": len(dataset.cases), "errors": len(result.errors), "warnings": warnings}
    if args.json is not None:
        run.outputs[str(args.json)] = files.write_bytes(args.json, (json.dumps(body, indent=1) + "\n").encode())
    return 4 if result.errors or not dataset.cases else 0
