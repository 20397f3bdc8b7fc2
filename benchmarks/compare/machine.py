"""What was measured on: processor, cores, memory, versions; nothing that names the machine."""

from __future__ import annotations

import platform
from importlib import metadata
from pathlib import Path

PACKAGES = ("torch", "numpy", "nnunetv2", "monai", "scikit-image", "SimpleITK")
_WORTH_NAMING = {"avx2": "AVX2", "avx512f": "AVX-512", "amx_bf16": "AMX bfloat16"}


def describe_machine() -> dict[str, str]:
    """Return what a reader of the figures needs to know of the machine and the versions."""
    from siccs_net.parallel import available_cpus

    processor = _first("/proc/cpuinfo", "model name")
    flags = _first("/proc/cpuinfo", "flags").split()
    memory_gib = int(_first("/proc/meminfo", "MemTotal").split()[0]) / 2**20
    return {
        "processor": processor,
        "instructions": ", ".join(name for flag, name in _WORTH_NAMING.items() if flag in flags),
        "cores": str(available_cpus()),
        "memory": f"{memory_gib:.0f} GiB",
        "Python": platform.python_version(),
        **{name: _version(name) for name in PACKAGES},
    }


def _first(path: str, key: str) -> str:
    for line in Path(path).read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip()
    return ""


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
