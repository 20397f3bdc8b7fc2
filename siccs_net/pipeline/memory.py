"""Whether the memory has room for one more scan beside the one at work."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from siccs_net.io.memory import free_bytes

_BYTES_A_STORED_BYTE = 12
"""Least memory of a stored byte while its scan is prepared: inflated 3 to 4 times, then as float32 and a copy."""
_COPIES = 3
"""How often a scan's voxels lie in memory while it is prepared."""
_SHARE = 0.5
"""A scan is read ahead only where it takes less than this share of what is free: the one at work needs the rest."""


def has_room(following: Iterable[Path], current: Iterable[Path], held_bytes: int) -> bool:
    """Say whether the files of a following scan may be read while the current one, `held_bytes` large, is at work."""
    free = free_bytes()
    if free is None:
        return False
    stored, own = _stored(following), max(_stored(current), 1)
    expected = stored * max(_BYTES_A_STORED_BYTE, _COPIES * held_bytes / own)
    return expected < free * _SHARE


def _stored(paths: Iterable[Path]) -> int:
    return sum(path.stat().st_size for path in paths if path.is_file())
