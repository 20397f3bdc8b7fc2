"""Overrides of a plan in JSON: partial configurations over planned ones, and new ones by `inherits_from`."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from siccs_net.errors import UsageError
from siccs_net.records.base import explain
from siccs_net.records.inheritance import KEY, merged
from siccs_net.records.network import NetworkSpec
from siccs_net.records.plan import Configuration, Plan, Resize

_SECTIONS = ("configurations", "training", "trainer", "name")
_DECIDES_PREPARED = ("steps", "spacing_mm", "storage", "dimension")


@dataclass(frozen=True)
class Overrides:
    """What goes over a plan: `configurations`, `training`, `trainer`, `name`; and the file that says so."""

    body: Mapping[str, Any] = field(default_factory=dict)
    path: Path | None = None


def read_overrides(path: Path) -> Overrides:
    """Return the overrides in a JSON file. Raises UsageError naming it: not there, not JSON, no object of sections."""
    if not path.is_file():
        raise UsageError("there is no such file of overrides", path=path)
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise UsageError("not readable as JSON", path=path, found=str(error)) from error
    if not isinstance(body, dict):
        raise UsageError("overrides are a JSON object", path=path, found=type(body).__name__)
    try:
        _check_keys(body, _SECTIONS, "overrides")
        for name in ("configurations", "training"):
            if not isinstance(body.get(name, {}), dict):
                raise UsageError(f"{name} must be an object", found=type(body[name]).__name__)
        for name, own in body.get("configurations", {}).items():
            _check_configuration(name, own)
    except UsageError as error:
        raise UsageError(error.message, path=path, found=error.found, hint=error.hint) from error
    return Overrides(body, path)


def apply_overrides(plan: Plan, overrides: Overrides, *, stage_labels: int) -> Plan:
    """Return a plan with overrides over it: keys given win, objects are merged, lists are replaced.

    A configuration with `inherits_from` is new (or made anew) from another one. `spacing_mm` (plan axes) changes the
    resampling too, `patch_size` a whole-volume plan's resize. A second stage planned as a copy of a configuration
    follows that one's overrides. A network takes `stage_labels` more channels with a `previous_stage` unless
    `network.in_channels` says otherwise. Raises UsageError for what does not fit the schema or an unknown parent.
    """
    try:
        return _applied(plan, overrides.body, stage_labels)
    except ValidationError as error:
        raise UsageError("an override does not fit", path=overrides.path, found=explain(error)) from error
    except UsageError as error:
        raise UsageError(
            error.message, path=overrides.path, found=error.found, expected=error.expected, hint=error.hint
        ) from error


def _applied(plan: Plan, overrides: Mapping[str, Any], stage_labels: int) -> Plan:
    document = plan.model_dump(mode="json")
    document |= {name: overrides[name] for name in ("trainer", "name") if name in overrides}
    document["training"] |= overrides.get("training", {})
    own = _with_followers(plan, overrides.get("configurations", {}))
    build = _Builder(document["configurations"], own, stage_labels)
    document["configurations"] = {name: build.configuration(name) for name in {**document["configurations"], **own}}
    document["provenance"] |= _provenance(overrides)
    return Plan.model_validate_json(json.dumps(document))


def _with_followers(plan: Plan, own: Mapping[str, Any]) -> dict[str, Any]:
    """Add what a planned second stage takes over of the overrides of the configuration it is a copy of."""
    changed = dict(own)
    for name, item in plan.configurations.items():
        parent = own.get(item.prepared_as or "")
        if item.previous_stage is None or parent is None or KEY in parent or KEY in own.get(name, {}):
            continue
        taken = {key: value for key, value in parent.items() if key not in ("previous_stage", "prepared_as")}
        kept = {} if any(key in own.get(name, {}) for key in _DECIDES_PREPARED) else {"prepared_as": item.prepared_as}
        changed[name] = merged({**taken, **kept}, own.get(name, {}))
    return changed


class _Builder:
    """Builds configurations, each after the one that it inherits from."""

    def __init__(self, planned: Mapping[str, Any], own: Mapping[str, Any], stage_labels: int) -> None:
        self.planned, self.own, self.stage_labels = planned, own, stage_labels

    def configuration(self, name: str, children: tuple[str, ...] = ()) -> dict[str, Any]:
        """Return one configuration of plan.json."""
        if name in children:
            way = " from ".join((*children, name))
            raise UsageError(f"{KEY} goes round in a circle", found=f"{way}, in configurations.{name}")
        own = dict(self.own.get(name, {}))
        if KEY in own:
            base = self._parent(name, own.pop(KEY), (*children, name))
        else:
            base = dict(self.planned.get(name, {}))
        return self._over(base, own) if own or name not in self.planned else base

    def _parent(self, name: str, parent: str, children: tuple[str, ...]) -> dict[str, Any]:
        known = {**self.planned, **self.own}
        if parent not in known:
            raise UsageError(
                f"configuration {name!r} inherits from {parent!r}, which is none", hint=_nearest(parent, list(known))
            )
        base = self.configuration(parent, children)
        return {**base, "prepared_as": base.get("prepared_as") or parent, "memory": None}

    def _over(self, base: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
        spacing = own.pop("spacing_mm", None) if base and "steps" not in own else None
        changed = spacing is not None or any(key in own for key in _DECIDES_PREPARED)
        if changed and "prepared_as" not in own:
            own["prepared_as"] = None
        result = merged(base, own)
        if spacing is not None:
            resample_to(result, spacing)
        if "patch_size" in own and "steps" in result:
            fix_resize(result, own["patch_size"])
        if "previous_stage" in own and "in_channels" not in own.get("network", {}) and "network" in result:
            more = self.stage_labels if own["previous_stage"] is not None else 0
            channels = len(result.get("normalisation", ())) + more
            result["network"] = {**result["network"], "in_channels": channels}
        return result


def resample_to(configuration: dict[str, Any], spacing_mm: Sequence[float | None]) -> None:
    """Change the spacing (plan axes, mm) that a configuration resamples to, and what follows from it.

    A resize after it decides shape and spacing of the prepared case, whatever the spacing before it. An axis that is
    left as scanned (null) stays so in a 2D configuration. Raises UsageError for a plan that does not resample.
    """
    if not isinstance(spacing_mm, list | tuple) or len(spacing_mm) != 3:
        raise UsageError("spacing_mm must be three positive numbers (z, y, x)", found=spacing_mm)
    steps = {step["step"]: step for step in configuration["steps"]}
    if "resample" not in steps:
        raise UsageError("the plan does not resample, so spacing_mm changes nothing", found=", ".join(steps))
    old, shape = configuration["spacing_mm"], configuration["median_shape"]
    wanted = [None if was is None else now for was, now in zip(old, spacing_mm, strict=True)]
    configuration["steps"] = [
        {**step, "spacing_mm": wanted} if step["step"] == "resample" else step for step in configuration["steps"]
    ]
    if "resize" in steps:
        return
    configuration["median_shape"] = [
        n if was is None or not now else n * was / now for n, was, now in zip(shape, old, wanted, strict=True)
    ]
    configuration["spacing_mm"] = wanted


def fix_resize(configuration: dict[str, Any], patch_size: Any) -> None:
    """A whole-volume plan resizes every scan to its patch: the two are one setting."""
    configuration["steps"] = [
        {**step, "shape": patch_size} if step["step"] == Resize.model_fields["step"].default else step
        for step in configuration["steps"]
    ]


def _check_configuration(name: str, own: Any) -> None:
    if not isinstance(own, dict):
        raise UsageError(f"configurations.{name} must be an object", found=type(own).__name__)
    _check_keys(own, (*Configuration.model_fields, KEY), f"configurations.{name}")
    if isinstance(own.get("network"), dict):
        _check_keys(own["network"], tuple(NetworkSpec.model_fields), f"configurations.{name}.network")


def _check_keys(body: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    for key in body:
        if key not in known:
            raise UsageError(f"{where} has no key {key!r}", hint=_nearest(key, list(known)))


def _nearest(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"Did you mean {near[0]}?" if near else f"There are {', '.join(known)}"


def _provenance(overrides: Mapping[str, Any]) -> dict[str, str]:
    """Say which values are the user's, and which configurations are made from another one."""
    found = {f"training.{name}": "user" for name in overrides.get("training", {})}
    found |= {name: "user" for name in ("trainer", "name") if name in overrides}
    for name, own in overrides.get("configurations", {}).items():
        found |= {f"configurations.{name}": f"inherits:{own[KEY]}"} if KEY in own else {}
        found |= {f"configurations.{name}.{path}": "user" for path in _leaves(own) if path != KEY}
    return found


def _leaves(body: Mapping[str, Any], prefix: str = "") -> list[str]:
    paths = []
    for key, value in body.items():
        paths += _leaves(value, f"{prefix}{key}.") if isinstance(value, Mapping) else [f"{prefix}{key}"]
    return paths
