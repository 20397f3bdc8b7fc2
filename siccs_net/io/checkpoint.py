"""Tensors in and out as safetensors, written atomically and checked against their record's SHA-256."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from siccs_net.errors import ModelError
from siccs_net.io import files

if TYPE_CHECKING:
    from torch import Tensor


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> str:
    """Write named tensors atomically; return the SHA-256 of the file. Equal tensors give equal bytes."""
    from safetensors.torch import save

    ordered = {name: tensors[name].detach().cpu().contiguous() for name in sorted(tensors)}
    return files.write_bytes(path, save(ordered))


def write_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> str:
    """Write named arrays as `write_tensors` writes tensors, without torch; return the SHA-256 of the file."""
    from safetensors.numpy import save

    ordered = {name: np.ascontiguousarray(arrays[name]) for name in sorted(arrays)}
    return files.write_bytes(path, save(ordered))


def read_tensors(path: Path, expected_sha256: str | None = None) -> dict[str, Tensor]:
    """Read named tensors onto the CPU. Executes nothing.

    Raises MissingPathError; ModelError when the bytes are not those of the record, or not safetensors.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    data = files.read_bytes(path)
    if expected_sha256 is not None and files.sha256(data) != expected_sha256:
        raise ModelError("is damaged: its SHA-256 is not its record's", path=path, hint="Copy or train it again")
    try:
        return load(data)
    except (SafetensorError, ValueError, KeyError) as error:
        raise ModelError("is not a safetensors file", path=path, found=str(error)) from error
