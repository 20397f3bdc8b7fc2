"""The peer's side, the real nnU-Net: python -m benchmarks.learn.peer prepare|train …, called by benchmarks.learn.

Its own plan, loaders, loss, optimizer and validation. Only the loop is ours: it ends after the given minutes, and the
polynomial schedule follows the time, so that it is complete at the end, as it is after nnU-Net's 1000 epochs.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

FOLD = 0
EXPONENT = 0.9
CURVE_EVERY_S = 15.0


def main(arguments: list[str]) -> int:
    if arguments[0] == "prepare":
        prepare(int(arguments[1]), arguments[2])
    else:
        dataset, configuration, minutes, seed, output = arguments[1:]
        figures = train(dataset, configuration, float(minutes), int(seed))
        Path(output).write_text(json.dumps(figures))
    return 0


def prepare(dataset: int, configuration: str) -> None:
    from nnunetv2.experiment_planning.plan_and_preprocess_api import extract_fingerprints, plan_experiments, preprocess

    extract_fingerprints([dataset], num_processes=2)
    preprocess([dataset], plan_experiments([dataset]), (configuration,), num_processes=(2,))


def train(dataset: str, configuration: str, minutes: float, seed: int) -> dict[str, Any]:
    """Train fold 0 for so long, validate it on whole cases, and return the run's figures."""
    import numpy as np
    import torch
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002 (what nnU-Net draws from)
    folder = Path(os.environ["nnUNet_preprocessed"]) / dataset  # noqa: SIM112
    plans = {**json.loads((folder / "nnUNetPlans.json").read_text()), "continue_training": False}
    description = json.loads((folder / "dataset.json").read_text())
    trainer = nnUNetTrainer(plans, configuration, FOLD, description, torch.device("cpu"))
    trainer.on_train_start()
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    losses, seconds = _loop(trainer, 60 * minutes)
    trainer.save_checkpoint(str(Path(trainer.output_folder) / "checkpoint_final.pth"))
    trainer.perform_actual_validation(save_probabilities=True)
    batch = trainer.configuration_manager.batch_size
    return {
        "seconds": seconds,
        "iterations": len(losses),
        "samples": len(losses) * batch,
        "precision": "float32",
        "step_s": seconds / len(losses),
        "patch": [*trainer.configuration_manager.patch_size, batch],
        "spacing_mm": list(trainer.configuration_manager.spacing),
        "curve": _curve(losses),
    }


def _loop(trainer: Any, budget: float) -> tuple[list[tuple[float, float]], float]:
    """Take steps until the time is over; return (seconds, loss) of each, and the seconds of all."""
    losses: list[tuple[float, float]] = []
    started = time.monotonic()
    trainer.network.train()
    while (elapsed := time.monotonic() - started) < budget:
        for group in trainer.optimizer.param_groups:
            group["lr"] = trainer.initial_lr * (1 - elapsed / budget) ** EXPONENT
        found = trainer.train_step(next(trainer.dataloader_train))
        losses.append((time.monotonic() - started, float(found["loss"])))
    return losses, time.monotonic() - started


def _curve(losses: list[tuple[float, float]]) -> list[list[float]]:
    """Return [minutes, mean loss] of each quarter of a minute."""
    parts: dict[int, list[float]] = {}
    for seconds, loss in losses:
        parts.setdefault(int(seconds // CURVE_EVERY_S), []).append(loss)
    return [
        [(part + 1) * CURVE_EVERY_S / 60, round(sum(found) / len(found), 4)] for part, found in sorted(parts.items())
    ]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
