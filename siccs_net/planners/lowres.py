"""nnU-Net's rule for a low-resolution stage and the cascade after it; it serves every planner.

Source: Isensee et al., Nature Methods 18 (2021) 203-211, in the form that nnU-Net 2.8.1 gives it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from siccs_net.errors import UsageError
from siccs_net.planners.drafts import ConfigurationDraft, Spacing

LOWRES = "3d_lowres"
CASCADE = "3d_cascade_fullres"
# Below this share of the median image covered by a patch, a low-resolution stage is planned.
LOWRES_COVERAGE = 0.25
LOWRES_STEP = 1.03
# A low-resolution image with more than half the voxels is not worth a stage of its own.
LOWRES_MIN_REDUCTION = 2.0

PlanAt = Callable[[Spacing, Spacing, float], ConfigurationDraft]
"""Plans `3d_lowres` for a spacing, a median shape and a median number of voxels (plan axes)."""


def plan_lowres(full: ConfigurationDraft, plan_at: PlanAt) -> ConfigurationDraft | None:
    """Coarsen by 3 % at a time until a patch covers a quarter of the median image; None where that is no gain."""
    fine = _known(full.spacing_mm)
    spacing, voxels, draft = fine, math.prod(full.median_shape), full
    while math.prod(draft.patch_size) / voxels < LOWRES_COVERAGE:
        spacing = _coarser(spacing)
        z, y, x = (old / new * size for old, new, size in zip(fine, spacing, full.median_shape, strict=True))
        voxels = math.prod((z, y, x))
        draft = plan_at(spacing, (round(z), round(y), round(x)), voxels)
    if draft is full or math.prod(full.median_shape) / voxels < LOWRES_MIN_REDUCTION:
        return None
    return draft


def with_cascade(full: ConfigurationDraft, low: ConfigurationDraft | None) -> list[ConfigurationDraft]:
    """Return the 3D configurations: `full` alone, or with the stage before it and the cascade of the two."""
    if low is None:
        return [full]
    cascade = replace(full, name=CASCADE, inherits_from=full.name, previous_stage=low.name)
    return [replace(low, next_stage=CASCADE), full, cascade]


def _coarser(spacing: Spacing) -> Spacing:
    """Coarsen the axes that are more than twice as fine as the coarsest, or all where there is none."""
    coarsest = max(spacing)
    fine = [coarsest / step > 2 for step in spacing]
    z, y, x = (
        step * LOWRES_STEP if chosen or not any(fine) else step for step, chosen in zip(spacing, fine, strict=True)
    )
    return z, y, x


def _known(spacing: tuple[float | None, float, float]) -> Spacing:
    first, second, third = spacing
    if first is None:
        raise UsageError("a 2D configuration has no spacing along axis 0")
    return first, second, third
