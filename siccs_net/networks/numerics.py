"""Precision, threads and determinism: chosen by capability, stored in the run, applied for its duration."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
from collections.abc import Iterator

import torch

from siccs_net.errors import EnvironmentProblem, UsageError
from siccs_net.parallel import available_cpus
from siccs_net.records.checkpoint import Numerics

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def choose_device(name: str) -> torch.device:
    """Return the device for `cpu`, `cuda`, `cuda:N`, `mps` or `auto` (cuda, else mps, else cpu).

    Raises EnvironmentProblem when a named device is not there: nothing is used in its place.
    """
    kind = name.partition(":")[0]
    if kind == "auto":
        kind = name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if kind not in ("cpu", "cuda", "mps"):
        raise UsageError(f"no device called {name!r}", expected="cpu, cuda, mps or auto")
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}[kind]
    if not there:
        raise EnvironmentProblem(f"this machine has no {kind} device that torch can use", hint="See siccs_doctor")
    return torch.device(name)


def has_fast_bfloat16(device: torch.device) -> bool:
    """Say whether bfloat16 pays: on a GPU that has it, on a CPU only with AMX tiles (measured: slower without)."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and bool(torch.cpu._is_amx_tile_supported())


def choose_numerics(device: torch.device, precision: str, *, deterministic: bool, compiling: str = "off") -> Numerics:
    """Return the numerics of a run: `auto` precision is bfloat16 where it pays, else float16 on GPUs, else float32.

    `compiling` is off, on or auto (`choose_compiled`).
    """
    if deterministic:
        chosen = "float32"
    elif precision != "auto":
        chosen = precision
    elif has_fast_bfloat16(device):
        chosen = "bfloat16"
    else:
        chosen = "float16" if device.type == "cuda" else "float32"
    return Numerics.model_validate(
        {
            "device": device.type,
            "precision": chosen,
            "threads": available_cpus(),
            "deterministic": deterministic,
            "compiled": choose_compiled(device, compiling, deterministic=deterministic),
        }
    )


def choose_compiled(device: torch.device, wanted: str, *, deterministic: bool) -> bool:
    """Say whether to use torch.compile: `on`, `off`, or `auto`: on CUDA where a compiler exists, unless deterministic.

    Raises EnvironmentProblem when it is `on` without the compiler that it needs.
    """
    missing = missing_compiler(device)
    if wanted == "on" and missing:
        raise EnvironmentProblem("torch.compile cannot work here", found=f"no {missing}", hint="Use --compile off")
    return wanted == "on" or (wanted == "auto" and device.type == "cuda" and not missing and not deterministic)


def missing_compiler(device: torch.device) -> str | None:
    """Return what torch.compile needs for a device and is not there: a C++ compiler, and Triton for CUDA."""
    if device.type == "mps":
        return "backend of torch.compile for mps"
    named = os.environ.get("CXX")
    if not any(shutil.which(name) for name in ([named] if named else ["g++", "clang++", "c++"])):
        return f"C++ compiler {named or 'g++'}"
    if device.type == "cuda" and importlib.util.find_spec("triton") is None:
        return "Triton"
    return None


@contextlib.contextmanager
def compile_problems(numerics: Numerics) -> Iterator[None]:
    """Turn a failure of torch.compile inside into an EnvironmentProblem that says how to go without."""
    try:
        yield
    except RuntimeError as error:
        # By name of the module: importing torch's compiler takes seconds that a run without it can save.
        ours = type(error).__module__.startswith(("torch._dynamo", "torch._inductor"))
        if not (numerics.compiled and ours):
            raise
        detail = str(error).strip().splitlines()
        raise EnvironmentProblem(
            "torch.compile failed", found=detail[0] if detail else type(error).__name__, hint="Use --compile off"
        ) from error


@contextlib.contextmanager
def applied(numerics: Numerics) -> Iterator[None]:
    """Use these threads and kernels inside, and put back what was there."""
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(numerics.threads)
    if numerics.deterministic and numerics.device == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS is deterministic only with it
    if numerics.deterministic != deterministic:  # the call imports torch's compiler, a second that most runs can save
        torch.use_deterministic_algorithms(numerics.deterministic)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        if numerics.deterministic != deterministic:
            torch.use_deterministic_algorithms(deterministic)


def autocast(numerics: Numerics) -> torch.autocast:
    """Return the autocast context of a run (switched off for float32)."""
    dtype = _DTYPES[numerics.precision]
    return torch.autocast(numerics.device, dtype=dtype, enabled=dtype is not torch.float32)


def default_workers(device: torch.device) -> int:
    """Return how many loader processes to use: one on a CPU that trains, up to eight beside a GPU."""
    return 1 if device.type == "cpu" else max(1, min(8, available_cpus() - 1))
