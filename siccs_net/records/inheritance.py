"""`inherits_from`: a configuration of a plan that says only what differs from another one, as in nnU-Net's plans."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

KEY = "inherits_from"
_DECIDES_PREPARED = ("steps", "spacing_mm", "storage", "dimension")


def resolve_inheritance(configurations: Mapping[str, Any]) -> dict[str, Any]:
    """Return configurations (as in plan.json) with every `inherits_from` filled in and gone.

    Keys of the child win; nested objects are merged key by key, lists are replaced. A child shares the prepared cases
    of its parent unless it changes what decides them. Raises ValueError for an unknown parent or a circle.
    """
    return {name: _resolved(name, configurations, ()) for name in configurations}


def _resolved(name: str, configurations: Mapping[str, Any], children: tuple[str, ...]) -> Any:
    item = configurations[name]
    if not isinstance(item, Mapping) or KEY not in item:
        return item
    own = {key: value for key, value in item.items() if key != KEY}
    parent = item[KEY]
    way = (*children, name)
    if parent in way:
        raise ValueError(f"configurations.{name}.{KEY}: goes round in a circle ({' from '.join((*way, str(parent)))})")
    if parent not in configurations:
        raise ValueError(f"configurations.{name}.{KEY}: {_unknown(parent, list(configurations))}")
    inherited = _resolved(parent, configurations, way)
    if not isinstance(inherited, Mapping):
        return own
    shared = {} if any(key in own for key in _DECIDES_PREPARED) else {"prepared_as": parent}
    if inherited.get("prepared_as") is not None and shared:
        shared["prepared_as"] = inherited["prepared_as"]
    kept = {key: value for key, value in inherited.items() if key not in ("memory", "prepared_as")}
    return merged({**kept, **shared}, own)


def merged(base: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` with the keys of `own` over it; objects are merged, everything else is replaced."""
    result = dict(base)
    for key, value in own.items():
        both = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
        result[key] = merged(result[key], value) if both else value
    return result


def _unknown(parent: Any, known: list[str]) -> str:
    near = difflib.get_close_matches(str(parent), known, n=1)
    return f"no configuration {parent!r}; " + (f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}")
