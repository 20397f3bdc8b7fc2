"""What siccs_plan_and_preprocess makes of its options: settings, another dataset's plan, the folders to prepare."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from siccs_net.cli.options import flat_settings

if TYPE_CHECKING:
    from siccs_net.records.plan import Plan
    from siccs_net.workspace import Workspace


def plan_settings(args: argparse.Namespace) -> dict[str, Any]:
    """Return `--set` and the flags that are settings too. Raises UsageError for one that is given both ways."""
    from siccs_net.errors import UsageError
    from siccs_net.records.settings import parse_set

    settings = parse_set(flat_settings(args))
    flags = {
        "spacing_mm": ("--overwrite-target-spacing", args.overwrite_target_spacing),
        "target_vram_gb": ("--target-vram", args.target_vram),
    }
    for name, (flag, value) in flags.items():
        if value is None:
            continue
        if name in settings:
            raise UsageError(f"{flag} and --set {name} are the same setting", hint="Give one of them")
        settings[name] = value
    return settings


def source_plan(args: argparse.Namespace, workspace: Workspace) -> Plan:
    """Return the plan of `--plan-from`: a plan's JSON file, or the only plan of a dataset."""
    from siccs_net.cli.train import find_plan
    from siccs_net.errors import UsageError
    from siccs_net.io import files
    from siccs_net.records.plan import Plan

    if args.preset is not None:
        raise UsageError("--plan-from and --preset contradict each other")
    if args.plan_from.endswith(".json"):
        return files.read_record(Path(args.plan_from), Plan)
    try:
        return find_plan(workspace, workspace.dataset_name(args.plan_from), None)
    except UsageError as error:
        hint = "Name the plan's JSON file"
        raise UsageError(error.message, path=error.path, found=error.found, hint=hint) from error


def with_training(settings: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings with those of an overrides file that a trainer checks too."""
    given = {f"training.{name}": value for name, value in overrides.get("training", {}).items()}
    given |= {"trainer": overrides["trainer"]} if "trainer" in overrides else {}
    return {**given, **settings}


def prepared_folders(plan: Plan, wanted: list[str]) -> list[tuple[str, list[str]]]:
    """Return the names of the folders to prepare with the configurations that share each."""
    chosen = plan.with_stages(wanted or list(plan.configurations))
    names = [name for name in plan.configurations if name in chosen]
    folders: dict[str, list[str]] = {}
    for name in names:
        folders.setdefault(plan.prepared_name(name), []).append(name)
    return list(folders.items())
