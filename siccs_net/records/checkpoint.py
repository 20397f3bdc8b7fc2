"""What stands beside weights: a training state, a fold's final record, and a model folder's record."""

from __future__ import annotations

import hashlib
import json
from typing import Any, ClassVar, Literal

from pydantic import Field

from siccs_net.records.base import Record
from siccs_net.records.plan import Configuration
from siccs_net.records.statistics import Normalisation


class Numerics(Record):
    """Kernels and precision of a run: chosen once by the machine's capability, kept on resume."""

    device: Literal["cpu", "cuda", "mps"]
    precision: Literal["float32", "bfloat16", "float16"]
    threads: int = Field(ge=1)
    deterministic: bool
    compiled: bool = False


class TransferredWeight(Record):
    """What became of one weight of a network that starts from another's: `why` it was resized or skipped."""

    name: str
    action: Literal["loaded", "resized", "skipped"]
    shape: tuple[int, ...]
    source_shape: tuple[int, ...] | None = None
    why: str = ""


class PretrainedRecord(Record):
    """pretrained.json of a run: the file that its first weights came from, and what became of each weight."""

    SCHEMA: ClassVar[str] = "siccs_net.pretrained"

    source: str
    sha256: str
    weights: tuple[TransferredWeight, ...]

    def count(self, action: str) -> int:
        """Return how many weights were loaded, resized or skipped."""
        return sum(weight.action == action for weight in self.weights)


class StateRecord(Record):
    """state-N.json beside state-N.safetensors: where a training stands.

    `epoch` epochs are finished and `iteration` iterations of the next one are done. `optimizer_groups` and
    `optimizer_scalars` are the parts of the optimizer's state that are not tensors. `running` holds the sums of
    the unfinished epoch, `seconds` what the training has taken so far. No best epoch is kept: the last epoch's weights
    are the model.
    """

    SCHEMA: ClassVar[str] = "siccs_net.training_state"

    weights_sha256: str
    config_sha256: str
    epoch: int = Field(ge=0)
    iteration: int = Field(ge=0)
    optimizer_groups: tuple[dict[str, Any], ...]
    optimizer_scalars: dict[str, Any]
    scaler: dict[str, Any]
    running: dict[str, float]
    seconds: float = Field(default=0.0, ge=0)
    log_bytes: int = Field(ge=0)
    numerics: Numerics


class FinalRecord(Record):
    """final.json beside final.safetensors: what prediction needs of one fold besides the plan.

    A training that a STOP file ended is not `complete`.
    """

    SCHEMA: ClassVar[str] = "siccs_net.fold_model"

    fold: str
    trainer: str
    weights_sha256: str
    training_sha256: str
    epochs: int
    complete: bool = True
    training_cases: tuple[str, ...]
    validation_cases: tuple[str, ...]
    normalisation: Normalisation
    configuration: Configuration
    network_class: str | None = None
    config: dict[str, Any]
    numerics: Numerics
    pretrained: PretrainedRecord | None = None


class PreviousModel(Record):
    """The model before a cascade's second stage: a folder beside it, and the weights of its folds by their hashes."""

    folder: str
    weights_sha256: dict[str, str]

    @property
    def identity(self) -> str:
        """One hash of all its weights."""
        return hashlib.sha256(json.dumps(self.weights_sha256, sort_keys=True).encode()).hexdigest()


class ModelRecord(Record):
    """model.json of a model folder: which configuration of its plan.json the folds were trained on.

    The second stage of a cascade says which model's segmentations it was trained on.
    """

    SCHEMA: ClassVar[str] = "siccs_net.model"

    dataset_name: str
    configuration: str
    trainer: str
    plan: str
    previous: PreviousModel | None = None
