"""nnU-Net's names of weights as ours. Its networks list some weights twice; those listings are left out."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from siccs_net.errors import ModelError
from siccs_net.interop.nnunet_checkpoint import StoredTensor

_WRAPPERS = re.compile(r"^(module\.|_orig_mod\.)+")
"""What data parallelism and torch.compile put before every name."""
_REPEATED = re.compile(r"(^decoder\.encoder\.|\.all_modules\.)")
_UNIT = r"(?P<part>conv|norm)\.(?P<leaf>weight|bias)"
_PATTERNS = (
    (rf"encoder\.stem\.convs\.0\.{_UNIT}", "stem.{part}.{leaf}"),
    (rf"encoder\.stages\.(?P<stage>\d+)\.0\.convs\.(?P<n>\d+)\.{_UNIT}", "encoder.{stage}.{n}.{part}.{leaf}"),
    (
        rf"encoder\.stages\.(?P<stage>\d+)\.blocks\.(?P<n>\d+)\.conv1\.{_UNIT}",
        "encoder.{stage}.{n}.first.{part}.{leaf}",
    ),
    (
        rf"encoder\.stages\.(?P<stage>\d+)\.blocks\.(?P<n>\d+)\.conv2\.{_UNIT}",
        "encoder.{stage}.{n}.second.{part}.{leaf}",
    ),
    (
        rf"encoder\.stages\.(?P<stage>\d+)\.blocks\.(?P<n>\d+)\.skip\.(?P<m>\d+)\.{_UNIT}",
        "encoder.{stage}.{n}.skip.{m}.{part}.{leaf}",
    ),
    (rf"decoder\.stages\.(?P<up>\d+)\.convs\.(?P<n>\d+)\.{_UNIT}", "decoder.levels.{level}.{n}.{part}.{leaf}"),
    (r"decoder\.transpconvs\.(?P<up>\d+)\.(?P<leaf>weight|bias)", "decoder.up.{level}.{leaf}"),
    (r"decoder\.seg_layers\.(?P<up>\d+)\.(?P<leaf>weight|bias)", "decoder.heads.{level}.{leaf}"),
)
_COMPILED = tuple((re.compile(pattern), ours) for pattern, ours in _PATTERNS)


def our_names(theirs: Iterable[str], levels: int) -> dict[str, str]:
    """Return our name of each weight by nnU-Net's; its decoder counts from the coarsest level, ours from the finest.

    Raises ModelError for a name that no plain or residual U-Net has.
    """
    found: dict[str, str] = {}
    for name in theirs:
        plain = _WRAPPERS.sub("", name)
        if _REPEATED.search(plain):
            continue
        ours = _our_name(plain, levels)
        if ours is None:
            raise ModelError("the checkpoint holds a weight that no network of nnU-Net's own has", found=name)
        found[name] = ours
    return found


def _our_name(name: str, levels: int) -> str | None:
    for pattern, ours in _COMPILED:
        if match := pattern.fullmatch(name):
            parts = match.groupdict()
            return ours.format(**parts, level=levels - 2 - int(parts.get("up") or 0))
    return None


def stored_weights(checkpoint: Mapping[str, Any], levels: int, path: Path) -> dict[str, StoredTensor]:
    """Return the network's weights of a checkpoint by our names, still on disk. Raises ModelError."""
    weights = checkpoint.get("network_weights")
    if not isinstance(weights, dict) or not all(isinstance(value, StoredTensor) for value in weights.values()):
        raise ModelError("holds no network weights", path=path, expected="a checkpoint that nnU-Net v2 wrote")
    names = our_names(map(str, weights), levels)
    return {ours: weights[theirs] for theirs, ours in names.items()}
