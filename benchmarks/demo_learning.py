"""How fast the demo's plan learns with other settings: python -m benchmarks.demo_learning [DEMO_FOLDER].

Trains fold 0 of an existing demo (made by `siccs_demo -o DEMO_FOLDER`) with each variant for the same number of
steps and prints seconds and native validation Dice. One seed each.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from siccs_net.cli.demo import CONFIGURATION, DATASET
from siccs_net.io import files
from siccs_net.io.dataset import open_dataset
from siccs_net.pipeline.train import train
from siccs_net.records.plan import Plan
from siccs_net.workspace import Workspace

STEPS = {"epochs": 4, "iterations_per_epoch": 28, "validate_every": 4, "validation_patches": 6}
VARIANTS = {
    "sigma 0.02, rate 2e-3": ({"initialisation": "truncated_normal"}, {"learning_rate": 2e-3}),
    "sigma 0.02, rate 6e-3": ({"initialisation": "truncated_normal"}, {"learning_rate": 6e-3}),
    "fan-in, rate 2e-3": ({}, {"learning_rate": 2e-3}),
    "fan-in, rate 6e-3": ({}, {"learning_rate": 6e-3}),
    "fan-in, rate 1e-2": ({}, {"learning_rate": 1e-2}),
}


def main(demo: Path) -> None:
    """Run every variant."""
    whole = Workspace.resolve(demo / "workspace")
    dataset = open_dataset(whole.raw[0] / DATASET)
    plan = files.read_record(whole.prepared_dataset(DATASET).plan("demo"), Plan)
    for name, (network, settings) in VARIANTS.items():
        configuration = plan.configurations[CONFIGURATION]
        changed = configuration.model_copy(update={"network": configuration.network.model_copy(update=network)})
        with tempfile.TemporaryDirectory() as results:
            place = Workspace(whole.raw, whole.preprocessed, Path(results), "benchmark")
            variant = plan.model_copy(update={"configurations": {CONFIGURATION: changed}})
            started = time.monotonic()
            (result,) = train(
                dataset, variant, CONFIGURATION, 0, settings={**STEPS, **settings}, device="cpu", workspace=place
            )
            seconds = time.monotonic() - started
        if result.validation is None:
            raise SystemExit("fold 0 has no validation")
        dice = {result.validation.names[key]: item.Dice for key, item in result.validation.mean.items()}
        print(f"{name:<24} {seconds:6.1f} s  " + "  ".join(f"{key} {value or 0:.3f}" for key, value in dice.items()))


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "siccs_demo"))
