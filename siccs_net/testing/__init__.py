"""Synthetic patients with known truth, and the contract that a trainer plug-in must meet.

Nothing but the demo, the doctor and the tests imports this room.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from siccs_net.testing.trainer_contract import check_trainer

__all__ = ["check_trainer"]


def __getattr__(name: str) -> Any:
    if name != "check_trainer":
        raise AttributeError(f"module 'siccs_net.testing' has no attribute {name!r}")
    from siccs_net.testing.trainer_contract import check_trainer

    return check_trainer
