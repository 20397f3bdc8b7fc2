"""siccs_overlay: a picture of each case's fullest slice with its mask over it."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from siccs_net.cli.options import add_workers, new_parser
from siccs_net.cli.process import Run


def make_parser() -> argparse.ArgumentParser:
    """Return the command's parser."""
    parser = new_parser(
        "overlay",
        "Draw the slice with the most foreground of each case as a PNG: the scan, its mask, and its reference.",
        example="siccs_overlay -i scans -s masks -o pictures -r labels",
    )
    parser.add_argument("-i", "--images", metavar="IMAGES", type=Path, required=True, help="folder of images")
    parser.add_argument("-s", "--masks", metavar="MASKS", type=Path, required=True, help="folder of masks")
    parser.add_argument("-o", "--output", metavar="OUT", type=Path, required=True, help="folder for the pictures")
    parser.add_argument("-r", "--references", metavar="REF", type=Path, help="folder of reference masks")
    parser.add_argument(
        "--dataset-json", metavar="FILE", type=Path, help="dataset.json that names the labels (default: the masks')"
    )
    parser.add_argument("--channel", type=int, default=0, metavar="N", help="channel to show (default: 0)")
    parser.add_argument(
        "--window",
        type=float,
        nargs=2,
        metavar=("LOW", "HIGH"),
        help="values shown black and white (default: the lung window, or the middle 99 %% where there is no air)",
    )
    add_workers(parser)
    return parser


def run(run: Run) -> int:
    """Draw; exit code 4 when a case could not be drawn."""
    from siccs_net.errors import UsageError
    from siccs_net.io.files import file_sha256
    from siccs_net.pipeline.overlay import draw_views, find_views, labels_for

    args = run.args
    window = None if args.window is None else (args.window[0], args.window[1])
    if window is not None and not window[0] < window[1]:
        raise UsageError("the window is empty", found=window, expected="LOW below HIGH")
    views = find_views(args.images, args.masks, args.references, channel=args.channel)
    labels = labels_for(args.masks, args.dataset_json, args.references)
    drawn = draw_views(views, args.output, labels, window=window, workers=args.workers)
    errors = {case: str(error) for case, error in drawn if error is not None}
    for case, message in errors.items():
        print(f"refused  {case}: {message}", file=sys.stderr, flush=True)
    if run.reported:
        read = [path for view in views for path in (view.image, view.mask, view.reference) if path is not None]
        run.inputs = {str(path): file_sha256(path) for path in read}
        done = [args.output / f"{case}.png" for case, error in drawn if error is None]
        run.outputs = {str(path): file_sha256(path) for path in done}
    run.results = {"refused": errors}
    run.say(f"{len(drawn) - len(errors)} of {len(drawn)} pictures are in {args.output}")
    return 4 if errors else 0
