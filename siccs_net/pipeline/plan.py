"""Plan: fingerprint, rules, folds; writes fingerprint.json, plans/NAME.json and splits_final.json."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from siccs_net.data.splits import check_splits, make_nnunet_splits, make_splits
from siccs_net.errors import DatasetError, RecordError, UsageError
from siccs_net.io import files
from siccs_net.io.dataset import Dataset, read_splits, require_whole, splits_json
from siccs_net.pipeline.time_budget import Rung, plan_for_time
from siccs_net.pipeline.validate import split_problems, validate
from siccs_net.planners.drafts import Spacing
from siccs_net.planners.fingerprint import make_fingerprint
from siccs_net.planners.overrides import Overrides
from siccs_net.planners.planner import PlanRequest, dataset_shape, make_plan
from siccs_net.planners.rules import coarser_spacing
from siccs_net.planners.spread import describe_spread, spacing_spread, target_of
from siccs_net.records.dataset import Fold, Splits
from siccs_net.records.fingerprint import Fingerprint
from siccs_net.records.plan import Configuration, Plan
from siccs_net.workspace import DatasetFolder, Workspace

DEFAULT_FOLDS = {"grouped": 8, "nnunet": 5}
SPLIT_SEED = 12345
SplitKind = Literal["grouped", "nnunet"]
logger = logging.getLogger(__name__)


def plan(
    dataset: Dataset,
    *,
    planner: str = "convnext",
    preset: str | None = None,
    configurations: Sequence[str] | None = None,
    settings: Mapping[str, Any] | None = None,
    folds: int | None = None,
    split: SplitKind | None = None,
    name: str | None = None,
    source: Plan | None = None,
    overrides: Overrides | Mapping[str, Any] | None = None,
    workspace: Workspace | None = None,
    workers: int | None = None,
    save: bool = True,
    show_progress: bool = False,
    budget_minutes: float | None = None,
    device: str = "auto",
    prepare: Callable[[], None] | None = None,
) -> Plan:
    """Take a dataset's fingerprint, plan it and draw its folds.

    `settings` overrides parts of the plan by dotted name (`batch_size`, `network.widths`, `training.epochs`, …).
    `split` "nnunet" draws nnU-Net's own folds, "grouped" ours; None keeps those drawn before, else draws ours.
    `overrides` are partial configurations (`planners.overrides`), applied before them. `source` is another dataset's
    plan to take over instead of planning. With `budget_minutes` the spacing is made coarser, patch and batch smaller,
    until a training of so many minutes on `device` takes enough steps, which is measured in processes that call
    `prepare` first (`time_budget.plan_for_time`).

    With `save=False` (a dry run) nothing is written. Raises DatasetError that lists every error of the dataset.
    """
    place = (workspace or Workspace.resolve()).prepared_dataset(dataset.name)
    fingerprint = take_fingerprint(dataset, place, workers=workers, save=save, show_progress=show_progress)
    if folds is not None and folds < 2:
        raise UsageError("cross-validation needs two folds at least", found=folds)
    splits = choose_splits(dataset, fingerprint, place, folds, split)
    request = PlanRequest(
        planner,
        preset,
        tuple(configurations or ()),
        dict(settings or {}),
        len(splits.folds),
        name,
        source,
        overrides if isinstance(overrides, Overrides) else Overrides(overrides or {}),
    )
    planned = _planned(dataset, fingerprint, request, budget_minutes, device, prepare)
    made = _with_earlier_configurations(planned, place)
    for line in describe_spread(spacing_spread(fingerprint, target_of(made))):
        logger.info("%s", line)
    if save:
        files.write_unless_same(place.splits, splits_json(splits.folds))
        files.write_record(place.description, dataset.description)
        files.write_record(place.plan(made.name), made)
    return made


def _planned(
    dataset: Dataset,
    fingerprint: Fingerprint,
    request: PlanRequest,
    minutes: float | None,
    device: str,
    prepare: Callable[[], None] | None,
) -> Plan:
    if minutes is None:
        return make_plan(dataset, fingerprint, request)
    if request.preset is not None or request.source is not None:
        raise UsageError(
            "a time to plan for changes patch and batch, which a preset or another dataset's plan has settled",
            hint="Plan without it, and give the time to the training: siccs_train --budget",
        )

    coarser = _coarser_spacing(dataset, fingerprint, request)
    asked = request.settings.get("target_vram_gb")

    def plan_for(rung: Rung) -> Plan:
        rules: dict[str, Any] = {} if rung.vram_gb is None else {"target_vram_gb": rung.vram_gb}
        rules |= {"spacing_mm": coarser} if rung.coarse else {}
        settings = dict(request.settings)
        if rung.vram_gb != asked:
            settings.pop("target_vram_gb", None)
        return make_plan(dataset, fingerprint, replace(request, settings=settings, rules=rules))

    return plan_for_time(
        plan_for,
        request.configurations,
        minutes,
        dataset.labels,
        target_vram_gb=asked,
        may_coarsen=coarser is not None,
        device=device,
        prepare=prepare,
    )


def _coarser_spacing(dataset: Dataset, fingerprint: Fingerprint, request: PlanRequest) -> Spacing | None:
    """Return a coarser spacing to plan for; None where one is asked for, scans are coarse or stages share them."""
    own = request.overrides.body.get("configurations", {}).values()
    if "spacing_mm" in request.settings or any("spacing_mm" in item or "steps" in item for item in own):
        return None
    whole = make_plan(dataset, fingerprint, replace(request, configurations=()))
    if any(item.previous_stage or item.prepared_as for item in whole.configurations.values()):
        return None
    return coarser_spacing(dataset_shape(dataset, fingerprint))


def take_fingerprint(
    dataset: Dataset, place: DatasetFolder, *, workers: int | None, save: bool, show_progress: bool
) -> Fingerprint:
    """Return the dataset's fingerprint, reading only cases whose files changed since the last one."""
    require_whole(dataset)
    validation = validate(dataset, known=_last_fingerprint(place), workers=workers, show_progress=show_progress)
    for problem in validation.problems:
        if problem.severity == "warning":
            logger.warning("%s", problem.message)
    if validation.errors:
        first = "; ".join(problem.message for problem in validation.errors[:10])
        raise DatasetError(
            f"{len(validation.errors)} problems: {first}", path=dataset.folder, hint="siccs_validate lists them all"
        )
    fingerprint = make_fingerprint(dataset, list(validation.examinations))
    if save:
        files.write_record(place.fingerprint, fingerprint)
    return fingerprint


def _last_fingerprint(place: DatasetFolder) -> Fingerprint | None:
    if not place.fingerprint.is_file():
        return None
    try:
        return files.read_record(place.fingerprint, Fingerprint)
    except RecordError as error:
        logger.warning("taking the fingerprint anew: %s", error)
        return None


def _with_earlier_configurations(made: Plan, place: DatasetFolder) -> Plan:
    """Return the plan with those configurations of its earlier file that were not planned now (-c plans a part)."""
    path = place.plan(made.name)
    if not path.is_file():
        return made
    try:
        earlier = files.read_record(path, Plan)
    except RecordError as error:
        logger.warning("replacing the earlier plan: %s", error)
        return made
    others = _still_fitting(earlier, made)
    if not others or _source(earlier) != _source(made):
        return made
    logger.info("kept of the earlier plan: %s", ", ".join(others))
    kept = {
        key: value for key, value in earlier.provenance.items() if key.split(".")[1:2] and key.split(".")[1] in others
    }
    return made.model_copy(
        update={
            "configurations": {**others, **made.configurations},
            "provenance": {**kept, **made.provenance},
        }
    )


def _still_fitting(earlier: Plan, made: Plan) -> dict[str, Configuration]:
    """Return the earlier configurations that are not planned now, without those that share cases prepared otherwise."""
    others = {name: item for name, item in earlier.configurations.items() if name not in made.configurations}
    kept = {}
    for name, item in others.items():
        parent = made.configurations.get(item.prepared_as or "", item)
        if (parent.steps, parent.storage, parent.dimension) == (item.steps, item.storage, item.dimension):
            kept[name] = item
        else:
            logger.warning("dropped of the earlier plan: %s, as %s is prepared otherwise now", name, item.prepared_as)
    return {name: item for name, item in kept.items() if item.previous_stage in (None, *kept, *made.configurations)}


def _source(plan: Plan) -> tuple[object, ...]:
    return plan.planner, plan.preset, plan.trainer, plan.folds, plan.training, plan.dataset_name


def choose_splits(
    dataset: Dataset, fingerprint: Fingerprint, place: DatasetFolder, folds: int | None, split: SplitKind | None = None
) -> Splits:
    """Return the folds: the dataset's own file, else those drawn before if they fit and are as many, else new ones.

    New folds are "grouped" by patient and stratified by lesion volume (the group EF+GGO, else all foreground), or
    those of "nnunet"; a `split` that is asked for is always drawn. Raises UsageError for a number or kind of folds
    that is not the one of the dataset's own file, DatasetError where nnU-Net's folds would part a patient's scans.
    """
    if dataset.splits is not None:
        return _own_splits(dataset, dataset.splits, folds, split)
    drawn = _drawn_before(dataset, place)
    patients = len(set((dataset.patients or {name: name for name in dataset.cases}).values()))
    if split is None and drawn is not None and (folds is None or len(drawn.folds) == min(folds, patients)):
        logger.info("folds: %d, drawn before", len(drawn.folds))
        return drawn
    made = _draw_splits(dataset, fingerprint, folds, split or "grouped")
    if drawn not in (None, made):
        logger.warning("folds: %d, in place of other ones drawn before; they cannot be compared", len(made.folds))
    return made


def _own_splits(dataset: Dataset, own: Splits, folds: int | None, split: SplitKind | None) -> Splits:
    count = len(own.folds)
    if folds not in (None, count):
        raise UsageError(f"the dataset's splits_final.json has {count} folds, not {folds}", path=dataset.folder)
    if split is not None:
        raise UsageError(
            f"the dataset has folds of its own, so none are drawn by the rule {split!r}",
            path=dataset.folder / "splits_final.json",
            hint="Leave --splits out, or take the file away",
        )
    logger.info("folds: %d, from the dataset's splits_final.json", count)
    return own


def _drawn_before(dataset: Dataset, place: DatasetFolder) -> Splits | None:
    """Return the folds that lie in the dataset's folder, if they are folds of its cases as they are now."""
    if not place.splits.is_file():
        return None
    drawn = read_splits(place.splits)
    return drawn if not split_problems(dataset, drawn) and _covers(drawn, dataset) else None


def _draw_splits(dataset: Dataset, fingerprint: Fingerprint, folds: int | None, split: SplitKind) -> Splits:
    wanted = DEFAULT_FOLDS[split] if folds is None else folds
    cases = list(dataset.cases)
    if split == "nnunet":
        made = make_nnunet_splits(cases, folds=wanted, seed=SPLIT_SEED)
        if problems := check_splits(made, cases, dataset.patients):
            raise DatasetError(
                "nnU-Net's folds know no patients, and part the scans of some",
                path=dataset.folder,
                found="; ".join(problems[:3]),
                hint="Use --splits grouped",
            )
    else:
        volumes = lesion_volumes(dataset, fingerprint)
        made = make_splits(cases, folds=wanted, patients=dataset.patients, strata=volumes, seed=SPLIT_SEED)
    if len(made) < wanted:
        logger.warning("folds: %d instead of %d, as there are only that many patients", len(made), wanted)
    return Splits(folds=tuple(Fold(train=tuple(fold["train"]), val=tuple(fold["val"])) for fold in made))


def _covers(splits: Splits, dataset: Dataset) -> bool:
    validated = [case for fold in splits.folds for case in fold.val]
    return sorted(validated) == sorted(dataset.cases)


def lesion_volumes(dataset: Dataset, fingerprint: Fingerprint) -> dict[str, float]:
    """Return the lesion volume of each case in mm3, for stratification."""
    lesion = dataset.labels.groups.get("EF+GGO") or tuple(dataset.labels.foreground.values())
    volumes = {}
    for case in fingerprint.cases:
        z, y, x = case.spacing_mm
        volumes[case.case] = sum(case.label_voxels.get(str(value), 0) for value in lesion) * z * y * x
    return volumes
