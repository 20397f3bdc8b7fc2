"""`name=value` texts as users type them after --set."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from siccs_net.errors import UsageError


def parse_set(overrides: Sequence[str] | Mapping[str, Any]) -> dict[str, Any]:
    """Return `name=value` texts as a mapping; values are JSON, and text where they are not.

    Raises UsageError for a text without a name or an equals sign.
    """
    if isinstance(overrides, Mapping):
        return dict(overrides)
    parsed: dict[str, Any] = {}
    for text in overrides:
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            raise UsageError(f"--set {text!r} is not of the form name=value", hint="Such as --set epochs=50")
        try:
            parsed[name.strip()] = json.loads(value)
        except ValueError:
            parsed[name.strip()] = value
    return parsed
