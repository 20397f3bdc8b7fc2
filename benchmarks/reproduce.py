"""The whole reproduction of docs/reproduce.md on synthetic patients: python -m benchmarks.reproduce OUT [--epochs 12].

Makes 40 phantoms of SICCS's composition (EF about 8 %, GGO about 11 % of lung, slices of 0.7 to 5 mm), then runs the
commands as a user would, with a small input shape and small widths: plan and preprocess the paper's preset, train 8
folds of 35 and 5, report. Prints the seconds of each command, and whether the correlation of the reference volume with
lung function recovers the population's known value inside its interval. Beyond 40 patients or another --seed the
cohort is another one.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

from siccs_net.testing.phantom import (
    POPULATION_RHO_FEV1_FVC,
    POPULATION_RHO_FEV1_PP,
    make_patient,
    write_dataset,
)

DATASET = "Dataset040_Phantoms"
KNOWN = {"fev1_fvc": POPULATION_RHO_FEV1_FVC, "fev1_pp": POPULATION_RHO_FEV1_PP}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("--patients", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--shape", default="[24,64,64]", help="input shape in place of 40, 320, 320")
    parser.add_argument("--widths", default="[8,16,32,64]", help="in place of 32, 64, 128, 256")
    parser.add_argument("--set", nargs="*", default=[], help="further settings of the plan")
    args = parser.parse_args()
    workspace = args.output / "workspace"
    _make_patients(workspace / "raw" / DATASET, args.patients, args.seed)
    plan = [f"patch_size={args.shape}", f"network.widths={args.widths}", f"training.epochs={args.epochs}"]
    plan += ["training.validate_every=4", "training.validation_patches=5", *args.set]
    _command("validate", DATASET, workspace=workspace)
    _command("plan_and_preprocess", "-d", DATASET, "--preset", "vahdani2026", "--set", *plan, workspace=workspace)
    _command("train", DATASET, "3d_fullres", "all", "--resume", workspace=workspace)
    pft = workspace / "raw" / DATASET / "pft.csv"
    report = args.output / "report"
    _command("report", DATASET, "--pft", str(pft), "-o", str(report), workspace=workspace)
    return _check(json.loads((report / "report.json").read_text()))


def _make_patients(folder: Path, count: int, seed: int) -> None:
    if (folder / "dataset.json").is_file():
        return
    started = time.monotonic()
    write_dataset(folder, (make_patient(index, seed=seed) for index in range(count)), name=DATASET)
    print(f"{count} phantoms: {time.monotonic() - started:.0f} s", flush=True)


def _command(verb: str, *arguments: str, workspace: Path) -> None:
    started = time.monotonic()
    command = [Path(sys.executable).parent / f"siccs_{verb}", *arguments, "--workspace", str(workspace)]
    print("$", Path(command[0]).name, *command[1:], flush=True)
    subprocess.run(command, check=True)
    print(f"# {verb}: {time.monotonic() - started:.0f} s", flush=True)


def _check(report: dict) -> int:
    sizes = sorted({len([case for case in report["cases"] if case["fold"] == fold]) for fold in range(report["folds"])})
    print(f"{len(report['cases'])} cases, {report['folds']} folds with {sizes} validation cases")
    missed = 0
    for row in report["table2"]:
        if row["metric"] in KNOWN:
            found, known = row["reference"], KNOWN[row["metric"]]
            inside = found["low"] <= known <= found["high"]
            missed += not inside
            interval = f"[{found['low']:.3f}, {found['high']:.3f}]"
            print(f"{row['metric']}: reference rho {found['rho']:.3f} {interval}, known {known}, inside: {inside}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
