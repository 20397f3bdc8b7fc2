"""How fast the demo's plan learns with other settings: python -m benchmarks.demo_learning [DEMO_FOLDER].

Trains fold 0 of an existing demo (made by `siccs_demo -o DEMO_FOLDER`) with each variant for the same number of
steps and prints native validation Dice for each seed.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from siccs_net.cli.demo import CONFIGURATION, DATASET
from siccs_net.io import files
from siccs_net.io.dataset import Dataset, open_dataset
from siccs_net.pipeline.train import train
from siccs_net.records.plan import Plan
from siccs_net.workspace import Workspace

STEPS = {"epochs": 4, "iterations_per_epoch": 28, "validate_every": 4, "validation_patches": 6}
SEEDS = (0, 1, 2)
VARIANTS = {
    f"{name}, rate {rate:g}": ({"initialisation": kind}, {"learning_rate": rate})
    for kind, name in (("truncated_normal", "sigma 0.02"), ("fan_in", "fan-in"))
    for rate in (2e-3, 6e-3, 1e-2)
}


def main(demo: Path) -> None:
    """Run every variant."""
    whole = Workspace.resolve(demo / "workspace")
    dataset = open_dataset(whole.raw[0] / DATASET)
    plan = files.read_record(whole.prepared_dataset(DATASET).plan("demo"), Plan)
    for name, (network, settings) in VARIANTS.items():
        configuration = plan.configurations[CONFIGURATION]
        changed = configuration.model_copy(update={"network": configuration.network.model_copy(update=network)})
        variant = plan.model_copy(update={"configurations": {CONFIGURATION: changed}})
        started = time.monotonic()
        found = [_dice(dataset, variant, {**STEPS, **settings, "seed": seed}, whole) for seed in SEEDS]
        seconds = (time.monotonic() - started) / len(SEEDS)
        listed = "  ".join(f"{key} {' '.join(f'{dice[key]:.3f}' for dice in found)}" for key in ("lung", "EF+GGO"))
        print(f"{name:<24} {seconds:5.1f} s a run  {listed}", flush=True)


def _dice(dataset: Dataset, plan: Plan, settings: dict[str, Any], whole: Workspace) -> dict[str, float]:
    """Train fold 0 and return its native validation Dice by class."""
    with tempfile.TemporaryDirectory() as results:
        place = Workspace(whole.raw, whole.preprocessed, Path(results), "benchmark")
        (result,) = train(dataset, plan, CONFIGURATION, 0, settings=settings, device="cpu", workspace=place)
    if result.validation is None:
        raise SystemExit("fold 0 has no validation")
    return {result.validation.names[key]: item.Dice or 0.0 for key, item in result.validation.mean.items()}


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "siccs_demo"))
