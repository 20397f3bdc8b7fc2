"""The one tree of exceptions. Each class maps to one exit code of the commands (docs/reference/exit-codes.md).

A message is one line: what is wrong, in which file, what was found, what was expected, and what to do next.
"""

from __future__ import annotations

from pathlib import Path


class SiccsError(Exception):
    """Base of every error that siccs_net raises on purpose.

    `path` is the file or folder at fault, `found` and `expected` say what was wrong with it and `hint` is the
    next thing to try. They are joined into one line, in that order.
    """

    exit_code = 5

    def __init__(
        self,
        message: str,
        *,
        path: Path | str | None = None,
        found: object = None,
        expected: object = None,
        hint: str | None = None,
    ) -> None:
        self.message = message
        self.path = None if path is None else Path(path)
        self.found = found
        self.expected = expected
        self.hint = hint
        super().__init__(self._one_line())

    def _one_line(self) -> str:
        line = self.message if self.path is None else f"{self.path}: {self.message}"
        if self.found is not None:
            line += f"; found {self.found}"
        if self.expected is not None:
            line += f"; expected {self.expected}"
        if self.hint is not None:
            line += f". {self.hint}"
        return " ".join(line.split())


class UsageError(SiccsError):
    """The caller asked for something that does not exist or does not make sense (exit code 2)."""

    exit_code = 2


class MissingPathError(UsageError):
    """A file or folder that was named does not exist (exit code 2)."""


class UnavailableError(UsageError):
    """The thing asked for is not available in this version or with this plan, and nothing is used in its place."""


class EnvironmentProblem(SiccsError):
    """The machine cannot do it: device, disk, memory, a missing library (exit code 3)."""

    exit_code = 3


class DataError(SiccsError):
    """An input is damaged, inconsistent or not what it claims to be (exit code 4)."""

    exit_code = 4


class ImageError(DataError):
    """An image or label file cannot be used."""


class GeometryError(DataError):
    """Two grids that must match do not, or a grid has no valid geometry."""


class DatasetError(DataError):
    """dataset.json, the splits or the files of a dataset contradict each other."""


class RecordError(DataError):
    """A JSON record of ours (plan, fingerprint, sidecar, state) does not follow its schema."""


class StoreError(DataError):
    """A prepared case is missing, damaged or was made by another plan."""


class ModelError(DataError):
    """A checkpoint or model folder is damaged or incomplete."""


class TrainingError(SiccsError):
    """Training cannot go on: not-finite loss, a dead worker, a trainer that breaks its contract."""


class TrainerContractError(UsageError):
    """A trainer class breaks the contract of `siccs_net.trainers.base.Trainer`."""


class Interrupted(SiccsError):
    """A signal ended the work after its state was saved (exit code 128 + signal number)."""

    def __init__(self, message: str, *, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number
