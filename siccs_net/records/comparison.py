"""inference_instructions.json: which configuration or ensemble cross-validation prefers, and how to predict with it."""

from __future__ import annotations

from typing import ClassVar

from siccs_net.records.base import Record


class Candidate(Record):
    """A model or an ensemble of models, by the names of the model folders, and its cross-validation Dice."""

    models: tuple[str, ...]
    foreground_dice: float | None
    dice: dict[str, float | None]
    cases: int


class Instructions(Record):
    """The candidates, the preferred one first, what could not be compared, and the commands for new scans.

    `models` are the best candidate's model folders, `names` the names of the classes by their keys. `masks` is the
    folder, or folders, of its out-of-fold masks before post-processing; `postprocessing` the file with the steps that
    were kept (null when they were not judged) and `foreground_dice` the Dice with them.
    """

    SCHEMA: ClassVar[str] = "siccs_net.inference_instructions"

    dataset_name: str
    folds: tuple[str, ...]
    names: dict[str, str]
    candidates: tuple[Candidate, ...]
    notes: tuple[str, ...]
    models: tuple[str, ...]
    masks: tuple[str, ...]
    postprocessing: str | None
    steps: tuple[str, ...]
    foreground_dice: float | None
    commands: tuple[str, ...]
