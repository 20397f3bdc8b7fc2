"""The spread of a dataset's spacings and the cases that stand out, as information."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from siccs_net.planners.drafts import Spacing
from siccs_net.records.fingerprint import Fingerprint
from siccs_net.records.plan import Plan

# A spacing this many times the median (or as much finer) is an outlier.
FROM_MEDIAN = 3.0
# A case that the target makes finer by more than this factor is mostly interpolated.
FROM_TARGET = 2.0
_AXES = "zyx"
_NAMED = 10


@dataclass(frozen=True)
class SpacingOutlier:
    """A case whose spacing [z, y, x] in mm stands out, and why."""

    case: str
    spacing_mm: Spacing
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class SpacingSpread:
    """Smallest, median and largest spacing [z, y, x] in mm of a dataset's cases, and the outliers by name."""

    smallest: Spacing
    median: Spacing
    largest: Spacing
    outliers: tuple[SpacingOutlier, ...]


def spacing_spread(fingerprint: Fingerprint, target_mm: Spacing | None = None) -> SpacingSpread:
    """Return the spread of the cases' spacings; outliers are more than 3 times the median off, or, with `target_mm`
    [z, y, x], more than 2 times coarser than it on an axis."""
    spacings = np.asarray([case.spacing_mm for case in fingerprint.cases], dtype=np.float64)
    median = _triple(np.median(spacings, axis=0))
    found = [
        SpacingOutlier(case.case, case.spacing_mm, _reasons(case.spacing_mm, median, target_mm))
        for case in fingerprint.cases
    ]
    return SpacingSpread(
        _triple(spacings.min(axis=0)),
        median,
        _triple(spacings.max(axis=0)),
        tuple(item for item in found if item.reasons),
    )


def target_of(plan: Plan) -> Spacing | None:
    """Return the target spacing [z, y, x] of a plan's finest 3D configuration; None where there is none."""
    three = [item for item in plan.configurations.values() if item.dimension == 3 and None not in item.spacing_mm]
    if not three:
        return None
    finest = min(three, key=lambda item: np.prod([value or 1.0 for value in item.spacing_mm]))
    target = [1.0, 1.0, 1.0]
    for axis, value in zip(finest.orient.transpose, finest.spacing_mm, strict=True):
        target[axis] = value or 1.0
    return target[0], target[1], target[2]


def describe_spread(spread: SpacingSpread) -> list[str]:
    """Return the spread as lines of text; at most ten outliers are named, the rest counted."""
    parts = (("min", spread.smallest), ("median", spread.median), ("max", spread.largest))
    lines = ["spacing (z, y, x) in mm: " + "; ".join(f"{name} {_text(value)}" for name, value in parts)]
    lines += [
        f"spacing outlier {item.case}: {_text(item.spacing_mm)} mm, {', '.join(item.reasons)}"
        for item in spread.outliers[:_NAMED]
    ]
    if len(spread.outliers) > _NAMED:
        lines.append(f"and {len(spread.outliers) - _NAMED} more spacing outliers")
    return lines


def _reasons(spacing: Spacing, median: Spacing, target: Spacing | None) -> tuple[str, ...]:
    found = []
    for axis, value, usual in zip(_AXES, spacing, median, strict=True):
        if value > FROM_MEDIAN * usual:
            found.append(f"{value / usual:.3g} times the median along {axis}")
        elif usual > FROM_MEDIAN * value:
            found.append(f"{usual / value:.3g} times finer than the median along {axis}")
    for axis, value, wanted in zip(_AXES, spacing, target or spacing, strict=True):
        if value > FROM_TARGET * wanted:
            found.append(f"made {value / wanted:.3g} times finer along {axis} by the target spacing")
    return tuple(found)


def _triple(values: Sequence[float] | np.ndarray) -> Spacing:
    z, y, x = (float(value) for value in values)
    return z, y, x


def _text(spacing: Spacing) -> str:
    return ", ".join(f"{value:.3g}" for value in spacing)
