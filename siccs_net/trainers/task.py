"""What a trainer is given: one frozen value that holds everything a fold's training needs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from siccs_net.io.stage_store import StageStore
from siccs_net.io.store import PreparedStore
from siccs_net.records.dataset import LabelScheme
from siccs_net.records.plan import Configuration, Plan
from siccs_net.records.statistics import Normalisation
from siccs_net.trainers.config import TrainerConfig
from siccs_net.workspace import RunFolder


@dataclass(frozen=True)
class TrainTask:
    """One fold of one configuration. `validation_cases` may repeat training cases only for the fold `full`.

    `pretrained` is the file of weights (safetensors) that a new run starts from. `previous` holds
    the segmentations that the second stage of a cascade is shown.
    """

    plan: Plan
    configuration_name: str
    configuration: Configuration
    config: TrainerConfig
    fold: str
    training_cases: tuple[str, ...]
    validation_cases: tuple[str, ...]
    store: PreparedStore
    labels: LabelScheme
    normalisation: Normalisation
    device: torch.device
    run: RunFolder
    resume: bool = False
    pretrained: Path | None = None
    show_progress: bool = True
    previous: StageStore | None = None
