"""Decide post-processing on out-of-fold masks: a step stays only if it helps on the whole and harms no class."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import blosc2
import numpy as np
from numpy.typing import NDArray

from siccs_net.evaluation.summary import measure_case, summarise
from siccs_net.inference.postprocess import apply_step, describe, foreground_box
from siccs_net.io.image import check_same_grid, read_label
from siccs_net.parallel import run_all
from siccs_net.records.dataset import LabelScheme
from siccs_net.records.metrics import CaseMetrics, Summary
from siccs_net.records.postprocessing import (
    FillHoles,
    Judgement,
    MinimumVolume,
    PostProcessing,
    PostStep,
    RestrictToLung,
)

logger = logging.getLogger(__name__)
MINIMUM_MM3 = (10.0, 100.0, 1000.0)
"""Sizes that are tried for the smallest component of each label."""
HOLE_MM3 = (100.0, 10_000.0)
"""Sizes that are tried for the largest hole that is filled."""


@dataclass(frozen=True)
class MaskPair:
    """A case: its out-of-fold mask and its reference."""

    case: str
    prediction: Path
    reference: Path


@dataclass(frozen=True)
class _Held:
    """A case in memory, packed: both maps in the box of what is labelled in either, and its figures as it stands."""

    case: str
    mask: Any
    reference: Any
    spacing_mm: tuple[float, float, float]
    metrics: CaseMetrics


def candidates(labels: LabelScheme) -> list[list[PostStep]]:
    """Return what is worth trying for these labels: lists of alternatives, of which the best one may be kept.

    Off-lung voxels where a group, a region or a label is named lung (of all labels when it is a single value); then
    the smallest component of each label; then holes in the lungs, or else in each label. Never the largest component
    only.
    """
    foreground = tuple(sorted(labels.foreground.values()))
    lung = labels.reported.get("lung", ())
    restricted = tuple(sorted(lung)) if len(lung) > 1 else foreground
    tries: list[list[PostStep]] = []
    if lung:
        tries.append([RestrictToLung(lung=tuple(sorted(lung)), labels=restricted)])
    tries += [[MinimumVolume(label=value, minimum_mm3=size) for size in MINIMUM_MM3] for value in foreground]
    holes = [tuple(sorted(lung))] if lung else [(value,) for value in foreground]
    tries += [[FillHoles(labels=values, maximum_mm3=size) for size in HOLE_MM3] for values in holes]
    return tries


def judge(
    pairs: Sequence[MaskPair],
    labels: LabelScheme,
    tries: Sequence[Sequence[PostStep]],
    *,
    weights_sha256: Sequence[str] = (),
    workers: int | None = None,
) -> PostProcessing:
    """Try steps one after another on out-of-fold masks, each on what the kept ones left.

    Of each list of alternatives the one with the largest mean foreground Dice is kept, if that is larger than without
    it and no class's or group's mean Dice is smaller. Raises the reader's errors.
    """
    held = [found for _, found in run_all(lambda pair: _hold(pair, labels), pairs, workers=workers)]
    held.sort(key=lambda item: item.case)
    judged: list[Judgement] = []
    for alternatives in tries:
        tried = [_try(held, step, labels, workers) for step in alternatives]
        better = [(judgement, after) for judgement, after in tried if judgement.kept]
        best = max(better, key=lambda item: item[0].foreground_after or 0.0, default=None)
        if best is not None:
            held = best[1]
            logger.info("kept: %s", describe(best[0].step))
        judged += [
            judgement.model_copy(update={"kept": best is not None and judgement is best[0]}) for judgement, _ in tried
        ]
    steps = tuple(judgement.step for judgement in judged if judgement.kept)
    return PostProcessing(
        steps=steps, judged=tuple(judged), cases=len(held), weights_sha256=tuple(sorted(weights_sha256))
    )


def _hold(pair: MaskPair, labels: LabelScheme) -> _Held:
    prediction, reference = read_label(pair.prediction), read_label(pair.reference)
    check_same_grid(prediction.orientation, reference.orientation, path=pair.prediction, other="its reference")
    mask, wanted = prediction.array[0], reference.array[0]
    box = foreground_box((mask != 0) | (wanted != 0))
    if box is not None:
        mask, wanted = mask[box], wanted[box]
    spacing = reference.grid.spacing_mm
    return _Held(pair.case, _pack(mask), _pack(wanted), spacing, _measure(pair.case, mask, wanted, spacing, labels))


def _pack(labels: NDArray[Any]) -> Any:
    return blosc2.asarray(np.ascontiguousarray(labels), cparams=blosc2.CParams(nthreads=1))


def _measure(
    case: str, mask: NDArray[Any], reference: NDArray[Any], spacing_mm: Sequence[float], labels: LabelScheme
) -> CaseMetrics:
    return measure_case(
        mask,
        reference,
        spacing_mm,
        labels.measured,
        labels.unions,
        case=case,
        prediction_file="",
        reference_file="",
        surface=False,
        ignore_label=labels.ignore,
    )


def _try(
    held: Sequence[_Held], step: PostStep, labels: LabelScheme, workers: int | None
) -> tuple[Judgement, list[_Held]]:
    """Apply a step to every case; return how it did and the cases after it."""
    after = sorted(
        (found for _, found in run_all(lambda item: _stepped(item, step, labels), held, workers=workers)),
        key=lambda item: item.case,
    )
    before_figures, after_figures = (_figures(cases) for cases in (held, after))
    judgement = Judgement(
        step=step,
        kept=helps(before_figures, after_figures),
        foreground_before=before_figures.foreground_mean.Dice,
        foreground_after=after_figures.foreground_mean.Dice,
        dice_before=dice_of(before_figures),
        dice_after=dice_of(after_figures),
    )
    return judgement, after


def _stepped(item: _Held, step: PostStep, labels: LabelScheme) -> _Held:
    mask = item.mask[:]
    changed = apply_step(mask, step, item.spacing_mm)
    if changed is mask:
        return item
    metrics = _measure(item.case, changed, item.reference[:], item.spacing_mm, labels)
    return replace(item, mask=_pack(changed), metrics=metrics)


def _figures(held: Iterable[_Held]) -> Summary:
    return summarise([item.metrics for item in held], None)


def dice_of(summary: Summary) -> dict[str, float | None]:
    """Return the mean Dice of each class and group by its key."""
    return {key: found.Dice for key, found in summary.mean.items()}


def helps(before: Summary, after: Summary) -> bool:
    """Say whether the mean foreground Dice is larger and no class's or group's is smaller or no longer defined."""
    whole = (before.foreground_mean.Dice, after.foreground_mean.Dice)
    if whole[0] is None or whole[1] is None or not whole[1] > whole[0]:
        return False
    return not _any_smaller(dice_of(before), dice_of(after))


def _any_smaller(before: Mapping[str, float | None], after: Mapping[str, float | None]) -> bool:
    pairs = [(value, after[key]) for key, value in before.items() if value is not None]
    return any(new is None or new < old for old, new in pairs)
