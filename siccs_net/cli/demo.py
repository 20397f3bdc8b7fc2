"""siccs_demo: the whole way on synthetic patients, in a few minutes on two processor cores."""

from __future__ import annotations

import argparse
import json
import logging
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from siccs_net.cli.options import add_device, new_parser
from siccs_net.cli.process import Run

if TYPE_CHECKING:
    from siccs_net.inference.predictor import Model
    from siccs_net.io.dataset import Dataset
    from siccs_net.records.metrics import Summary
    from siccs_net.workspace import Workspace

DATASET = "Dataset900_SiccsPhantom"
CONFIGURATION = "3d_fullres"
PATIENTS, HELD_OUT = 16, 1
REPORTED = ("lung", "EF", "GGO", "EF+GGO")
logger = logging.getLogger(__name__)


def make_parser() -> argparse.ArgumentParser:
    """Return the command's parser."""
    parser = new_parser(
        "demo",
        "Make synthetic HRCT patients, plan, preprocess, train all 8 folds, predict a held-out patient with the "
        "ensemble, evaluate, and draw the result. The patients are phantoms: nothing here is a medical result.",
        example="siccs_demo -o siccs_demo",
    )
    parser.add_argument("-o", "--output", metavar="DIR", type=Path, default=Path("siccs_demo"), help="folder to make")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of patients and training (default: 0)")
    parser.add_argument("--overwrite", action="store_true", help="replace the folder of an earlier demo")
    add_device(parser)
    return parser


def run(run: Run) -> int:
    """Run every step and print where the results are."""
    started = time.monotonic()
    args = run.args
    _claim(args.output, overwrite=args.overwrite)
    workspace = _workspace(run)
    dataset = _make_patients(run, workspace)
    plan = _plan_and_preprocess(run, dataset, workspace)
    validation = _train(run, dataset, plan, workspace)
    model = _export(run, dataset, plan, workspace)
    test = _predict_and_evaluate(run, dataset, model)
    picture = _draw(run, dataset)
    seconds = time.monotonic() - started
    _finish(run, validation, test, picture, seconds)
    return 0


def _workspace(run: Run) -> Workspace:
    from siccs_net.workspace import Workspace

    workspace = Workspace.resolve(run.args.workspace or run.args.output / "workspace")
    logger.info("%s", workspace.describe())
    return workspace


def _claim(folder: Path, *, overwrite: bool) -> None:
    """Make the folder; only an earlier demo's may be replaced."""
    from siccs_net.errors import UsageError
    from siccs_net.io import files

    marker = folder / ".siccs_demo"
    if folder.exists() and any(folder.iterdir()):
        if not marker.is_file():
            raise UsageError("the folder is not empty and not a demo's", path=folder, hint="Choose another with -o")
        if not overwrite:
            raise UsageError("a demo is already there", path=folder, hint="--overwrite replaces it")
        shutil.rmtree(folder)
    files.write_bytes(marker, b"made by siccs_demo\n")


def _make_patients(run: Run, workspace: Workspace) -> Dataset:
    from siccs_net.io.dataset import open_dataset
    from siccs_net.parallel import run_all
    from siccs_net.testing.phantom import make_patient, write_dataset

    run.say(f"1/5 making {PATIENTS + HELD_OUT} synthetic patients")
    seed = run.args.seed
    made = dict(run_all(lambda index: make_patient(index, seed=seed), range(PATIENTS + HELD_OUT)))
    folder = workspace.raw[0] / DATASET
    write_dataset(folder, [made[index] for index in sorted(made)], test=HELD_OUT, name=DATASET)
    return open_dataset(folder)


def _plan_and_preprocess(run: Run, dataset: Dataset, workspace: Workspace) -> Any:
    from siccs_net.pipeline.plan import plan
    from siccs_net.pipeline.preprocess import preprocess

    run.say("2/5 planning and preprocessing")
    made = plan(dataset, preset="demo", workspace=workspace, show_progress=run.show_progress)
    preprocess(dataset, made, CONFIGURATION, workspace=workspace, show_progress=run.show_progress)
    return made


def _train(run: Run, dataset: Dataset, plan: Any, workspace: Workspace) -> Summary:
    from siccs_net.io import files
    from siccs_net.pipeline.train import train
    from siccs_net.records.metrics import Summary

    run.say(f"3/5 training {plan.folds} folds")
    results = train(
        dataset,
        plan,
        CONFIGURATION,
        settings={"seed": run.args.seed},
        device=run.args.device,
        workspace=workspace,
        show_progress=run.show_progress,
    )
    folder = workspace.model_folder(dataset.name, results[0].record.trainer, plan.name, CONFIGURATION)
    return files.read_record(folder.summary, Summary)


def _export(run: Run, dataset: Dataset, plan: Any, workspace: Workspace) -> Model:
    """Copy what prediction needs to DIR/model and load it from there."""
    from siccs_net.inference.load_model import load_model
    from siccs_net.workspace import ModelFolder

    source = workspace.model_folder(dataset.name, plan.trainer, plan.name, CONFIGURATION)
    target = ModelFolder(run.args.output / "model")
    target.root.mkdir(parents=True, exist_ok=True)
    for path in (source.model, source.plan, source.description, source.summary):
        shutil.copy2(path, target.root / path.name)
    for fold in source.folds():
        target.fold(fold).root.mkdir(exist_ok=True)
        for path in (source.fold(fold).weights, source.fold(fold).record):
            shutil.copy2(path, target.fold(fold).root / path.name)
    return load_model(target.root, device=run.args.device)


def _predict_and_evaluate(run: Run, dataset: Dataset, model: Model) -> Summary:
    from siccs_net.errors import DataError
    from siccs_net.pipeline.evaluate import evaluate
    from siccs_net.pipeline.predict import predict_scans
    from siccs_net.pipeline.scans import find_scans

    run.say(f"4/5 predicting {HELD_OUT} held-out patient with {len(model.folds)} fold models")
    output = run.args.output / "prediction"
    outcomes = predict_scans(model, find_scans(dataset.folder / "imagesTs", 1), output, show_progress=run.show_progress)
    for outcome in outcomes:
        if outcome.error is not None:
            raise outcome.error
    evaluated = evaluate(output, dataset.folder / "labelsTs", run.args.output / "evaluation")
    if evaluated.summary is None:
        raise DataError("the held-out patient could not be measured", path=output)
    return evaluated.summary


def _draw(run: Run, dataset: Dataset) -> Path:
    from siccs_net.evaluation.figures import draw_overlay
    from siccs_net.io.image import read_image, read_label

    run.say("5/5 drawing")
    name = next((dataset.folder / "labelsTs").glob("*.nii.gz")).name
    image = read_image([dataset.folder / "imagesTs" / name.replace(".nii.gz", "_0000.nii.gz")])
    reference = read_label(dataset.folder / "labelsTs" / name)
    predicted = read_label(run.args.output / "prediction" / name)
    picture: Path = run.args.output / "overlay.png"
    draw_overlay(image.array[0], predicted.array[0], reference.array[0], image.grid.spacing_mm, dataset.labels, picture)
    return picture


def _finish(run: Run, validation: Summary, test: Summary, picture: Path, seconds: float) -> None:
    from siccs_net.evaluation.summary import summary_table
    from siccs_net.io import files

    output = run.args.output
    body = {
        "seconds": round(seconds, 1),
        "folds": len(set((validation.folds or {}).values())),
        "validation_dice": {name: _mean_dice(validation, name) for name in REPORTED},
        "test_dice": {name: _mean_dice(test, name) for name in REPORTED},
        "seed": run.args.seed,
    }
    figures = output / "summary.json"
    run.outputs[str(figures)] = files.write_bytes(figures, (json.dumps(body, indent=1) + "\n").encode())
    run.outputs[str(picture)] = files.file_sha256(picture)
    run.settings = {"seed": run.args.seed, "patients": PATIENTS, "held_out": HELD_OUT}
    run.results |= body
    run.say(f"\ncross-validation over {body['folds']} folds, {PATIENTS} synthetic patients")
    run.say(summary_table(validation))
    run.say("\nheld-out patient, ensemble of all folds")
    run.say(summary_table(test))
    run.say(f"\n{seconds:.0f} s. Results in {output}:")
    for path, what in (
        (picture, "picture: scan, prediction, reference"),
        (figures, "the figures above"),
        (output / "prediction", "mask and volumes of the held-out patient"),
        (output / "evaluation", "its Dice, NSD, HD95, volumes"),
        (output / "model", "the trained model: siccs_predict -m"),
        (output / "workspace", "raw, preprocessed and results"),
    ):
        run.say(f"  {path!s:<40} {what}")


def _mean_dice(summary: Summary, name: str) -> float | None:
    keys = {label: key for key, label in summary.names.items()}
    value = summary.mean[keys.get(name, name)].Dice
    return None if value is None else round(value, 4)
