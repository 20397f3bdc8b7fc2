"""dataset.json as nnU-Net defines it, and the meaning of its labels."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pydantic import ConfigDict, Field, model_validator

from siccs_net.records.base import Record

BACKGROUND = "background"
IGNORE = "ignore"
LARGEST_LABEL = 65535
"""Masks are stored as 8- or 16-bit unsigned numbers."""


class CaseFiles(Record):
    """An entry of dataset.json's optional `dataset` key: explicit paths of one case's files."""

    images: tuple[str, ...]
    label: str


class DatasetDescription(Record):
    """dataset.json, read unchanged: nnU-Net's keys, our optional `siccs_groups`, any other key kept as it is.

    `siccs_groups` names unions of label values, such as {"lung": [1, 2, 3], "EF+GGO": [2, 3]}.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="allow")

    channel_names: dict[str, str]
    labels: dict[str, int | tuple[int, ...]]
    numTraining: int = Field(ge=0)
    file_ending: str
    regions_class_order: tuple[int, ...] | None = None
    overwrite_image_reader_writer: str | None = None
    dataset: dict[str, CaseFiles] | None = None
    siccs_groups: dict[str, tuple[int, ...]] = Field(default_factory=dict)

    @classmethod
    def _upgrade(cls, body: dict[str, Any]) -> dict[str, Any]:
        if "channel_names" not in body and "modality" in body:
            return {**body, "channel_names": body["modality"]}
        return body

    @model_validator(mode="after")
    def _consistent(self) -> DatasetDescription:
        wrong = [*self._wrong_channels(), *self._wrong_labels(), *self._wrong_groups()]
        if wrong:
            raise ValueError("; ".join(wrong))
        return self

    def _wrong_channels(self) -> list[str]:
        expected = [str(number) for number in range(len(self.channel_names))]
        if not expected or sorted(self.channel_names, key=str) != sorted(expected, key=str):
            return [f"channel_names must be keyed '0', '1', …; found {list(self.channel_names)}"]
        return []

    def _wrong_labels(self) -> list[str]:
        if self.labels.get(BACKGROUND) != 0:
            return [f"labels must name 'background' as 0; found {self.labels.get(BACKGROUND)!r}"]
        plain = [value for value in self.labels.values() if isinstance(value, int)]
        if len(set(plain)) < len(plain):
            return [f"two labels share one value: {self.labels}"]
        if len(self.labels) < 2:
            return ["labels must name at least one label besides the background"]
        if min(plain) < 0:
            return [f"label values must not be negative: {self.labels}"]
        if (largest := max(self.label_scheme.values)) > LARGEST_LABEL:
            return [f"label values must not be above {LARGEST_LABEL}; found {largest}"]
        return []

    def _wrong_groups(self) -> list[str]:
        known = self.label_scheme.values
        return [
            f"siccs_groups[{name!r}] holds values that are no label: {sorted(set(values) - known)}"
            for name, values in self.siccs_groups.items()
            if not values or set(values) - known
        ]

    @property
    def channels(self) -> int:
        """Number of image channels."""
        return len(self.channel_names)

    @property
    def label_scheme(self) -> LabelScheme:
        """The labels, told apart into plain labels, regions and the ignore label."""
        ignore = self.labels.get(IGNORE)
        named = {name: value for name, value in self.labels.items() if name != IGNORE}
        return LabelScheme(
            plain={name: value for name, value in named.items() if isinstance(value, int)},
            regions={name: value for name, value in named.items() if not isinstance(value, int)},
            groups=dict(self.siccs_groups),
            ignore=ignore if isinstance(ignore, int) else None,
        )


@dataclass(frozen=True)
class LabelScheme:
    """What label values mean. Class i of a network is the i-th smallest plain value (`class_values`)."""

    plain: dict[str, int]
    regions: dict[str, tuple[int, ...]] = field(default_factory=dict)
    groups: dict[str, tuple[int, ...]] = field(default_factory=dict)
    ignore: int | None = None

    @property
    def values(self) -> set[int]:
        """Every value that a label file may hold, the ignore label included."""
        named = {*self.plain.values(), *(value for region in self.regions.values() for value in region)}
        return named if self.ignore is None else {*named, self.ignore}

    @property
    def class_values(self) -> tuple[int, ...]:
        """The label value of each class of the network, background first."""
        return tuple(sorted(self.plain.values()))

    @property
    def foreground(self) -> dict[str, int]:
        """Plain labels without the background."""
        return {name: value for name, value in self.plain.items() if value != 0}

    @property
    def unions(self) -> dict[str, tuple[int, ...]]:
        """Groups that say more than a label of the same name does."""
        return {name: values for name, values in self.groups.items() if values != (self.plain.get(name),)}

    @property
    def reported(self) -> dict[str, tuple[int, ...]]:
        """Foreground labels and groups by name, each with its label values: what volumes and tables list."""
        return {**{name: (value,) for name, value in self.foreground.items()}, **self.groups}


class Splits(Record):
    """splits_final.json: nnU-Net's list of folds, each with its training and validation cases."""

    folds: tuple[Fold, ...]


class Fold(Record):
    """The training and validation cases of one fold."""

    train: tuple[str, ...]
    val: tuple[str, ...]


Splits.model_rebuild()
