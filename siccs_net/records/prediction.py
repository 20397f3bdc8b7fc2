"""CASE.json beside a predicted mask: what it was made from, so that it need not be made twice."""

from __future__ import annotations

from typing import ClassVar

from siccs_net.records.base import Record


class PredictionRecord(Record):
    """Hashes of a prediction's input, model and output, the folds of the ensemble and the volumes found.

    `spacing` (z, y, x; mm) stands beside masks in TIFF, where readers of such stacks look for it.
    """

    SCHEMA: ClassVar[str] = "siccs_net.prediction"

    case: str
    input_sha256: tuple[str, ...]
    model_sha256: str
    output_sha256: str
    folds: tuple[str, ...]
    volumes_ml: dict[str, float]
    spacing: tuple[float, float, float] | None = None
