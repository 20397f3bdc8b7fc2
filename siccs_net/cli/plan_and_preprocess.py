"""siccs_plan_and_preprocess: fingerprint, plan, preprocess."""

from __future__ import annotations

import argparse
import contextlib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from siccs_net.cli.options import add_device, add_set, add_workers, minutes, new_parser
from siccs_net.cli.plan_options import plan_settings, prepared_folders, source_plan, with_training
from siccs_net.cli.print_plan import print_expected, print_plan
from siccs_net.cli.process import Run

if TYPE_CHECKING:
    from siccs_net.io.dataset import Dataset
    from siccs_net.records.plan import Plan
    from siccs_net.workspace import DatasetFolder, Workspace

logger = logging.getLogger(__name__)


def make_parser() -> argparse.ArgumentParser:
    """Return the command's parser."""
    parser = new_parser(
        "plan_and_preprocess",
        "Take a dataset's fingerprint, plan spacing, patch size and network, draw the folds, preprocess every case.",
        example="siccs_plan_and_preprocess -d 501 -c 3d_fullres --dry-run",
    )
    parser.add_argument("-d", "--dataset", metavar="ID", nargs="+", help="numbers, names or folders of datasets")
    parser.add_argument(
        "-c",
        "--configuration",
        nargs="+",
        default=[],
        metavar="NAME",
        help="2d, 3d_fullres, 3d_lowres, 3d_cascade_fullres (default: all that the rules give)",
    )
    _add_planning(parser)
    _add_folds(parser)
    add_set(
        parser, "override a part of the plan, such as batch_size=4, spacing_mm=[2,1,1], network.widths=[16,32,64,128]"
    )
    _add_modes(parser)
    add_device(parser)
    add_workers(parser)
    return parser


def _add_planning(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-pl", "--planner", default="convnext", metavar="NAME", help="see --list-planners")
    parser.add_argument("--preset", metavar="NAME", help="a whole plan with stated settings; see --list-presets")
    parser.add_argument(
        "--plan-from", metavar="SOURCE", help="take over another dataset's plan: the dataset, or the plan's JSON file"
    )
    parser.add_argument(
        "--overrides",
        metavar="FILE",
        type=Path,
        help="JSON with partial configurations over the plan's, and new ones by inherits_from",
    )
    parser.add_argument(
        "--overwrite-target-spacing",
        "-overwrite_target_spacing",
        metavar=("Z", "Y", "X"),
        nargs=3,
        type=float,
        help="spacing in mm to resample to, instead of the rule's",
    )
    parser.add_argument(
        "--target-vram", "-gpu_memory_target", metavar="GB", type=float, help="GPU memory to plan for (default: 8)"
    )
    parser.add_argument("--plan-name", metavar="NAME", help="name of the plan (default: the planner's or preset's)")


def _add_folds(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--folds", type=int, metavar="K", help="number of folds (default: 8, or the dataset's own file)"
    )
    parser.add_argument(
        "--splits",
        choices=("grouped", "nnunet"),
        help="draw the folds anew: by patient and lesion volume, or exactly as nnU-Net draws them (5 unless --folds)",
    )


def _add_modes(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--budget",
        metavar="TIME",
        type=minutes,
        help="plan for trainings of so long a time a fold on --device, such as 30min or 4h: spacing is made coarser, "
        "patch and batch smaller, until enough steps fit, which is measured (loads torch)",
    )
    parser.add_argument("--dry-run", action="store_true", help="print the plan with its expected memory; write nothing")
    parser.add_argument(
        "--measure", action="store_true", help="take three training steps and say what one costs here (loads torch)"
    )
    parser.add_argument("--no-preprocess", action="store_true", help="plan only")
    parser.add_argument("--list-planners", action="store_true", help="list the planners and exit")
    parser.add_argument("--list-presets", action="store_true", help="list the presets and exit")


def run(run: Run) -> int:
    """Plan and preprocess each dataset in turn."""
    from siccs_net.errors import UsageError
    from siccs_net.io.dataset import open_dataset
    from siccs_net.io.held import cases_held
    from siccs_net.workspace import Workspace

    args = run.args
    if args.list_planners or args.list_presets:
        return _list(run)
    if not args.dataset:
        raise UsageError("no dataset was named", hint="Name one with -d, such as -d 501")
    workspace = Workspace.resolve(args.workspace)
    logger.info("%s", workspace.describe())
    for name in args.dataset:
        reads_twice = not (args.dry_run or args.no_preprocess)
        with cases_held() if reads_twice else contextlib.nullcontext():
            _one(run, open_dataset(workspace.find_dataset(name)), workspace)
    return 0


def _list(run: Run) -> int:
    from siccs_net.planners.planner import PLANNERS
    from siccs_net.planners.presets import PRESETS

    if run.args.list_planners:
        run.say("\n".join(PLANNERS))
    if run.args.list_presets:
        run.say("\n".join(f"{name:<20} {(preset.__doc__ or '').splitlines()[0]}" for name, preset in PRESETS.items()))
    return 0


def _one(run: Run, dataset: Dataset, workspace: Workspace) -> None:
    from siccs_net.cli.process import keep_heap
    from siccs_net.pipeline.plan import plan
    from siccs_net.pipeline.preprocess import preprocess
    from siccs_net.planners.overrides import Overrides, read_overrides
    from siccs_net.planners.planner import check_plan_name

    args = run.args
    settings = plan_settings(args)
    if args.plan_name is not None:
        check_plan_name(args.plan_name)
    overrides = Overrides() if args.overrides is None else read_overrides(args.overrides)
    source = None if args.plan_from is None else source_plan(args, workspace)
    recipe = (source.preset or source.planner) if source else (args.preset or args.planner)
    _check_training_settings(with_training(settings, overrides.body), recipe)
    made = plan(
        dataset,
        planner=args.planner,
        preset=args.preset,
        configurations=args.configuration,
        settings=settings,
        folds=args.folds,
        split=args.splits,
        name=args.plan_name,
        source=source,
        overrides=overrides,
        workspace=workspace,
        workers=args.workers,
        save=not args.dry_run,
        show_progress=run.show_progress,
        budget_minutes=args.budget,
        device=args.device,
        prepare=keep_heap,
    )
    place = workspace.prepared_dataset(dataset.name)
    if args.measure and args.budget is None:
        made = _measured(run, dataset, made, None if args.dry_run else place)
    print_plan(run, made)
    run.results[dataset.name] = made.model_dump(mode="json")
    run.settings = {"planner": args.planner, "preset": args.preset, "folds": made.folds, "set": settings}
    if args.dry_run:
        print_expected(run, dataset, made)
        return
    if run.reported:
        _add_files(run, dataset, place, made)
    run.say(f"plan written to {place.plan(made.name)}")
    for folder, names in [] if args.no_preprocess else prepared_folders(made, args.configuration):
        done = preprocess(
            dataset, made, names[0], workspace=workspace, workers=args.workers, show_progress=run.show_progress
        )
        listed, where = ", ".join(names), place.prepared(made.name, folder)
        run.say(f"{listed}: {len(done.made)} cases prepared, {len(done.kept)} kept, in {where}")


def _measured(run: Run, dataset: Dataset, plan: Plan, place: DatasetFolder | None) -> Plan:
    """Measure a training step of the configurations asked for; write it into the plan's file unless it is a dry run."""
    from siccs_net.cli.process import keep_heap
    from siccs_net.io import files
    from siccs_net.pipeline.measure import measure_plan

    logger.info("measuring training steps of plan %r", plan.name)
    measured = measure_plan(plan, dataset.labels, run.args.configuration, device=run.args.device, prepare=keep_heap)
    if place is not None:
        files.write_record(place.plan(plan.name), measured)
    return measured


def _check_training_settings(settings: Mapping[str, Any], planner: str) -> None:
    """Let the trainer check its settings before any scan is read. Loads torch, but only when there are some.

    Raises UsageError for an unknown trainer, an unknown training setting or a value that does not fit.
    """
    given = {name.partition(".")[2]: value for name, value in settings.items() if name.startswith("training.")}
    if not given and "trainer" not in settings:
        return
    from siccs_net.planners.presets import DEFAULT_TRAINER, TRAINER_OF
    from siccs_net.records.plan import Plan
    from siccs_net.trainers.base import find_trainer
    from siccs_net.trainers.config import resolve_config

    trainer = str(settings.get("trainer", TRAINER_OF.get(planner, DEFAULT_TRAINER)))
    kind = find_trainer(trainer)
    plan = Plan(name="plan", dataset_name="", planner="", trainer=trainer, folds=1, training=given, configurations={})
    resolve_config(kind.config_class, kind.defaults, plan, {})


def _add_files(run: Run, dataset: Dataset, place: DatasetFolder, plan: Plan) -> None:
    """Tell the report which files were read and written; the fingerprint holds the hashes of those read."""
    from siccs_net.io import files
    from siccs_net.records.fingerprint import Fingerprint

    for item in files.read_record(place.fingerprint, Fingerprint).cases:
        run.add_case(dataset.cases[item.case], item.input_sha256)
    for path in (place.plan(plan.name), place.splits, place.fingerprint):
        run.outputs[str(path)] = files.file_sha256(path)
