"""siccs_doctor: versions, devices, threads, disk, folders, and a self-test of ten seconds."""

from __future__ import annotations

import argparse
import platform
import shutil
import tempfile
from pathlib import Path
from typing import Any

from siccs_net.cli.options import add_device, new_parser
from siccs_net.cli.process import Run

PACKAGES = (
    "siccs-net",
    "torch",
    "numpy",
    "scipy",
    "scikit-image",
    "nibabel",
    "batchgenerators",
    "acvl-utils",
    "isal",
    "blosc2",
    "safetensors",
    "pydantic",
    "matplotlib",
)


def make_parser() -> argparse.ArgumentParser:
    """Return the command's parser."""
    parser = new_parser(
        "doctor",
        "Say what this machine has for siccs_net, and test it with a tiny training: versions, devices, disk, folders.",
        example="siccs_doctor",
    )
    parser.add_argument("--no-self-test", action="store_true", help="only look, run nothing")
    add_device(parser)
    return parser


def run(run: Run) -> int:
    """Print what was found; exit code 3 when the self-test fails."""
    from siccs_net.networks.numerics import choose_device, choose_numerics

    device = choose_device(run.args.device)
    numerics = choose_numerics(device, "auto", deterministic=False)
    facts = {**_versions(), **_machine(), **_folders(run)}
    facts |= {"device": f"{device} in {numerics.precision}, {numerics.threads} threads"}
    for name, value in facts.items():
        run.say(f"{name:<18} {value}")
    run.results |= facts
    if run.args.no_self_test:
        return 0
    seconds = self_test(device.type)
    run.say(f"{'self-test':<18} passed in {seconds:.1f} s: write, compress, plan, train two steps, predict, measure")
    return 0


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    return {"Python": platform.python_version(), **{name: version(name) for name in PACKAGES}}


def _machine() -> dict[str, str]:
    import torch

    from siccs_net.networks.numerics import has_fast_bfloat16
    from siccs_net.parallel import available_cpus

    gpus = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    listed = ", ".join(f"{gpu.name} ({gpu.total_memory / 2**30:.0f} GiB)" for gpu in gpus)
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "processor cores": f"{available_cpus()} usable",
        "memory": _memory(),
        "bfloat16 on CPU": "fast (AMX)" if has_fast_bfloat16(torch.device("cpu")) else "slow here, float32 is used",
        "GPUs": listed or ("Apple MPS" if torch.backends.mps.is_available() else "none"),
        "CUDA": str(torch.version.cuda or "not in this build of torch"),
    }


def _memory() -> str:
    path = Path("/proc/meminfo")
    if not path.is_file():
        return "not known on this system"
    values = dict(line.split(":") for line in path.read_text().splitlines() if ":" in line)
    total, free = (int(values[name].split()[0]) / 2**20 for name in ("MemTotal", "MemAvailable"))
    return f"{total:.0f} GiB, {free:.0f} GiB available"


def _folders(run: Run) -> dict[str, str]:
    from siccs_net.workspace import Workspace

    workspace = Workspace.resolve(run.args.workspace)
    root = workspace.results.parent
    there: Any = next(folder for folder in (root, *root.absolute().parents) if folder.exists())
    free = shutil.disk_usage(there).free / 2**30
    return {"workspace": workspace.describe().partition(": ")[2], "disk free there": f"{free:.0f} GiB"}


def self_test(device: str) -> float:
    """Run the whole way on two tiny made-up scans; return the seconds. Raises whatever fails."""
    import time

    import numpy as np

    from siccs_net.inference.load_model import load_model
    from siccs_net.io.dataset import open_dataset
    from siccs_net.io.image import Image
    from siccs_net.pipeline.plan import plan
    from siccs_net.pipeline.preprocess import preprocess
    from siccs_net.pipeline.train import train
    from siccs_net.testing.tiny import write_tiny_dataset
    from siccs_net.workspace import Workspace

    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="siccs_doctor_") as folder:
        workspace = Workspace.resolve(folder)
        raw = workspace.raw[0] / "Dataset999_Tiny"
        write_tiny_dataset(raw, cases=4)
        dataset = open_dataset(raw)
        made = plan(dataset, preset="demo", folds=2, workspace=workspace)
        preprocess(dataset, made, "3d_fullres", workspace=workspace)
        settings = {"epochs": 1, "iterations_per_epoch": 2, "workers": 0, "validation_patches": 1}
        train(dataset, made, "3d_fullres", 0, settings=settings, device=device, workspace=workspace)
        model = load_model(workspace.model_folder(raw.name, made.trainer, made.name, "3d_fullres").root, device=device)
        scan = Image.from_array(np.zeros((16, 32, 32), np.int16), spacing_mm=(5.0, 4.0, 4.0))
        model.predict(scan)
    return time.monotonic() - started
