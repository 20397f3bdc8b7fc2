"""fingerprint.json: per-case statistics of a dataset, mergeable, made in one read of each file."""

from __future__ import annotations

from typing import ClassVar

from siccs_net.records.base import Record
from siccs_net.records.case import Box, Triple
from siccs_net.records.statistics import ChannelStatistics


class CaseFingerprint(Record):
    """One case: geometry (canonical z, y, x), body box, label voxels and intensity statistics per channel.

    `beyond_lungs_mm` is how far labelled foreground reaches beyond the lungs' box; null where no lungs were found.
    """

    case: str
    input_sha256: tuple[str, ...]
    spacing_mm: tuple[float, float, float]
    shape: Triple
    crop_box: Box
    label_voxels: dict[str, int]
    statistics_all: tuple[ChannelStatistics, ...]
    statistics_foreground: tuple[ChannelStatistics, ...]
    beyond_lungs_mm: float | None = None

    @property
    def cropped_shape(self) -> Triple:
        """Shape of the body box."""
        z, y, x = (end - start for start, end in self.crop_box)
        return z, y, x


class Fingerprint(Record):
    """All cases of a dataset, in the order of their names, and the crop and lung box they were measured with."""

    SCHEMA: ClassVar[str] = "siccs_net.fingerprint"

    dataset_name: str
    crop_threshold_hu: float | None
    crop_margin_mm: float
    lung_threshold_hu: float | None = None
    cases: tuple[CaseFingerprint, ...]
