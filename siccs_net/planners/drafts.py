"""What the rules of planning take and give: the shape of a dataset, and drafts of a plan's configurations."""

from __future__ import annotations

from dataclasses import dataclass

from siccs_net.errors import DatasetError
from siccs_net.records.network import NetworkSpec

Spacing = tuple[float, float, float]
Shape = tuple[int, int, int]


@dataclass(frozen=True)
class DatasetShape:
    """The part of a fingerprint that planning needs.

    `spacings_mm` and `shapes` hold one [z, y, x] triple a case, the shapes after the crop. `cases` is the number of
    training cases that dataset.json states, `labels` the number of its labels (background and ignore count),
    `channels` the number of image channels. Raises DatasetError when they contradict each other.
    """

    spacings_mm: tuple[Spacing, ...]
    shapes: tuple[Shape, ...]
    cases: int
    labels: int
    channels: int

    def __post_init__(self) -> None:
        if not self.spacings_mm or len(self.spacings_mm) != len(self.shapes):
            found = f"{len(self.spacings_mm)} spacings and {len(self.shapes)} shapes"
            raise DatasetError("cannot be planned", found=found, expected="one spacing and one shape a case")
        if min(min(spacing) for spacing in self.spacings_mm) <= 0 or min(min(shape) for shape in self.shapes) < 1:
            raise DatasetError("cannot be planned", found="a spacing or a shape that is not positive")
        if self.cases < 1 or self.channels < 1 or self.labels < 2:
            found = f"{self.cases} cases, {self.channels} channels, {self.labels} labels"
            raise DatasetError("cannot be planned", found=found, expected="a case, a channel and two labels at least")


@dataclass(frozen=True)
class ConfigurationDraft:
    """One configuration as the rules leave it; axes are the plan's (after the transpose).

    `spacing_mm` and `median_shape` always have three entries; a 2D configuration leaves axis 0 as it is (its spacing
    is None, its median shape the median number of slices of the cases). `activation_elements` is nnU-Net's own
    figure for one sample (None for `convnext`, which is planned in bytes). `inherits_from` and `previous_stage` are
    set for the cascade, `next_stage` for the low-resolution stage before it. `network.classes` counts the labels; the
    caller corrects it for regions and an ignore label.
    """

    name: str
    spacing_mm: tuple[float | None, float, float]
    median_shape: tuple[float, float, float]
    patch_size: tuple[int, ...]
    batch_size: int
    network: NetworkSpec
    batch_dice: bool
    activation_elements: int | None = None
    inherits_from: str | None = None
    previous_stage: str | None = None
    next_stage: str | None = None

    @property
    def dimension(self) -> int:
        """2 or 3."""
        return len(self.patch_size)


@dataclass(frozen=True)
class PlanDraft:
    """All configurations of a dataset; `transpose_forward[i]` is the [z, y, x] axis that becomes plan axis i."""

    transpose_forward: tuple[int, int, int]
    configurations: dict[str, ConfigurationDraft]
