"""The paper's network at its full size on this machine: python -m benchmarks.full_size OUT [--set NAME=VALUE …].

Makes two phantoms, plans and prepares them with the preset `vahdani2026` (320 x 320 x 40 voxels), and takes three
training steps on one of them through `siccs_train` with activation checkpointing. Prints the loss of each step, the
seconds, and the peak memory of the training process; fails unless the loss falls and the peak is below 20 GiB.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

from siccs_net.testing.phantom import make_patient, write_dataset

DATASET = "Dataset041_FullSize"
LIMIT_GIB = 20.0
SETTINGS = ("epochs=3", "iterations_per_epoch=1", "checkpointing=true", "validate_every=3", "validation_patches=1")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("--set", nargs="*", default=[], help="further training settings")
    args = parser.parse_args()
    workspace = args.output / "workspace"
    raw = workspace / "raw" / DATASET
    if not (raw / "dataset.json").is_file():
        write_dataset(raw, (make_patient(index, in_plane_size=320) for index in range(2)), name=DATASET)
    plan = ["-d", DATASET, "--preset", "vahdani2026", "--folds", "2"]
    _run("plan_and_preprocess", *plan, "--workspace", str(workspace))
    training = [DATASET, "3d_fullres", "0", "--overwrite", "--set", *SETTINGS, *args.set]
    peak = _run("train", *training, "--workspace", str(workspace))
    (log,) = (workspace / "results" / DATASET).glob("*/fold_0/log.jsonl")
    return _judge([json.loads(line) for line in log.read_text().splitlines()], peak)


def _run(verb: str, *arguments: str) -> float:
    """Run a command and return its peak resident memory in GiB."""
    process = subprocess.Popen([Path(sys.executable).parent / f"siccs_{verb}", *arguments])
    _, status, used = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"siccs_{verb} failed")
    return used.ru_maxrss / 2**20


def _judge(steps: list[dict], peak: float) -> int:
    for number, step in enumerate(steps, 1):
        print(f"step {number}: loss {step['loss']:.5f}, {step['seconds']:.0f} s")
    falls = steps[-1]["loss"] < steps[0]["loss"]
    print(f"peak {peak:.2f} GiB (limit {LIMIT_GIB:g}); the loss {'falls' if falls else 'does not fall'}")
    return 0 if falls and peak <= LIMIT_GIB else 1


if __name__ == "__main__":
    sys.exit(main())
