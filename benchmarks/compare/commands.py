"""Stages that are commands: help, and planning with preprocessing of Dataset501. Peer: nnU-Net's commands.

Memory is that of all processes of the command together.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.compare.agreement import Agreement
from benchmarks.compare.data import DATASET501
from benchmarks.compare.harness import Run, Stage

BIN = Path(sys.executable).parent
PROCESSES = "2"


def call(*command: str, **environment: str) -> None:
    """Run a command. Raises RuntimeError with the end of what it printed."""
    done = subprocess.run(
        command, env={**os.environ, **environment}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stdout.decode(errors='replace')[-500:]}")


def _folders(root: Path) -> dict[str, str]:
    names = {"nnUNet_raw": DATASET501.parent, "nnUNet_preprocessed": root / "pp", "nnUNet_results": root / "results"}
    return {name: str(path) for name, path in names.items()}


def our_help(folder: Path) -> Run:
    return lambda: call(str(BIN / "siccs_train"), "--help")


def their_help(folder: Path) -> Run:
    return lambda: call(str(BIN / "nnUNetv2_train"), "--help", **_folders(folder))


def _not_compared(ours: None, peer: None) -> Agreement:
    return Agreement("two texts, not compared")


def our_planning(folder: Path) -> Run:
    workspace = folder / "ours"
    command = (str(BIN / "siccs_plan_and_preprocess"), "-d", "501", "-c", "2d", "-np", PROCESSES)

    def run() -> int:
        shutil.rmtree(workspace, ignore_errors=True)
        call(*command, "--workspace", str(workspace), nnUNet_raw=str(DATASET501.parent))
        return len(list(workspace.glob("preprocessed/*/convnext_2d/*_seg.b2nd")))

    return run


def their_planning(folder: Path) -> Run:
    prepared = folder / "pp"
    command = (str(BIN / "nnUNetv2_plan_and_preprocess"), "-d", "501", "-c", "2d")

    def run() -> int:
        shutil.rmtree(prepared, ignore_errors=True)
        call(*command, "-np", PROCESSES, "-npfp", PROCESSES, **_folders(folder))
        return len(list(prepared.glob("*/nnUNetPlans_2d/*_seg.b2nd")))

    return run


def _same_count(own: int, theirs: int) -> Agreement:
    return Agreement(f"{own} and {theirs} cases prepared", own == theirs > 0)


STAGES = (
    Stage("plan_and_preprocess", "nnU-Net", our_planning, their_planning, _same_count),
    Stage("help", "nnU-Net", our_help, their_help, _not_compared),
)
