"""siccs_train: one fold, all folds, or one model on every case."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from siccs_net.cli.options import add_device, add_set, flat_settings, minutes, new_parser
from siccs_net.cli.process import Run, run_command
from siccs_net.cli.several import is_first, is_one_of_several, run_processes

if TYPE_CHECKING:
    from siccs_net.io.dataset import Dataset
    from siccs_net.pipeline.train import FoldResult
    from siccs_net.records.plan import Plan
    from siccs_net.workspace import Workspace

logger = logging.getLogger(__name__)


def make_parser() -> argparse.ArgumentParser:
    """Return the command's parser."""
    parser = new_parser(
        "train",
        "Train one fold, all folds one after another, or one model on every case (fold 'full').",
        example="siccs_train 501 2d all --set epochs=50 learning_rate=1e-3",
    )
    parser.add_argument("dataset", metavar="DATASET", nargs="?", help="number, name or folder of the dataset")
    parser.add_argument(
        "configuration", metavar="CONFIG", nargs="?", help="configuration of the plan, such as 3d_fullres"
    )
    parser.add_argument("fold", metavar="FOLD", nargs="?", default="all", help="a number, all (default) or full")
    parser.add_argument("-tr", "--trainer", metavar="TRAINER", help="name, package.module:Class or path/file.py:Class")
    parser.add_argument("-p", "--plan", metavar="PLAN", help="name of the plan (default: the only one there is)")
    add_set(parser, "a training setting, such as epochs=50, learning_rate=1e-3, augmentation.gamma_probability=0")
    parser.add_argument("--resume", "--c", action="store_true", help="go on where the run stood; skip finished folds")
    parser.add_argument("--overwrite", action="store_true", help="start anew and delete the fold's earlier run")
    parser.add_argument(
        "--deterministic", action="store_true", help="float32 and deterministic kernels: equal runs, equal bits"
    )
    parser.add_argument("--seed", type=int, metavar="N", help="seed of every random number (default: 0)")
    parser.add_argument(
        "--pretrained",
        "-pretrained_weights",
        metavar="MODEL",
        type=Path,
        help="start new folds from a model folder, a fold_K folder or final.safetensors; prints what was loaded",
    )
    parser.add_argument("-f", "--pretrained-fold", metavar="K", help="the fold of --pretrained, where it has several")
    parser.add_argument(
        "--num-gpus",
        "-num_gpus",
        metavar="N",
        type=int,
        default=1,
        help="train each fold on N devices, a process each (with --device cpu: N processes on this machine)",
    )
    parser.add_argument(
        "--budget",
        metavar="TIME",
        type=minutes,
        help="train each fold for so long, such as 30min or 4h, with a schedule that ends there, instead of epochs",
    )
    parser.add_argument("--compile", choices=("auto", "on", "off"), help="torch.compile (default: auto, on for CUDA)")
    parser.add_argument(
        "--val-only", "--val", action="store_true", help="train nothing; validate trained folds on whole scans again"
    )
    parser.add_argument("--no-val", action="store_true", help="do not validate on whole scans after training")
    parser.add_argument(
        "--save-probabilities",
        "--npz",
        action="store_true",
        help="keep the class probabilities of validation cases, to judge ensembles (siccs_find_best_configuration)",
    )
    parser.add_argument("--list-trainers", action="store_true", help="list the registered trainers and exit")
    add_device(parser)
    return parser


def run(run: Run) -> int:
    """Train and print the cross-validation table."""
    from siccs_net.errors import UsageError
    from siccs_net.plugins import TRAINERS, registered
    from siccs_net.workspace import Workspace

    args = run.args
    if args.list_trainers:
        for name, place in registered(TRAINERS).items():
            run.say(f"{name:<22} {place}")
        return 0
    if args.dataset is None or args.configuration is None:
        raise UsageError("a dataset and a configuration are needed", hint="Such as: siccs_train 501 3d_fullres all")
    if args.resume and args.overwrite:
        raise UsageError("--resume and --overwrite contradict each other")
    _check_combination(args)
    if args.num_gpus > 1 and not is_one_of_several():
        return run_processes("siccs_net.cli.train", run.arguments, args.num_gpus)
    workspace = Workspace.resolve(args.workspace)
    logger.info("%s", workspace.describe())
    return _train(run, workspace)


def _check_combination(args: argparse.Namespace) -> None:
    from siccs_net.errors import UsageError

    if args.num_gpus < 1:
        raise UsageError("--num-gpus must be 1 or more", found=args.num_gpus)
    others = ("resume", "overwrite", "no_val", "pretrained", "settings", "budget")
    training = [name for name in others if getattr(args, name)]
    if args.val_only and (training or args.num_gpus > 1):
        wrong = ", ".join(f"--{name.replace('_', '-')}" for name in training) or "--num-gpus"
        raise UsageError("--val-only trains nothing", found=wrong.replace("--settings", "--set"))
    if args.save_probabilities and args.no_val:
        raise UsageError("--save-probabilities keeps what validation makes, and --no-val makes none")
    if args.pretrained_fold is not None and args.pretrained is None:
        raise UsageError("-f is the fold of --pretrained", hint="The fold to train is the third argument")


def _settings(args: argparse.Namespace) -> list[str]:
    settings = [*flat_settings(args), *(["deterministic=true"] if args.deterministic else [])]
    settings += [f"seed={args.seed}"] if args.seed is not None else []
    if args.budget is not None:
        settings.append(f"budget_minutes={args.budget!r}")
    elif any(text.startswith("epochs=") for text in settings):
        settings.append("budget_minutes=null")  # who asks for epochs does not want the plan's time
    return settings + ([f"compile={args.compile}"] if args.compile is not None else [])


def _results(args: argparse.Namespace, dataset: Dataset, plan: Plan, place: dict[str, Any]) -> list[FoldResult]:
    from siccs_net.pipeline.revalidate import revalidate
    from siccs_net.pipeline.train import train

    asked = (dataset, plan, args.configuration, args.fold)
    if args.val_only:
        return revalidate(*asked, trainer=args.trainer, **place)
    return train(
        *asked,
        trainer=args.trainer,
        settings=_settings(args),
        resume=args.resume,
        overwrite=args.overwrite,
        pretrained=args.pretrained,
        pretrained_fold=args.pretrained_fold,
        validate=not args.no_val,
        **place,
    )


def _train(run: Run, workspace: Workspace) -> int:
    from siccs_net.evaluation.summary import summary_table
    from siccs_net.io import files
    from siccs_net.io.dataset import open_dataset
    from siccs_net.records.metrics import Summary

    args = run.args
    dataset = open_dataset(workspace.find_dataset(args.dataset))
    plan = find_plan(workspace, dataset.name, args.plan)
    place = {"device": args.device, "workspace": workspace, "show_progress": run.show_progress}
    place["save_probabilities"] = args.save_probabilities
    results = _results(args, dataset, plan, place)
    if not is_first():
        return 0
    folder = workspace.model_folder(dataset.name, results[0].record.trainer, plan.name, args.configuration)
    for result in results:
        weights = folder.fold(result.fold).weights
        run.outputs[str(weights)] = result.record.weights_sha256
        run.say(f"fold {result.fold}: {result.record.epochs} epochs, {weights}")
    run.settings = results[0].record.config
    if run.reported:
        _add_inputs(run, dataset, plan, workspace)
    if folder.summary.is_file():
        run.say(summary_table(files.read_record(folder.summary, Summary)))
        run.say(f"cross-validation: {folder.summary}")
    run.say(f"model folder (for siccs_predict -m): {folder.root}")
    return 0


def _add_inputs(run: Run, dataset: Dataset, plan: Plan, workspace: Workspace) -> None:
    """Add the dataset's files with the hashes that stand in the prepared cases' sidecars."""
    from siccs_net.io.store import PreparedStore

    name = run.args.configuration
    folder = workspace.prepared_dataset(dataset.name).prepared(plan.name, plan.prepared_name(name))
    store = PreparedStore(folder, plan.configurations[name].dimension)
    for case in dataset.cases.values():
        run.add_case(case, store.read_record(case.name).input_sha256)


def find_plan(workspace: Workspace, dataset: str, name: str | None) -> Plan:
    """Return a dataset's plan by name, or the only one. Raises UsageError that lists the plans there are."""
    from siccs_net.errors import UsageError
    from siccs_net.io import files
    from siccs_net.records.plan import Plan

    place = workspace.prepared_dataset(dataset)
    names = sorted(path.stem for path in place.plans.glob("*.json"))
    if not names:
        raise UsageError(f"{dataset} has no plan", path=place.plans, hint="Run siccs_plan_and_preprocess first")
    chosen = names[0] if name is None and len(names) == 1 else name
    if chosen is None or chosen not in names:
        problem = f"no plan {name!r}" if name else "there is more than one plan"
        raise UsageError(problem, path=place.plans, found=", ".join(names), hint="Name one with -p")
    return files.read_record(Path(place.plan(chosen)), Plan)


if __name__ == "__main__":
    sys.exit(run_command("train", sys.argv[1:]))
