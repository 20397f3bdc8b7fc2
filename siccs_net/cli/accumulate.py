"""siccs_accumulate: the out-of-fold masks of all folds in one folder, with one summary."""

from __future__ import annotations

import argparse
from pathlib import Path

from siccs_net.cli.options import new_parser
from siccs_net.cli.process import Run


def make_parser() -> argparse.ArgumentParser:
    """Return the command's parser."""
    parser = new_parser(
        "accumulate",
        "Collect the validation masks of a model's folds, however many, in one folder with one summary.",
        example="siccs_accumulate -m results/Dataset501_X/SiccsTrainer__convnext__2d -o crossval",
    )
    parser.add_argument("-m", "--model", metavar="MODEL", type=Path, required=True, help="model folder")
    parser.add_argument("-o", "--output", metavar="OUT", type=Path, required=True, help="folder for masks and summary")
    parser.add_argument("-f", "--folds", nargs="+", metavar="FOLD", help="folds to collect (default: all there are)")
    parser.add_argument("--overwrite", action="store_true", help="write into a folder that is not empty")
    return parser


def run(run: Run) -> int:
    """Collect and print the table."""
    from siccs_net.evaluation.summary import summary_table
    from siccs_net.io.files import file_sha256
    from siccs_net.pipeline.cross_validation import accumulate
    from siccs_net.workspace import ModelFolder

    args = run.args
    summary = accumulate(ModelFolder(args.model), args.output, folds=args.folds, overwrite=args.overwrite)
    run.say(summary_table(summary))
    for name in ("summary.json", "summary.csv", *(item.prediction_file for item in summary.metric_per_case)):
        run.outputs[str(args.output / name)] = file_sha256(args.output / name)
    run.say(f"{len(summary.metric_per_case)} masks of {len(summary.fold_mean)} folds are in {args.output}")
    return 0
