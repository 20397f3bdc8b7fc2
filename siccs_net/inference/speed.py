"""Speed presets of prediction: how much tiles overlap, how many folds vote, whether mirrored tiles are averaged."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from siccs_net.records.plan import InferenceSettings

Speed = Literal["fast", "balanced", "accurate"]


@dataclass(frozen=True)
class SpeedPreset:
    """What a preset makes of a plan's settings.

    Neighbouring tiles lie `step` times as far apart as the plan has them; `most_folds` of the folds are used (None:
    all); mirrored tiles are averaged over the plan's axes, or not at all.
    """

    step: float
    most_folds: int | None
    mirror: bool

    def apply(self, inference: InferenceSettings) -> InferenceSettings:
        """Return the plan's settings, changed."""
        overlap = max(0.0, 1 - (1 - inference.overlap) * self.step)
        axes = inference.mirror_axes if self.mirror else ()
        return inference.model_copy(update={"overlap": overlap, "mirror_axes": axes})


SPEEDS: dict[Speed, SpeedPreset] = {
    "fast": SpeedPreset(step=1.5, most_folds=1, mirror=False),
    "balanced": SpeedPreset(step=1.0, most_folds=None, mirror=True),
    "accurate": SpeedPreset(step=2 / 3, most_folds=None, mirror=True),
}
"""`balanced` is the plan as it stands. Measured in docs/explanation/speed-presets.md."""
