"""Do imported nnU-Net models predict what nnU-Net predicts? python -m benchmarks.nnunet_parity OUT --nnunet PYTHON

PYTHON is the interpreter of an environment with nnunetv2==2.8.1 (`pip install nnunetv2==2.8.1`). The real program
trains Dataset501_CovidSlices2D (../shared/data) in 2d, and phantoms in 3d_fullres with two folds and the residual
network, for some iterations with a small patch; its models are imported here, and both predict the same scans, among
them the middle of a phantom stored in another voxel order and of one with thick slices. Prints, and writes to
OUT/parity.json:

- the share of voxels that agree in the union of foreground, with the real program's half-precision accumulators and
  Gaussian map set to float32 (target: 99.99 %);
- against the untouched program, the voxels that differ, and how many have a margin between the two largest logits that
  the program's own half-precision error there does not explain (target: none);
- seconds and peak memory of both, each in a process of its own, on the same scans.

OUT is kept: a second run trains nothing. `--golden` instead remakes the two files of tests/golden/test_nnunet_model.py.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import nibabel as nib
import numpy as np

if TYPE_CHECKING:
    from siccs_net.testing.phantom import PhantomPatient

HERE = Path(__file__).resolve().parent
SHARED = HERE.parents[1] / "shared" / "data" / "Dataset501_CovidSlices2D"
RUNS = {
    "2d": ("Dataset501_CovidSlices2D", "ExperimentPlanner", "nnUNetPlans", ("0",)),
    "3d_fullres": ("Dataset601_Phantom", "nnUNetPlannerResEncM", "nnUNetResEncUNetMPlans", ("0", "1")),
}
PHANTOM_THICKNESS_MM = (5.0, 4.0, 5.0, 6.0, 5.0)
AGREEMENT = 0.9999
GOLDEN_SCANS = {
    20: [[-4.0, 0, 0, 0], [0, -4.0, 0, 0], [0, 0, 5.0, 0], [0, 0, 0, 1]],
    21: [[0, 0, 11.0, 3], [2.0, 0, 0, 4], [0, -3.0, 0, 5], [0, 0, 0, 1]],
}
"""Seeds of tiny cases and the affines that their arrays get as they are; the second has thick slices."""


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("--nnunet", type=Path, required=True, help="Python of an environment with nnunetv2==2.8.1")
    parser.add_argument("-c", "--configurations", nargs="+", default=[*RUNS], choices=[*RUNS])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--golden", action="store_true", help="write tests/golden/nnunet_model.zip and .npz")
    args = parser.parse_args()
    if args.golden:
        return write_golden(args)
    report = {name: measure(name, args) for name in args.configurations}
    (args.output / "parity.json").write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report, indent=1))
    passed = all(run["agreement_float32"] >= AGREEMENT and run["unexplained"] == 0 for run in report.values())
    return 0 if passed else 1


def measure(configuration: str, args: argparse.Namespace) -> dict:
    """Train, import and predict one configuration with both programs; return the figures."""
    dataset, planner, plans, folds = RUNS[configuration]
    raw = args.output / "nnUNet_raw" / dataset
    write_data(raw)
    model = args.output / "nnUNet_results" / dataset / f"nnUNetTrainer__{plans}__{configuration}"
    if not all((model / f"fold_{fold}" / "checkpoint_final.pth").is_file() for fold in folds):
        program(args, "train", str(int(dataset[7:10])), configuration, planner, *folds)
    work = args.output / configuration
    shutil.rmtree(work, ignore_errors=True)
    write_scans(raw, work / "scans")
    ours(args, "import_model", str(model), "-o", str(work / "model"))
    scans, figures = str(work / "scans"), {}
    figures["siccs"] = ours(args, "predict", "-i", scans, "-o", str(work / "siccs"), "-m", str(work / "model"))
    figures["nnunet"] = program(args, "predict", str(model), scans, str(work / "nnunet"))
    program(args, "predict", str(model), scans, str(work / "nnunet32"), "--float32")
    program(args, "predict", str(model), scans, str(work / "logits16"), "--logits")
    program(args, "predict", str(model), scans, str(work / "logits32"), "--logits", "--float32")
    return {**figures, **compare(work)}


def write_golden(args: argparse.Namespace) -> int:
    """A model of a few kilobytes that the real program trained, and its logits and masks of two scans."""
    from siccs_net.geometry import Orientation
    from siccs_net.io.image import write_image
    from siccs_net.testing.tiny import make_tiny_case, write_tiny_dataset

    dataset, golden = "Dataset602_Tiny", HERE.parent / "tests" / "golden" / "nnunet_model"
    raw = args.output / "nnUNet_raw" / dataset
    if not (raw / "dataset.json").is_file():
        write_tiny_dataset(raw, cases=6)
    model = args.output / "nnUNet_results" / dataset / "nnUNetTrainer__nnUNetPlans__3d_fullres"
    if not (model / "fold_all" / "checkpoint_final.pth").is_file():
        program(args, "train", "602", "3d_fullres", "ExperimentPlanner", "all", "--tiny")
    with zipfile.ZipFile(golden.with_suffix(".zip"), "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("plans.json", "dataset.json", "fold_all/checkpoint_final.pth"):
            archive.write(model / name, f"{dataset}/{model.name}/{name}")
    work = args.output / "golden"
    shutil.rmtree(work, ignore_errors=True)
    for seed, affine in GOLDEN_SCANS.items():
        image, _ = make_tiny_case(seed)
        z, y, x = image.shape
        orientation = Orientation.of((x, y, z), np.array(affine))
        stored = orientation.to_canonical(image.transpose(2, 1, 0))
        write_image(work / "scans" / f"scan{seed}_0000.nii.gz", stored, orientation)
    program(args, "predict", str(model), str(work / "scans"), str(work / "masks"), "--float32")
    program(args, "predict", str(model), str(work / "scans"), str(work / "logits"), "--logits", "--float32")
    found = {f"mask{seed}": _stored(work / "masks" / f"scan{seed}.nii.gz").astype(np.uint8) for seed in GOLDEN_SCANS}
    logits = {f"logits{seed}": np.load(work / "logits" / f"scan{seed}.npy") for seed in GOLDEN_SCANS}
    part = {name: values[:, ::3, ::3, ::3].astype(np.float32) for name, values in logits.items()}
    np.savez_compressed(golden.with_suffix(".npz"), **found, **part)
    print({name: np.bincount(mask.ravel()).tolist() for name, mask in found.items()})
    return 0


def write_data(raw: Path) -> None:
    """The raw dataset, once: a copy of the real slices, or phantoms."""
    if (raw / "dataset.json").is_file():
        return
    if raw.name.startswith("Dataset501"):
        shutil.copytree(SHARED, raw)
        return
    from siccs_net.testing.phantom import make_patient, write_dataset

    thickness = enumerate(PHANTOM_THICKNESS_MM)
    patients = (make_patient(index, in_plane_size=80, slice_thickness_mm=size) for index, size in thickness)
    write_dataset(raw, patients, name="Phantom")


def write_scans(raw: Path, folder: Path) -> None:
    """What both predict: some of the real slices; or new phantoms, one stored in another order, one of thick slices."""
    folder.mkdir(parents=True)
    if raw.name.startswith("Dataset501"):
        for path in sorted((raw / "imagesTr").glob("*.nii.gz"))[:6]:
            shutil.copy(path, folder)
        return
    from siccs_net.testing.phantom import affine_of, make_patient

    plain = make_patient(7, in_plane_size=80, slice_thickness_mm=5.0)
    thick = make_patient(8, in_plane_size=128, slice_thickness_mm=10.0)
    for name, patient, turned in (("turned", plain, True), ("thick", thick, False)):
        part = patient.image[_middle(patient, 0, 0.45), _middle(patient, 1, 0.55), _middle(patient, 2, 0.55)]
        image = nib.Nifti1Image(np.ascontiguousarray(part.transpose(2, 1, 0)), affine_of(patient))
        image.set_qform(image.affine, code=1)
        if turned:
            wanted = nib.orientations.axcodes2ornt(("S", "R", "P"))
            image = image.as_reoriented(nib.orientations.ornt_transform(nib.io_orientation(image.affine), wanted))
        nib.save(image, folder / f"{name}_0000.nii.gz")


def _middle(patient: PhantomPatient, axis: int, share: float) -> slice:
    size = patient.image.shape[axis]
    return slice(round(size * (1 - share) / 2), round(size * (1 + share) / 2))


def compare(work: Path) -> dict:
    """Agreement of the masks, and whether the program's half precision explains what differs."""
    same = union = differing = unexplained = 0
    largest_margin = 0.0
    for path in sorted((work / "siccs").glob("*.nii.gz")):
        mine, untouched, exact = (_stored(work / name / path.name) for name in ("siccs", "nnunet", "nnunet32"))
        foreground = (mine > 0) | (exact > 0)
        union += int(foreground.sum())
        same += int((mine == exact)[foreground].sum())
        half, full = (np.load(work / name / f"{path.name[:-7]}.npy") for name in ("logits16", "logits32"))
        off = mine != untouched
        margins, errors = _margins(full[:, off], half[:, off])
        differing += int(off.sum())
        unexplained += int((margins > errors).sum())
        largest_margin = max(largest_margin, float(margins.max(initial=0)))
    return {
        "foreground_voxels": union,
        "agreement_float32": same / union if union else 0.0,
        "differing_from_untouched": differing,
        "largest_margin_of_these": largest_margin,
        "unexplained": unexplained,
    }


def _margins(full: np.ndarray, half: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of voxels [classes, n]: the margin of the two largest exact logits, and twice the largest half-precision error.

    1e-4 is added for float32 sums that run in another order.
    """
    ordered = np.sort(full, axis=0)
    return ordered[-1] - ordered[-2], 2 * np.abs(full - half).max(axis=0, initial=0) + 1e-4


def _stored(path: Path) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj).transpose(2, 1, 0)


def program(args: argparse.Namespace, *arguments: str) -> dict:
    """Run the real nnU-Net; return its own figures."""
    folders = {name: str((args.output / name).resolve()) for name in ("nnUNet_raw", "nnUNet_results")}
    folders["nnUNet_preprocessed"] = str((args.output / "nnUNet_preprocessed").resolve())
    settings = {"nnUNet_n_proc_DA": "2", "nnUNet_def_n_proc": "2", "nnUNet_compile": "f"}
    command = [str(args.nnunet), str(HERE / "nnunet_program.py"), *arguments]
    return _run(command, {**folders, **settings, "OMP_NUM_THREADS": str(args.threads)})


def ours(args: argparse.Namespace, verb: str, *arguments: str) -> dict:
    """Run one of our commands."""
    code = f"from siccs_net.cli.main import {verb}; {verb}()"
    return _run([sys.executable, "-c", code, *arguments], {"OMP_NUM_THREADS": str(args.threads)})


def _run(command: list[str], environment: dict[str, str]) -> dict:
    """Run a process to its end; return its seconds and peak memory, start of Python and torch included."""
    started = time.monotonic()
    process = subprocess.Popen(
        command, env={**os.environ, **environment}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    text = process.stdout.read() if process.stdout else ""
    _, status, used = os.wait4(process.pid, 0)
    if status:
        tail = re.sub(r"[^\n]*\r", "", text)[-3000:]
        raise SystemExit(f"failed: {' '.join(command)}\n{tail}")
    return {"seconds": round(time.monotonic() - started, 1), "peak_mib": round(used.ru_maxrss / 1024)}


if __name__ == "__main__":
    sys.exit(main())
