"""From a fingerprint to a plan: rules give drafts, presets change them, overrides have the last word."""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from siccs_net.errors import UsageError
from siccs_net.io.dataset import Dataset
from siccs_net.planners.convnext_rules import iterations_per_epoch, plan_convnext
from siccs_net.planners.drafts import ConfigurationDraft, DatasetShape, PlanDraft
from siccs_net.planners.flops import forward_flops
from siccs_net.planners.memory import inference_memory, training_memory
from siccs_net.planners.moved import moved_plan
from siccs_net.planners.nnunet_rules import plan_nnunet
from siccs_net.planners.overrides import Overrides, apply_overrides, fix_resize, resample_to
from siccs_net.planners.presets import DEFAULT_TRAINER, PRESETS, TRAINER_OF
from siccs_net.planners.skipping import with_skipping
from siccs_net.records.base import explain
from siccs_net.records.fingerprint import Fingerprint
from siccs_net.records.plan import (
    ChannelNormalisation,
    Configuration,
    CropBody,
    InferenceSettings,
    MemoryFigures,
    Orient,
    Plan,
    Resample,
    Step,
)

NNUNET_PLANNERS = ("nnunet", "nnunet_resenc", "nnunet_resenc_m", "nnunet_resenc_l", "nnunet_resenc_xl")
PLANNERS = ("convnext", *NNUNET_PLANNERS)
NNUNET_ITERATIONS = 250
_RULE_SETTINGS = ("spacing_mm", "target_vram_gb")
_PLAN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_SCHEMES = {
    "ct": "ct",
    "nonorm": "none",
    "rescale_to_0_1": "rescale_to_0_1",
    "rgb_to_0_1": "rgb_to_0_1",
}


@dataclass(frozen=True)
class PlanRequest:
    """What a user asks of planning; empty `configurations` means all that the rules give.

    `source` is a plan of another dataset to take over instead of planning; `overrides` are those of `overrides`.
    `rules` are settings of the rules (`spacing_mm`, `target_vram_gb`) that nobody asked for; the user's go before them.
    """

    planner: str = "convnext"
    preset: str | None = None
    configurations: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    folds: int = 8
    name: str | None = None
    source: Plan | None = None
    overrides: Overrides = field(default_factory=Overrides)
    rules: Mapping[str, Any] = field(default_factory=dict)


def make_plan(dataset: Dataset, fingerprint: Fingerprint, request: PlanRequest) -> Plan:
    """Return the plan of a dataset. Pure: reads and writes nothing.

    Raises UsageError for an unknown planner, preset, configuration or setting, a name that cannot be a file's, and
    settings that do not fit together (such as a patch size that is no multiple of the network's stride). Settings
    under `training.` are checked by the trainer, not here.
    """
    ruled = request.preset is None and request.source is None
    planned = with_skipping(_unchanged(dataset, fingerprint, request), fingerprint)
    plan = apply_overrides(planned, request.overrides, stage_labels=len(dataset.labels.stage_values))
    overridden = _overridden(_chosen(plan, request.configurations), request.settings, ruled=ruled)
    check_plan_name(overridden.name)
    return _with_memory(overridden)


def _unchanged(dataset: Dataset, fingerprint: Fingerprint, request: PlanRequest) -> Plan:
    """Return the plan of the rules, of a preset or of another dataset, before any override."""
    if request.source is not None:
        shape = dataset_shape(dataset, fingerprint)
        return moved_plan(request.source, dataset, shape, folds=request.folds, name=request.name)
    if request.preset is not None:
        return _from_preset(dataset, fingerprint, request)
    return _self_configured(dataset, fingerprint, request)


def _chosen(plan: Plan, wanted: tuple[str, ...]) -> Plan:
    """Return the plan with the configurations asked for, and the stages that come before them."""
    missing = [name for name in wanted if name not in plan.configurations]
    if missing:
        raise UsageError(
            f"the plan of this dataset has no configuration {', '.join(missing)}",
            found=", ".join(plan.configurations) or "none",
        )
    if not wanted:
        return plan
    kept = {name: plan.configurations[name] for name in plan.configurations if name in plan.with_stages(wanted)}
    provenance = {
        path: origin
        for path, origin in plan.provenance.items()
        if not path.startswith("configurations.") or path.split(".")[1] in kept
    }
    return plan.model_copy(update={"configurations": kept, "provenance": provenance})


def check_plan_name(name: str) -> None:
    """Raise UsageError unless a plan may be called so: it names files, and `__` parts a model folder's name."""
    if not _PLAN_NAME.fullmatch(name) or ".." in name or "__" in name:
        raise UsageError(
            f"a plan cannot be called {name!r}",
            expected="letters, digits, '_', '.' and '-', beginning with a letter or digit, without '..' and '__'",
        )


def dataset_shape(dataset: Dataset, fingerprint: Fingerprint) -> DatasetShape:
    """Return what the rules need of a fingerprint."""
    return DatasetShape(
        spacings_mm=tuple(case.spacing_mm for case in fingerprint.cases),
        shapes=tuple(case.cropped_shape for case in fingerprint.cases),
        cases=dataset.description.numTraining or len(fingerprint.cases),
        labels=len(dataset.description.labels),
        channels=dataset.description.channels,
    )


def _self_configured(dataset: Dataset, fingerprint: Fingerprint, request: PlanRequest) -> Plan:
    shape = dataset_shape(dataset, fingerprint)
    given = {**request.rules, **request.settings}
    rules = {name: given[name] for name in _RULE_SETTINGS if name in given}
    draft = _draft(shape, request.planner, rules)
    ours = request.planner == "convnext"
    configurations = {
        name: _configuration(item, draft, dataset, fingerprint, ours=ours)
        for name, item in draft.configurations.items()
    }
    return Plan(
        name=request.name or request.planner,
        dataset_name=dataset.name,
        planner=request.planner,
        trainer=TRAINER_OF.get(request.planner, DEFAULT_TRAINER),
        folds=request.folds,
        configurations=configurations,
        provenance=_provenance(request.planner, configurations),
    )


def _draft(shape: DatasetShape, planner: str, rules: Mapping[str, Any]) -> PlanDraft:
    if planner not in PLANNERS:
        near = difflib.get_close_matches(planner, PLANNERS, n=1)
        hint = f"Did you mean {near[0]}?" if near else f"There are {', '.join(PLANNERS)}"
        raise UsageError(f"no planner called {planner!r}", hint=hint)
    target = _spacing(rules["spacing_mm"]) if "spacing_mm" in rules else None
    vram = _vram(rules["target_vram_gb"]) if "target_vram_gb" in rules else None
    if planner == "convnext":
        return plan_convnext(shape, target_vram_gb=vram, spacing_mm=target)
    return plan_nnunet(shape, planner, target_vram_gb=vram, spacing_mm=target)


def _spacing(value: Any) -> tuple[float, float, float]:
    numbers = [_positive(item) for item in value] if isinstance(value, list | tuple) else []
    if len(numbers) != 3 or None in numbers:
        raise UsageError("spacing_mm must be three positive numbers (z, y, x)", found=value)
    z, y, x = (float(number) for number in value)
    return z, y, x


def _vram(value: Any) -> float:
    number = _positive(value)
    if number is None:
        raise UsageError("target_vram_gb must be a positive number", found=value)
    return number


def _positive(value: Any) -> float | None:
    """Return a finite number above 0, None for anything else."""
    fits = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value > 0
    return float(value) if fits else None


def _configuration(
    draft: ConfigurationDraft, plan: PlanDraft, dataset: Dataset, fingerprint: Fingerprint, *, ours: bool
) -> Configuration:
    steps: list[Step] = [Orient(transpose=plan.transpose_forward)]
    if fingerprint.crop_threshold_hu is not None:
        steps.append(CropBody(threshold_hu=fingerprint.crop_threshold_hu, margin_mm=fingerprint.crop_margin_mm))
    steps.append(Resample(spacing_mm=draft.spacing_mm, order=3, antialias=ours))
    normalisation = normalisation_schemes(dataset, region="all" if ours else "foreground")
    stage_labels = len(dataset.labels.stage_values) if draft.previous_stage else 0
    network = draft.network.model_copy(
        update={
            "classes": dataset.labels.outputs,
            "in_channels": draft.network.in_channels + stage_labels,
        }
    )
    return Configuration(
        dimension=network.dimension,
        steps=tuple(steps),
        spacing_mm=draft.spacing_mm,
        median_shape=draft.median_shape,
        storage="int16" if all(item.scheme == "ct" for item in normalisation) else "float32",
        normalisation=normalisation,
        patch_size=draft.patch_size,
        batch_size=draft.batch_size,
        iterations_per_epoch=_iterations(draft, dataset) if ours else NNUNET_ITERATIONS,
        batch_dice=draft.batch_dice,
        network=network,
        inference=InferenceSettings(mirror_axes=("L-R",) if ours else ("S-I", "A-P", "L-R")),
        previous_stage=draft.previous_stage,
        prepared_as=draft.inherits_from,
    )


def _iterations(draft: ConfigurationDraft, dataset: Dataset) -> int:
    return iterations_per_epoch(
        len(dataset.cases), draft.median_shape, patch_size=draft.patch_size, batch_size=draft.batch_size
    )


def normalisation_schemes(dataset: Dataset, *, region: Any) -> tuple[ChannelNormalisation, ...]:
    """Return each channel's scheme by its name: CT, noNorm, rescale_to_0_1, rgb_to_0_1; anything else z-score."""
    names = [dataset.description.channel_names[str(number)] for number in range(dataset.description.channels)]
    schemes = [_SCHEMES.get(name.strip().lower(), "zscore_image") for name in names]
    return tuple(ChannelNormalisation.model_validate({"scheme": scheme, "region": region}) for scheme in schemes)


def _provenance(planner: str, configurations: Mapping[str, Configuration]) -> dict[str, str]:
    """Say for every planned value which rule gave it."""
    rule = f"rule:{planner}"
    names = ("spacing_mm", "patch_size", "batch_size", "iterations_per_epoch", "network", "normalisation")
    found = {f"configurations.{config}.{name}": rule for config in configurations for name in names}
    crop = {f"configurations.{config}.steps.crop_body": "assumed" for config in configurations}
    inference = {f"configurations.{config}.inference": "assumed" for config in configurations}
    return {**found, **crop, **inference, "training": "assumed"}


def _from_preset(dataset: Dataset, fingerprint: Fingerprint, request: PlanRequest) -> Plan:
    if request.preset not in PRESETS:
        near = difflib.get_close_matches(str(request.preset), PRESETS, n=1)
        hint = f"Did you mean {near[0]}?" if near else f"There are {', '.join(PRESETS)}"
        raise UsageError(f"no preset called {request.preset!r}", hint=hint)
    preset: Callable[..., Plan] = PRESETS[request.preset]
    return preset(dataset, fingerprint, dataset_shape(dataset, fingerprint), folds=request.folds, name=request.name)


def _overridden(plan: Plan, settings: Mapping[str, Any], *, ruled: bool) -> Plan:
    """Apply `--set` to every configuration (or, under `training.`, to the training settings).

    `ruled` says that the rules have planned it, with the settings that are theirs.
    """
    document = plan.model_dump(mode="json")
    for name, value in settings.items():
        if not ruled or name not in _RULE_SETTINGS:
            _apply(document, name, value)
        _mark_as_users(document["provenance"], name)
    try:
        return Plan.model_validate_json(json.dumps(document))
    except ValidationError as error:
        raise UsageError("a plan setting does not fit", found=explain(error)) from error


def _apply(document: dict[str, Any], name: str, value: Any) -> None:
    first, _, rest = name.partition(".")
    if first == "training" and rest:
        document["training"][rest] = value
    elif first in ("trainer", "name") and not rest:
        document[first] = value
    elif name == "spacing_mm":
        _resample_all(document["configurations"], _spacing(value))
    else:
        _set_in_configurations(document["configurations"], name, value)


def _resample_all(configurations: Mapping[str, Any], spacing_mm: tuple[float, float, float]) -> None:
    """Resample every configuration to a spacing [z, y, x]. Raises UsageError where stages would become one."""
    if any(item.get("previous_stage") for item in configurations.values()):
        raise UsageError(
            "spacing_mm would make the stages of a cascade alike", hint="Set each configuration's with --overrides"
        )
    for configuration in configurations.values():
        orient: Mapping[str, Any] = next(iter(configuration["steps"]), {})
        order = orient.get("transpose", (0, 1, 2))
        resample_to(configuration, [spacing_mm[axis] for axis in order])


def _mark_as_users(provenance: dict[str, str], name: str) -> None:
    """Say that a setting is the user's, also where a preset says of a configuration where it came from."""
    for path in [path for path in provenance if path.endswith(f".{name}")]:
        provenance[path] = "user"
    provenance[name] = "user"


def _set_in_configurations(configurations: dict[str, Any], name: str, value: Any) -> None:
    for configuration in configurations.values():
        place, parts = configuration, name.split(".")
        for part in parts[:-1]:
            place = _inside(place, part, name)
        _inside(place, parts[-1], name)
        place[parts[-1]] = value
        if name == "patch_size":
            fix_resize(configuration, value)


def _inside(place: Any, part: str, name: str) -> Any:
    if not isinstance(place, dict) or part not in place:
        known = list(place) if isinstance(place, dict) else []
        near = difflib.get_close_matches(part, known, n=1)
        hint = f"Did you mean {near[0]}?" if near else f"There are {', '.join(known) or 'no parts'}"
        raise UsageError(f"a plan has no setting {name!r}", hint=hint)
    return place[part]


def _with_memory(plan: Plan) -> Plan:
    return plan.model_copy(
        update={"configurations": {name: _measured(item, plan) for name, item in plan.configurations.items()}}
    )


def _measured(configuration: Configuration, plan: Plan) -> Configuration:
    """Fill in the expected memory (bfloat16 activations on a GPU, as autocast keeps them) and work."""
    batch = plan.training.get("batch_size") or configuration.batch_size
    training = training_memory(
        configuration.network,
        configuration.patch_size,
        math.ceil(batch / plan.training.get("gradient_accumulation", 1)),
        activation_bytes=2,
        checkpointing=bool(plan.training.get("checkpointing", False)),
    )
    figures = MemoryFigures(
        parameters=training.parameters,
        training_bytes=training.total_bytes,
        inference_bytes=inference_memory(configuration.network, configuration.patch_size).total_bytes,
        forward_flops=forward_flops(configuration.network, configuration.patch_size),
    )
    return configuration.model_copy(update={"memory": figures})
