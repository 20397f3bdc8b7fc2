"""siccs_import_model: a model file of ours, or a model of nnU-Net v2, becomes a model folder."""

from __future__ import annotations

import argparse
from pathlib import Path

from siccs_net.cli.options import new_parser
from siccs_net.cli.process import Run


def make_parser() -> argparse.ArgumentParser:
    """Return the command's parser."""
    parser = new_parser(
        "import_model",
        "Make a model folder of a file that siccs_export_model wrote, or of an nnU-Net v2 results folder or exported "
        "zip. Nothing in them is executed.",
        example="siccs_import_model nnUNet_results/Dataset501_X/nnUNetTrainer__nnUNetPlans__3d_fullres",
    )
    parser.add_argument("source", metavar="SOURCE", type=Path, help="model.siccs, or nnU-Net's results folder or zip")
    parser.add_argument(
        "-o", "--output", metavar="FOLDER", type=Path, help="model folder to make (default: in the workspace's results)"
    )
    parser.add_argument("-c", "--configuration", metavar="CONFIG", help="nnU-Net: which one, where there are several")
    parser.add_argument(
        "-f",
        "--folds",
        nargs="+",
        metavar="FOLD",
        help="folds to import (default: all there are; nnU-Net's all is full)",
    )
    parser.add_argument(
        "--checkpoint",
        "-chk",
        metavar="NAME",
        help="nnU-Net: which file of a fold (default: checkpoint_final.pth, else checkpoint_best.pth)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a model that is there")
    return parser


def run(run: Run) -> int:
    """Import, and say where the models are."""
    from siccs_net.pipeline.share_model import import_model
    from siccs_net.workspace import Workspace

    args = run.args
    made = import_model(
        args.source,
        args.output,
        configuration=args.configuration,
        folds=args.folds,
        checkpoint=args.checkpoint,
        overwrite=args.overwrite,
        workspace=Workspace.resolve(args.workspace),
    )
    for folder in made:
        run.say(f"{folder}")
        run.say(f"  siccs_predict -i SCANS -o MASKS -m {folder}")
    run.results = {"models": [str(folder) for folder in made]}
    return 0
