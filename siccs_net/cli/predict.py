"""siccs_predict: masks for a file or a folder of scans."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from siccs_net.cli.options import add_device, new_parser
from siccs_net.cli.process import Run, share_heap

if TYPE_CHECKING:
    from siccs_net.inference.predictor import Model
    from siccs_net.pipeline.predict import Outcome

logger = logging.getLogger(__name__)


def make_parser() -> argparse.ArgumentParser:
    """Return the command's parser."""
    parser = new_parser(
        "predict",
        "Predict a scan or a folder of scans with the ensemble of a model's folds, on the scans' exact grids.",
        example="siccs_predict -i scans -o masks -m results/Dataset501_X/SiccsTrainer__convnext__2d",
    )
    parser.add_argument("-i", "--input", metavar="IN", type=Path, required=True, help="an image, or a folder of images")
    parser.add_argument("-o", "--output", metavar="OUT", type=Path, required=True, help="folder for the masks")
    _add_model_choice(parser)
    _add_tiling(parser)
    _add_stages(parser)
    _add_outputs(parser)
    parser.add_argument("--reader", metavar="CLASS", help="your own reader of an image format: package.module:Class")
    parser.add_argument("--network", metavar="CLASS", help="class of a trainer's own network: package.module:Class")
    add_device(parser)
    return parser


def _add_model_choice(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-m", "--model", metavar="MODEL", type=Path, help="model folder, or a file of siccs_export_model"
    )
    parser.add_argument("-d", "--dataset", metavar="ID", help="dataset whose model to use (instead of -m)")
    parser.add_argument("-c", "--configuration", metavar="CONFIG", help="with -d: the configuration")
    parser.add_argument(
        "-tr", "--trainer", metavar="TRAINER", help="with -d: the trainer (default: the only one there is)"
    )
    parser.add_argument("-p", "--plan", metavar="PLAN", help="with -d: the plan (default: the only one there is)")
    parser.add_argument(
        "-f", "--folds", nargs="+", metavar="FOLD", help="folds to use (default: all there are; one with --speed fast)"
    )


def _add_tiling(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--speed",
        choices=("fast", "balanced", "accurate"),
        default="balanced",
        help="fast: one fold, less overlap, no mirrors; balanced (default): the plan's settings with all folds; "
        "accurate: more overlap. -f, --overlap and --no-mirror override it",
    )
    parser.add_argument(
        "--no-skip", action="store_true", help="run the tiles outside the lungs too, where the plan leaves them out"
    )
    parser.add_argument(
        "--overlap", type=float, metavar="X", help="overlap of tiles as a fraction of the patch (default: the plan's)"
    )
    parser.add_argument("--no-mirror", "--disable_tta", action="store_true", help="do not average over mirrored scans")


def _add_stages(parser: argparse.ArgumentParser) -> None:
    stages = parser.add_mutually_exclusive_group()
    stages.add_argument(
        "--previous-model",
        metavar="MODEL",
        type=Path,
        help="in a cascade: the first stage's model folder (default: the one beside the second's)",
    )
    stages.add_argument(
        "--prev-stage-predictions",
        "-prev_stage_predictions",
        metavar="FOLDER",
        type=Path,
        help="in a cascade: masks of the first stage, NAME.nii.gz, instead of running it",
    )


def _add_outputs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--overwrite", action="store_true", help="replace existing masks")
    parser.add_argument(
        "--assume-orientation", metavar="LPS", help="orientation of files that state none, such as LPS or RAS"
    )
    parser.add_argument(
        "--save-probabilities",
        "--save_probabilities",
        action="store_true",
        help="keep the class probabilities beside each mask (NAME.probabilities.b2nd), for siccs_ensemble",
    )
    parser.add_argument(
        "--no-postprocessing", action="store_true", help="leave out the steps of the model's postprocessing.json"
    )
    parser.add_argument(
        "--num-parts", "-num_parts", type=int, default=1, metavar="N", help="share the scans among N commands"
    )
    parser.add_argument(
        "--part-id", "-part_id", type=int, default=0, metavar="I", help="which of the N parts this is, from 0"
    )


def run(run: Run) -> int:
    """Predict; exit code 4 when any scan was refused."""
    from siccs_net.inference.load_model import load_model
    from siccs_net.inference.postprocess import describe
    from siccs_net.inference.speed import SPEEDS
    from siccs_net.io.formats import use_reader
    from siccs_net.pipeline.predict import postprocessing_of, predict_scans
    from siccs_net.pipeline.scans import find_scans, part_of, with_previous_masks

    share_heap()
    args = run.args
    folder = _model_folder(run)
    previous: Path | Literal[False] | None = args.previous_model
    if args.prev_stage_predictions is not None:
        previous = False
    model = load_model(
        folder,
        folds=args.folds,
        most_folds=SPEEDS[args.speed].most_folds,
        device=args.device,
        network=args.network,
        previous=previous,
    )
    _check_stages(run, model)
    model = model.with_settings(
        overlap=args.overlap,
        mirror=False if args.no_mirror else None,
        skip=False if args.no_skip else None,
        speed=args.speed,
        keep_folds=args.folds is not None,
    )
    logger.info(
        "model %s (%s), folds %s, on %s in %s",
        model.name,
        folder,
        ", ".join(model.folds),
        model.device,
        model.numerics.precision,
    )
    if args.reader is not None:
        use_reader(args.reader)
    steps = () if args.no_postprocessing else postprocessing_of(folder, model.folds)
    for step in steps:
        logger.info("post-processing: %s", describe(step))
    found = find_scans(args.input, model.configuration.channels)
    scans = part_of(found, args.num_parts, args.part_id)
    if args.prev_stage_predictions is not None:
        scans = with_previous_masks(scans, args.prev_stage_predictions)
    outcomes = predict_scans(
        model,
        scans,
        args.output,
        overwrite=args.overwrite,
        assume_orientation=args.assume_orientation,
        show_progress=run.show_progress,
        on_outcome=lambda outcome: _print_outcome(run, outcome),
        postprocessing=steps,
        save_probabilities=args.save_probabilities,
    )
    return _finish(run, model, outcomes)


def _check_stages(run: Run, model: Model) -> None:
    """Say which model comes first in a cascade. Raises UsageError for masks that only a cascade takes."""
    from siccs_net.errors import UsageError

    if model.configuration.previous_stage is None and run.args.prev_stage_predictions is not None:
        raise UsageError(
            "the model is no second stage of a cascade", found=model.name, hint="Leave --prev-stage-predictions out"
        )
    if model.previous is not None:
        logger.info("first %s, folds %s", model.previous.name, ", ".join(model.previous.folds))


def _model_folder(run: Run) -> Path:
    from siccs_net.errors import UsageError
    from siccs_net.workspace import Workspace

    args = run.args
    if args.model is not None:
        return Path(args.model)
    if args.dataset is None or args.configuration is None:
        raise UsageError("no model was named", hint="Give -m MODEL, or -d DATASET and -c CONFIG")
    workspace = Workspace.resolve(args.workspace)
    logger.info("%s", workspace.describe())
    results = workspace.results / workspace.dataset_name(args.dataset)
    pattern = f"{args.trainer or '*'}__{args.plan or '*'}__{args.configuration}"
    found = sorted(path.parent for path in results.glob(f"{pattern}/model.json"))
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise UsageError(f"not one model matches {pattern}", path=results, found=names, hint="Choose with -tr and -p")
    return found[0]


def _print_outcome(run: Run, outcome: Outcome) -> None:
    if outcome.status == "refused":
        print(f"refused  {outcome.scan.name}: {outcome.error}", file=sys.stderr, flush=True)
        return
    volumes = outcome.record.volumes_ml if outcome.record is not None else {}
    listed = ", ".join(f"{name} {volume:.0f} mL" for name, volume in volumes.items())
    run.say(f"{outcome.status:<8} {outcome.output}  {listed}")


def _finish(run: Run, model: Model, outcomes: list[Outcome]) -> int:
    refused = [outcome for outcome in outcomes if outcome.status == "refused"]
    for outcome in outcomes:
        if outcome.record is not None:
            inputs = zip(outcome.scan.inputs, outcome.record.input_sha256, strict=True)
            run.inputs |= {str(path): digest for path, digest in inputs}
            run.outputs[str(outcome.output)] = outcome.record.output_sha256
    run.settings = {
        "model_sha256": model.sha256,
        "folds": list(model.folds),
        "speed": model.speed,
        "inference": model.configuration.inference.model_dump(mode="json"),
    }
    run.results = {"refused": {outcome.scan.name: str(outcome.error) for outcome in refused}}
    done = len(outcomes) - len(refused)
    run.say(
        f"{done} of {len(outcomes)} scans are in {run.args.output}" + (f", {len(refused)} refused" if refused else "")
    )
    return 4 if refused else 0
