"""siccs_export_model: a model folder as one file, or its networks as ONNX."""

from __future__ import annotations

import argparse
from pathlib import Path

from siccs_net.cli.options import new_parser
from siccs_net.cli.process import Run


def make_parser() -> argparse.ArgumentParser:
    """Return the command's parser."""
    parser = new_parser(
        "export_model",
        "Write a model folder as one file that siccs_predict takes as it is, or one fold's network as ONNX.",
        example="siccs_export_model results/Dataset501_X/SiccsTrainer__convnext__2d model.siccs",
    )
    parser.add_argument("model", metavar="MODEL", type=Path, help="model folder")
    parser.add_argument("output", metavar="FILE", type=Path, nargs="?", help="file to write, such as model.siccs")
    parser.add_argument("-f", "--folds", nargs="+", metavar="FOLD", help="folds to export (default: all there are)")
    parser.add_argument(
        "--onnx",
        metavar="FILE",
        type=Path,
        help="write one ONNX file a fold instead (NAME.onnx, or NAME_fold_K.onnx for several), with a JSON of what "
        "comes before and after the network, checked by onnxruntime",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace existing files")
    return parser


def run(run: Run) -> int:
    """Export, and say what was written."""
    from siccs_net.errors import UsageError
    from siccs_net.pipeline.share_model import export_model, export_onnx

    args = run.args
    if (args.output is None) == (args.onnx is None):
        raise UsageError("say what to write", hint="Give a file such as model.siccs, or --onnx FILE")
    if args.onnx is None:
        digest = export_model(args.model, args.output, folds=args.folds, overwrite=args.overwrite)
        run.outputs[str(args.output)] = digest
        run.say(f"{args.output}  SHA-256 {digest}")
        return 0
    for path, digest, difference in export_onnx(args.model, args.onnx, folds=args.folds, overwrite=args.overwrite):
        run.outputs[str(path)] = digest
        run.say(f"{path}  largest difference of logits by onnxruntime {difference:.1e}")
    return 0
