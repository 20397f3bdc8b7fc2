"""Stages that are commands: help, and planning with preprocessing of Dataset501. Peer: nnU-Net's commands."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.compare.data import DATASET501
from benchmarks.compare.harness import ChildRun, Pair, Stage

BIN = Path(sys.executable).parent
PROCESSES = "2"


def run(*command: str, **environment: str) -> ChildRun:
    """Run a command and return its peak memory. Raises RuntimeError with the end of what it printed."""
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env={**os.environ, **environment})
        _, status, used = os.wait4(process.pid, 0)
        output.seek(0)
        said = output.read().decode(errors="replace")
    if status:
        raise RuntimeError(f"{' '.join(command)}: {said[-500:]}")
    return ChildRun(used.ru_maxrss / 1024)


def help_text() -> Pair:
    return Pair(
        lambda: run(str(BIN / "siccs_train"), "--help"),
        lambda: run(str(BIN / "nnUNetv2_train"), "--help", **_folders(Path(tempfile.gettempdir()))),
        lambda *_: "not compared",
    )


def _folders(root: Path) -> dict[str, str]:
    names = {"nnUNet_raw": DATASET501.parent, "nnUNet_preprocessed": root / "pp", "nnUNet_results": root / "results"}
    return {name: str(path) for name, path in names.items()}


def plan_and_preprocess() -> Pair:
    root = Path(tempfile.mkdtemp(prefix="siccs_compare_"))
    common = ("-d", "501", "-c", "2d", "-np", PROCESSES)

    def ours() -> ChildRun:
        shutil.rmtree(root / "ours", ignore_errors=True)
        command = (str(BIN / "siccs_plan_and_preprocess"), *common, "--workspace", str(root / "ours"))
        return run(*command, nnUNet_raw=str(DATASET501.parent))

    def peer() -> ChildRun:
        shutil.rmtree(root / "pp", ignore_errors=True)
        command = (str(BIN / "nnUNetv2_plan_and_preprocess"), *common, "-npfp", PROCESSES)
        return run(*command, **_folders(root))

    def count(*_: Any) -> str:
        own = len(list((root / "ours").glob("preprocessed/*/convnext_2d/*_seg.b2nd")))
        theirs = len(list((root / "pp").glob("*/nnUNetPlans_2d/*_seg.b2nd")))
        return f"{own} and {theirs} cases prepared"

    return Pair(ours, peer, count)


STAGES = (
    Stage("plan_and_preprocess", "nnU-Net", plan_and_preprocess),
    Stage("help", "nnU-Net", help_text),
)
