"""siccs_find_best_configuration: the model, or pair, that cross-validation prefers, and how to predict with it."""

from __future__ import annotations

import argparse
import logging

from siccs_net.cli.options import add_workers, new_parser
from siccs_net.cli.process import Run

logger = logging.getLogger(__name__)


def make_parser() -> argparse.ArgumentParser:
    """Return the command's parser."""
    parser = new_parser(
        "find_best_configuration",
        "Compare a dataset's trained models, and ensembles of two, on cross-validation; decide the post-processing of "
        "the best one, and print the command that predicts with it.",
        example="siccs_find_best_configuration 501 -c 2d 3d_fullres",
    )
    parser.add_argument("dataset", metavar="DATASET", help="number, name or folder of the dataset")
    parser.add_argument(
        *("-c", "--configurations"), nargs="+", metavar="CONFIG", help="configurations to compare (default: all)"
    )
    parser.add_argument("-tr", "--trainers", nargs="+", metavar="TRAINER", help="trainers to compare (default: all)")
    parser.add_argument("-p", "--plans", nargs="+", metavar="PLAN", help="plans to compare (default: all)")
    parser.add_argument("-f", "--folds", nargs="+", metavar="FOLD", help="folds to compare on (default: all there are)")
    parser.add_argument("--no-ensemble", "--disable_ensembling", action="store_true", help="compare single models only")
    parser.add_argument("--no-postprocessing", action="store_true", help="do not judge post-processing")
    add_workers(parser)
    return parser


def run(run: Run) -> int:
    """Compare, decide, print."""
    from siccs_net.io.dataset import open_dataset
    from siccs_net.io.files import file_sha256
    from siccs_net.pipeline.find_best import find_best_configuration, instructions_text
    from siccs_net.workspace import Workspace

    args = run.args
    workspace = Workspace.resolve(args.workspace)
    logger.info("%s", workspace.describe())
    dataset = open_dataset(workspace.find_dataset(args.dataset))
    instructions = find_best_configuration(
        dataset,
        configurations=args.configurations,
        trainers=args.trainers,
        plans=args.plans,
        folds=args.folds,
        ensembles=not args.no_ensemble,
        postprocessing=not args.no_postprocessing,
        workspace=workspace,
        workers=args.workers,
    )
    run.say(instructions_text(instructions))
    path = workspace.comparison(dataset.name).instructions
    run.outputs = {str(path): file_sha256(path)}
    run.results = instructions.model_dump(mode="json")
    run.say(f"instructions: {path}")
    return 0
