"""siccs_evaluate: Dice, NSD, HD95 and volumes of predictions against references."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from siccs_net.cli.options import add_workers, new_parser
from siccs_net.cli.process import Run


def make_parser() -> argparse.ArgumentParser:
    """Return the command's parser."""
    parser = new_parser(
        "evaluate",
        "Measure predicted masks against references: Dice, NSD at 2 and 5 mm, HD95, volumes, per case and in summary.",
        example="siccs_evaluate -i masks -r labelsTs -o evaluation",
    )
    parser.add_argument(
        "-i", "--predictions", metavar="PRED", type=Path, required=True, help="folder of predicted masks"
    )
    parser.add_argument("-r", "--references", metavar="REF", type=Path, required=True, help="folder of reference masks")
    parser.add_argument(
        "-o", "--output", metavar="OUT", type=Path, required=True, help="folder for summary.json and summary.csv"
    )
    parser.add_argument(
        "--dataset-json",
        metavar="FILE",
        type=Path,
        help="dataset.json that names the labels (default: the references')",
    )
    parser.add_argument("--reader", metavar="CLASS", help="your own reader of an image format: package.module:Class")
    parser.add_argument("--no-surface", action="store_true", help="leave out NSD and HD95")
    add_workers(parser)
    return parser


def run(run: Run) -> int:
    """Evaluate and print the table; exit code 4 when a pair could not be measured."""
    from siccs_net.evaluation.summary import summary_table
    from siccs_net.io.files import file_sha256
    from siccs_net.io.formats import use_reader
    from siccs_net.pipeline.evaluate import evaluate

    args = run.args
    if args.reader is not None:
        use_reader(args.reader)
    result = evaluate(
        args.predictions,
        args.references,
        args.output,
        description=args.dataset_json,
        surface=not args.no_surface,
        workers=args.workers,
        show_progress=run.show_progress,
    )
    for name, error in result.errors:
        print(f"refused  {name}: {error}", file=sys.stderr, flush=True)
    if result.summary is not None:
        run.say(summary_table(result.summary))
        for name in ("summary.json", "summary.csv"):
            run.outputs[str(args.output / name)] = file_sha256(args.output / name)
        run.say(f"per case: {args.output / 'summary.json'}, {args.output / 'summary.csv'}")
    run.settings = {"surface": not args.no_surface}
    if run.reported:
        _add_inputs(run)
    run.results = {"refused": {name: str(error) for name, error in result.errors}}
    return 4 if result.errors else 0


def _add_inputs(run: Run) -> None:
    from siccs_net.io.files import file_sha256
    from siccs_net.pipeline.evaluate import find_description, find_pairs

    args = run.args
    pairs, _ = find_pairs(args.predictions, args.references)
    paths = [find_description(args.references, args.dataset_json)]
    paths += [path for _, predicted, reference in pairs for path in (predicted, reference)]
    run.inputs |= {str(path): file_sha256(path) for path in paths}
