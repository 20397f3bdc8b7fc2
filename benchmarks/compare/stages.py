"""All stages, in the order in which they are run and listed."""

from __future__ import annotations

from benchmarks.compare import commands, networks, prediction, preprocessing, training_input, volumes
from benchmarks.compare.harness import Stage

ROOMS = (volumes, preprocessing, prediction, networks, training_input, commands)
"""Modules with STAGES; a new one is added here."""
STAGES: dict[str, Stage] = {stage.name: stage for room in ROOMS for stage in room.STAGES}
