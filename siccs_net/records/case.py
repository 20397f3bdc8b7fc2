"""Sidecar of a prepared case: how it was made, what it holds, and the hashes that prove it whole."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from siccs_net.records.base import Record
from siccs_net.records.statistics import ChannelStatistics

Triple = tuple[int, int, int]
Box = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]


class CaseGeometry(Record):
    """How a prepared case lies in its scan; enough to go back. Shapes and boxes are in plan axes.

    `order` is what the plan axes are a transpose of: the canonical ones, the file's own or RAS+ (see `AsStored`).
    `export_separate_axis` is not interpolated across on the way back (None: linear interpolation everywhere).
    """

    canonical_spacing_mm: tuple[float, float, float]
    oriented_shape: Triple
    crop_box: Box
    prepared_shape: Triple
    transpose: Triple
    order: Literal["canonical", "file", "RAS+"] = "canonical"
    export_separate_axis: int | None = Field(default=None, ge=0, le=2)


class PreparedRecord(Record):
    """CASE.json beside CASE.b2nd and CASE_seg.b2nd.

    `recipe_sha256` is the hash of the configuration's preprocessing; `input_sha256` those of the source files.
    `statistics_all` and `statistics_foreground` have one entry a channel, over the prepared voxels.
    """

    SCHEMA: ClassVar[str] = "siccs_net.prepared_case"

    case: str
    recipe_sha256: str
    input_sha256: tuple[str, ...]
    image_sha256: str
    label_sha256: str | None
    geometry: CaseGeometry
    statistics_all: tuple[ChannelStatistics, ...]
    statistics_foreground: tuple[ChannelStatistics, ...]
    label_voxels: dict[str, int]


class StageRecord(Record):
    """CASE.json beside CASE_seg.b2nd: a previous stage's segmentation of a case on its prepared grid.

    `fold` is the fold of the previous model that did not see the case in training, `weights_sha256` its weights;
    `mask_sha256` is the hash of its mask, `image_sha256` that of the prepared image whose grid it lies on.
    """

    SCHEMA: ClassVar[str] = "siccs_net.stage_segmentation"

    case: str
    fold: str
    weights_sha256: str
    mask_sha256: str
    image_sha256: str
    recipe_sha256: str
    array_sha256: str
