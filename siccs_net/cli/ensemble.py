"""siccs_ensemble: the mean of saved probabilities, or of several models' predictions."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from siccs_net.cli.options import add_device, new_parser
from siccs_net.cli.process import Run

if TYPE_CHECKING:
    from siccs_net.pipeline.ensemble import Merged
    from siccs_net.records.postprocessing import PostStep


def make_parser() -> argparse.ArgumentParser:
    """Return the command's parser."""
    parser = new_parser(
        "ensemble",
        "Average class probabilities that siccs_predict --save-probabilities kept in several folders; or, with -m, "
        "predict scans with several models and average those. Masks lie on the scans' exact grids.",
        example="siccs_ensemble -i masks_2d masks_3d -o masks\n  siccs_ensemble -m MODEL_A MODEL_B -i scans -o masks",
    )
    parser.add_argument(
        *("-i", "--input"),
        metavar="IN",
        type=Path,
        nargs="+",
        required=True,
        help="folders with saved probabilities; with -m one image or folder of images",
    )
    parser.add_argument("-o", "--output", metavar="OUT", type=Path, required=True, help="folder for the masks")
    parser.add_argument("-m", "--models", metavar="MODEL", type=Path, nargs="+", help="model folders to predict with")
    parser.add_argument("-f", "--folds", nargs="+", metavar="FOLD", help="with -m: folds to use (default: all)")
    parser.add_argument("--weights", metavar="W", type=float, nargs="+", help="one a member (default: all alike)")
    parser.add_argument(
        "--postprocessing",
        metavar="FILE",
        type=Path,
        help="postprocessing.json to apply to the masks (default: none)",
    )
    parser.add_argument("--save-probabilities", action="store_true", help="keep the mean probabilities too")
    parser.add_argument("--no-mirror", "--disable_tta", action="store_true", help="with -m: no mirrored scans")
    parser.add_argument("--overwrite", action="store_true", help="replace existing masks")
    add_device(parser)
    return parser


def run(run: Run) -> int:
    """Merge; exit code 4 when any case was refused."""
    from siccs_net.pipeline.ensemble import check_sources, ensemble_folders

    args = run.args
    steps = _steps(args.postprocessing)
    refused: dict[str, str] = {}
    folders = args.input
    if args.models:
        check_sources(args.models, args.output, args.weights)
        folders, refused = _predict_members(run)
    merged = ensemble_folders(
        folders,
        args.output,
        weights=args.weights,
        postprocessing=steps,
        keep_probabilities=args.save_probabilities,
        overwrite=args.overwrite,
        on_merged=lambda outcome: _print(run, outcome),
    )
    return _finish(run, merged, folders, refused)


def _steps(path: Path | None) -> tuple[PostStep, ...]:
    from siccs_net.io import files
    from siccs_net.records.postprocessing import PostProcessing

    return () if path is None else files.read_record(path, PostProcessing).steps


def _predict_members(run: Run) -> tuple[list[Path], dict[str, str]]:
    """Predict with every model into OUT/members/MODEL, one after another; masks that are there already are kept."""
    from siccs_net.errors import UsageError
    from siccs_net.inference.load_model import load_model
    from siccs_net.pipeline.predict import predict_scans
    from siccs_net.pipeline.scans import find_scans

    args = run.args
    if len(args.input) != 1:
        raise UsageError("with -m there is one input", found=len(args.input), hint="An image, or a folder of images")
    names = [path.resolve().name for path in args.models]
    if len(set(names)) < len(names):
        raise UsageError("two models have folders of one name", found=", ".join(names), hint="Rename one")
    folders = [args.output / "members" / name for name in names]
    refused: dict[str, str] = {}
    for path, folder in zip(args.models, folders, strict=True):
        model = load_model(path, folds=args.folds, device=args.device).with_settings(
            mirror=False if args.no_mirror else None
        )
        scans = find_scans(args.input[0], model.configuration.network.in_channels)
        outcomes = predict_scans(
            model,
            scans,
            folder,
            overwrite=args.overwrite,
            show_progress=run.show_progress,
            save_probabilities=True,
        )
        for outcome in outcomes:
            if outcome.record is not None:
                run.inputs |= dict(zip(map(str, outcome.scan.paths), outcome.record.input_sha256, strict=True))
        bad = [outcome for outcome in outcomes if outcome.status == "refused"]
        refused |= {outcome.scan.name: str(outcome.error) for outcome in bad}
    for name, message in refused.items():
        print(f"refused  {name}: {message}", file=sys.stderr, flush=True)
    return folders, refused


def _print(run: Run, outcome: Merged) -> None:
    if outcome.status == "refused":
        print(f"refused  {outcome.case}: {outcome.error}", file=sys.stderr, flush=True)
        return
    volumes = outcome.record.volumes_ml if outcome.record is not None else {}
    listed = ", ".join(f"{name} {volume:.0f} mL" for name, volume in volumes.items())
    run.say(f"{outcome.status:<8} {outcome.output}  {listed}")


def _finish(run: Run, merged: list[Merged], folders: list[Path], refused: dict[str, str]) -> int:
    from siccs_net.io.probabilities import probabilities_path

    refused = refused | {outcome.case: str(outcome.error) for outcome in merged if outcome.status == "refused"}
    done = [outcome for outcome in merged if outcome.record is not None]
    for outcome in done:
        if outcome.record is not None:
            run.outputs[str(outcome.output)] = outcome.record.output_sha256
            arrays = (str(probabilities_path(folder, outcome.case)) for folder in folders)
            run.inputs |= dict(zip(arrays, outcome.record.sources_sha256, strict=True))
    run.settings = {"weights": list(done[0].record.weights) if done and done[0].record is not None else None}
    run.results = {"refused": refused}
    total = len({outcome.case for outcome in merged} | set(refused))
    run.say(f"{len(done)} of {total} cases are in {run.args.output}" + (f", {len(refused)} refused" if refused else ""))
    return 4 if refused else 0
