"""A dataset that is still to be made: which file becomes which, what the labels mean, and what is wrong already."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from siccs_net.io.problem import Problem, name_problems

ENDING = ".nii.gz"
"""Every dataset is written with this ending: nnU-Net reads one ending a dataset."""


@dataclass(frozen=True)
class DraftCase:
    """The files of a case to be: one image a channel, or one file with all of them; no label: a test scan."""

    name: str
    images: tuple[Path, ...]
    label: Path | None

    def targets(self, channels: int) -> list[str]:
        """Return the files to make, relative to the dataset's folder: the images by channel, then the label."""
        images, labels = ("imagesTs", "labelsTs") if self.label is None else ("imagesTr", "labelsTr")
        names = [f"{images}/{self.name}_{number:04d}{ENDING}" for number in range(channels)]
        return names if self.label is None else [*names, f"{labels}/{self.name}{ENDING}"]


@dataclass(frozen=True)
class DraftTable:
    """A table to be, such as patients.csv: its columns beside `case`, and each case's cells in that order."""

    columns: tuple[str, ...]
    rows: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Draft:
    """A dataset to be. Without `labels` the values found in the files become label_1, label_2 and so on.

    `further_keys` go to dataset.json as they are; `problems` holds what reading the source's layout found.
    """

    cases: tuple[DraftCase, ...]
    channel_names: tuple[str, ...]
    labels: Mapping[str, int] | None
    groups: Mapping[str, list[int]] = field(default_factory=dict)
    tables: Mapping[str, DraftTable] = field(default_factory=dict)
    further_keys: Mapping[str, Any] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()

    @property
    def channels(self) -> int:
        """Number of image channels."""
        return len(self.channel_names)

    @property
    def sources(self) -> list[Path]:
        """Every file that the dataset will be made from."""
        return [path for case in self.cases for path in (*case.images, *([case.label] if case.label else []))]


def name_findings(cases: tuple[DraftCase, ...]) -> Iterator[Problem]:
    """Find names that no dataset may have, and names that two cases share."""
    for name in sorted({case.name for case in cases}):
        yield from name_problems(name, next(case.images[0] for case in cases if case.name == name))
    for part in ("imagesTr", "imagesTs"):
        counts = Counter(case.name for case in cases if case.targets(1)[0].startswith(part))
        for name in sorted(name for name, count in counts.items() if count > 1):
            yield Problem("duplicate case", f"{name}: {counts[name]} cases have this name; rename the others", name)
    names = {case.name for case in cases}
    for name in sorted(name for name in names if f"{name}_seg" in names):
        message = f"{name!r} and '{name}_seg' cannot be in one dataset; rename one"
        yield Problem("case name", message, name)
