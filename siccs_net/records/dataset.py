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
MOST_LABELS = 255
"""Prepared cases hold classes as bytes, one of which means ignored."""


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
        wrong = [*self._wrong_channels(), *self._wrong_labels()]
        wrong = wrong or [*self._wrong_regions(), *self._wrong_groups()]
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
        single = [(value,) if isinstance(value, int) else value for value in self.labels.values()]
        plain = [values[0] for values in single if len(values) == 1]
        if len(set(plain)) < len(plain):
            return [f"two labels share one value: {self.labels}"]
        if len(self.labels) < 2:
            return ["labels must name at least one label besides the background"]
        if min(plain) < 0:
            return [f"label values must not be negative: {self.labels}"]
        lists = {name: value for name, value in self.labels.items() if not isinstance(value, int)}
        if IGNORE in lists:
            return [f"the label '{IGNORE}' must be one value; found {list(lists[IGNORE])}"]
        forbidden = {0, self.labels.get(IGNORE)}
        if wrong := [name for name, values in lists.items() if not values or min(values) < 0 or forbidden & {*values}]:
            found = f"{wrong[0]} {list(lists[wrong[0]])}"
            return [f"a region is a list of label values, without those of background and ignore; found {found}"]
        if (largest := max(self.label_scheme.values)) > LARGEST_LABEL:
            return [f"label values must not be above {LARGEST_LABEL}; found {largest}"]
        if (count := len(self.label_scheme.stored_values)) > MOST_LABELS:
            return [f"there may be {MOST_LABELS} label values at most, the background included; found {count}"]
        return []

    def _wrong_regions(self) -> list[str]:
        regions, order = self.label_scheme.regions, self.regions_class_order
        if not regions:
            return []
        listed = ", ".join(f"{name} {list(values)}" for name, values in regions.items())
        needed = (
            f"labels has regions ({listed}), so regions_class_order must give for each of them, in this order, the one "
            f"of its values that a prediction writes (later ones overwrite earlier ones), such as "
            f"{_example_order(regions)}; found {'none' if order is None else list(order)}"
        )
        if order is None or len(order) != len(regions):
            return [needed]
        if len({frozenset(values) for values in regions.values()}) < len(regions):
            return [f"two regions have the same values: {listed}"]
        wrong = [(name, value) for (name, of), value in zip(regions.items(), order, strict=True) if value not in of]
        return [f"{needed}: {value} is no value of {name}" for name, value in wrong[:1]]

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
        values = {name: (value,) if isinstance(value, int) else value for name, value in named.items()}
        with_regions = any(len(of_label) > 1 for of_label in values.values())
        if not with_regions:  # a list of one value is that value, as for nnU-Net
            named = {name: value for name, (value,) in values.items()}
        return LabelScheme(
            plain={name: value for name, value in named.items() if isinstance(value, int)},
            regions={name: value for name, value in values.items() if name != BACKGROUND} if with_regions else {},
            groups=dict(self.siccs_groups),
            ignore=ignore if isinstance(ignore, int) else None,
            regions_class_order=(self.regions_class_order or ()) if with_regions else (),
        )


def _example_order(regions: dict[str, tuple[int, ...]]) -> list[int]:
    """Return for each region a value that no later region has, where there is one."""
    listed = list(regions.values())
    later = [{value for of_region in listed[number + 1 :] for value in of_region} for number in range(len(listed))]
    return [next((value for value in of if value not in after), of[0]) for of, after in zip(listed, later, strict=True)]


@dataclass(frozen=True)
class LabelScheme:
    """What label values mean, in files, in prepared cases and in a network.

    Prepared cases hold classes: class i is the i-th smallest label value (`stored_values`). The network has a channel
    a class. With regions (a label that is a list of several values) every foreground label is one, in the order of
    dataset.json; the network then has a channel a region, none for the background, and regions may overlap.
    """

    plain: dict[str, int]
    regions: dict[str, tuple[int, ...]] = field(default_factory=dict)
    groups: dict[str, tuple[int, ...]] = field(default_factory=dict)
    ignore: int | None = None
    regions_class_order: tuple[int, ...] = ()

    @property
    def values(self) -> set[int]:
        """Every value that a label file may hold, the ignore label included."""
        named = {*self.plain.values(), *(value for region in self.regions.values() for value in region)}
        return named if self.ignore is None else {*named, self.ignore}

    @property
    def stored_values(self) -> tuple[int, ...]:
        """The label value of each class of a prepared case, background first."""
        return tuple(sorted(self.values - {self.ignore}))

    @property
    def class_values(self) -> tuple[int, ...]:
        """The label values that a prediction is made of, background first: of each class, or as regions are painted."""
        return (0, *self.regions_class_order) if self.regions else self.stored_values

    @property
    def outputs(self) -> int:
        """Number of channels of a network's logits: classes, or regions."""
        return len(self.regions) or len(self.stored_values)

    @property
    def region_classes(self) -> tuple[tuple[int, ...], ...]:
        """The classes of a prepared case that each region is made of; empty without regions."""
        return tuple(tuple(map(self.stored_values.index, values)) for values in self.regions.values())

    @property
    def painted_classes(self) -> tuple[int, ...]:
        """The class of a prepared case that each region is painted with; empty without regions."""
        return tuple(map(self.stored_values.index, self.regions_class_order))

    @property
    def stage_values(self) -> tuple[int, ...]:
        """The label values that a cascade's second stage is shown, one channel each: all but background and ignore."""
        return self.stored_values[1:]

    @property
    def foreground(self) -> dict[str, int]:
        """Foreground label values by name; with regions a value is called after the smallest one that it is in."""
        if not self.regions:
            return {name: value for name, value in self.plain.items() if value != 0}
        smallest_first = sorted(self.regions.items(), key=lambda item: len(item[1]))
        names: dict[str, int] = {}
        for value in self.stored_values[1:]:
            name = next(name for name, values in smallest_first if value in values)
            names[f"{name} {value}" if name in names else name] = value
        return names

    @property
    def measured(self) -> dict[str, int | tuple[int, ...]]:
        """What metrics are taken of: each plain label, or each region by its values as dataset.json has them."""
        return {name: self.plain.get(name, values) for name, values in self.regions.items()} or {**self.plain}

    @property
    def unions(self) -> dict[str, tuple[int, ...]]:
        """Groups that say more than a label of the same name does."""
        known = {**{name: (value,) for name, value in self.plain.items()}, **self.regions}
        return {name: values for name, values in self.groups.items() if values != known.get(name)}

    @property
    def reported(self) -> dict[str, tuple[int, ...]]:
        """Foreground labels and groups by name, each with its label values: what volumes and tables list."""
        return {**(self.regions or {name: (value,) for name, value in self.foreground.items()}), **self.groups}


class Splits(Record):
    """splits_final.json: nnU-Net's list of folds, each with its training and validation cases."""

    folds: tuple[Fold, ...]


class Fold(Record):
    """The training and validation cases of one fold."""

    train: tuple[str, ...]
    val: tuple[str, ...]


Splits.model_rebuild()
