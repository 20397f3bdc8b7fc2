"""postprocessing.json of a model folder or an ensemble: what is done to a mask, and what judged it worth doing."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from siccs_net.records.base import Record


class RestrictToLung(Record):
    """Remove voxels of `labels` that lie off the lungs.

    The lungs are the components of the union of the `lung` values that have at least `smallest_share` of the largest
    one's volume: two lungs, one, or two that touch. What lies within `distance_mm` of them stays.
    """

    step: Literal["restrict_to_lung"] = "restrict_to_lung"
    lung: tuple[int, ...] = Field(min_length=1)
    labels: tuple[int, ...] = Field(min_length=1)
    smallest_share: float = Field(default=0.1, gt=0.0, le=1.0)
    distance_mm: float = Field(default=10.0, ge=0.0)


class MinimumVolume(Record):
    """Give components of `label` below `minimum_mm3` to the label that surrounds them most."""

    step: Literal["minimum_volume"] = "minimum_volume"
    label: int = Field(gt=0)
    minimum_mm3: float = Field(gt=0.0)


class FillHoles(Record):
    """Fill background that `labels` alone enclose, up to `maximum_mm3` (null: any), with the one around it most."""

    step: Literal["fill_holes"] = "fill_holes"
    labels: tuple[int, ...] = Field(min_length=1)
    maximum_mm3: float | None = Field(default=None, gt=0.0)


PostStep = Annotated[RestrictToLung | MinimumVolume | FillHoles, Field(discriminator="step")]


class Judgement(Record):
    """A step on the out-of-fold masks: Dice of each class and their foreground mean, without it and with it."""

    step: PostStep
    kept: bool
    foreground_before: float | None
    foreground_after: float | None
    dice_before: dict[str, float | None]
    dice_after: dict[str, float | None]


class PostProcessing(Record):
    """The steps in their order, and how they were judged on `cases` out-of-fold masks.

    `weights_sha256` are the fold models that made those masks; with other weights the decision is not theirs. Empty
    for a file written by hand.
    """

    SCHEMA: ClassVar[str] = "siccs_net.postprocessing"

    steps: tuple[PostStep, ...]
    judged: tuple[Judgement, ...] = ()
    cases: int = Field(default=0, ge=0)
    weights_sha256: tuple[str, ...] = ()
