"""What stands beside a predicted mask and beside saved probabilities: what they were made from, and their hashes."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from siccs_net.records.base import Record
from siccs_net.records.postprocessing import PostStep

Skipped = Literal[
    "outside the lungs",
    "nothing",
    "nothing: no lungs found",
    "nothing: few tiles lie outside the lungs",
    "nothing: foreground at the face of the lungs' box",
]


class Tiles(Record):
    """How many tiles of the grid were run, and what was skipped.

    Nothing is skipped where the plan does not say so (or `--no-skip`), where no pair of lungs is found, where nearly
    every tile touches their box, and where foreground reaches a face of the box, which might cut it.
    """

    run: int
    total: int
    skipped: Skipped


class PredictionRecord(Record):
    """CASE.json: hashes of a prediction's input, model and output, the folds of the ensemble and the volumes found.

    `speed` is the preset that was asked for, `overlap` and `mirror_axes` what was used, `tiles` how many of them ran.
    `postprocessing` are the steps that were applied to the mask. `spacing` (z, y, x; mm) stands beside masks in TIFF,
    where readers of such stacks look for it.
    """

    SCHEMA: ClassVar[str] = "siccs_net.prediction"

    case: str
    input_sha256: tuple[str, ...]
    model_sha256: str
    output_sha256: str
    folds: tuple[str, ...]
    volumes_ml: dict[str, float]
    postprocessing: tuple[PostStep, ...] = ()
    spacing: tuple[float, float, float] | None = None
    speed: Literal["fast", "balanced", "accurate"] = "balanced"
    overlap: float | None = None
    mirror_axes: tuple[str | int, ...] | None = None
    tiles: Tiles | None = None


class ProbabilityRecord(Record):
    """CASE.probabilities.json beside CASE.probabilities.b2nd.

    The array holds whole numbers [class, z, y, x] on the scan's canonical grid: the softmax probability times
    `levels`, rounded, so that a probability is right within 0.5 / `levels`. Class i has the i-th smallest of `labels`'
    values; with `regions` there is a sigmoid probability a region instead, in their order. `native_shape` (x, y, z of
    the file) and `native_affine` are the scan's own. `labels`, `regions`, `regions_class_order` and `groups` are the
    dataset's, `sources_sha256` the models (or, of an ensemble, the arrays) that it was made from.
    """

    SCHEMA: ClassVar[str] = "siccs_net.probabilities"

    case: str
    array_sha256: str
    levels: int = Field(ge=1)
    labels: dict[str, int]
    regions: dict[str, tuple[int, ...]]
    regions_class_order: tuple[int, ...]
    groups: dict[str, tuple[int, ...]]
    native_shape: tuple[int, int, int]
    native_affine: tuple[tuple[float, float, float, float], ...]
    sources_sha256: tuple[str, ...]


class EnsembleRecord(Record):
    """CASE.json beside a mask of `siccs_ensemble`: whose probabilities were averaged, and with what weights."""

    SCHEMA: ClassVar[str] = "siccs_net.ensemble"

    case: str
    sources_sha256: tuple[str, ...]
    weights: tuple[float, ...]
    output_sha256: str
    volumes_ml: dict[str, float]
    postprocessing: tuple[PostStep, ...] = ()
    spacing: tuple[float, float, float] | None = None
