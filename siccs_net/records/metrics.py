"""summary.json: what was measured of every case and class, and its means. nnU-Net's keys, and more.

`null` is undefined, never 0. A class in neither mask has no Dice, IoU, NSD or HD95; a class in one mask only has
Dice 0, IoU 0, NSD 0 and no HD95. A class in some mask without NSD was not measured (surface metrics left out).
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from siccs_net.records.base import Record


class ClassMetrics(Record):
    """One class of one case: overlap in voxels, NSD in 0..1 at 2 and 5 mm, HD95 in mm, volumes in mL."""

    Dice: float | None
    IoU: float | None
    TP: int
    FP: int
    FN: int
    TN: int
    n_pred: int
    n_ref: int
    NSD_2mm: float | None
    NSD_5mm: float | None
    HD95: float | None
    volume_pred_ml: float
    volume_ref_ml: float

    @property
    def one_empty(self) -> bool:
        """Whether exactly one of the two masks lacks the class, which leaves HD95 undefined."""
        return (self.n_pred == 0) != (self.n_ref == 0)


METRICS = tuple(ClassMetrics.model_fields)


class MeanMetrics(Record):
    """The same figures over several cases: their means, or the standard errors of the means."""

    Dice: float | None
    IoU: float | None
    TP: float | None
    FP: float | None
    FN: float | None
    TN: float | None
    n_pred: float | None
    n_ref: float | None
    NSD_2mm: float | None
    NSD_5mm: float | None
    HD95: float | None
    volume_pred_ml: float | None
    volume_ref_ml: float | None


class CaseMetrics(Record):
    """One case. Classes are keyed as nnU-Net keys them ("1", regions "(1, 2)"), groups by their name."""

    case: str
    prediction_file: str
    reference_file: str
    names: dict[str, str]
    groups: tuple[str, ...]
    metrics: dict[str, ClassMetrics]


class Summary(Record):
    """All cases of an evaluation, and the means over the cases where a metric is defined.

    `names` gives the name of each key; `groups` lists the keys that are unions of labels. `foreground_mean` is the
    mean of the labels' means, groups excluded. `standard_error` is sd / sqrt(n), sd with n - 1, null for n < 2.
    `defined_cases` counts the cases behind each mean, `one_empty_cases` those where one mask lacks the class. `folds`
    gives each case's fold and `fold_mean` the means in each fold, where the cases come from folds.
    """

    SCHEMA: ClassVar[str] = "siccs_net.summary"

    names: dict[str, str]
    groups: tuple[str, ...]
    foreground_mean: MeanMetrics
    mean: dict[str, MeanMetrics]
    standard_error: dict[str, MeanMetrics]
    defined_cases: dict[str, dict[str, int]]
    one_empty_cases: dict[str, int]
    folds: dict[str, int] | None = None
    fold_mean: dict[str, dict[str, MeanMetrics]] = Field(default_factory=dict)
    metric_per_case: tuple[CaseMetrics, ...]
