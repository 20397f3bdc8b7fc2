"""Finds classes that others wrote: by object, entry point, `package.module:Class` or `path/file.py:Class`."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import sys
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType

from siccs_net.errors import MissingPathError, UsageError

TRAINERS = "siccs_net.trainers"
READERS = "siccs_net.readers"


def registered(group: str) -> dict[str, str]:
    """Return the names registered under an entry-point group with where each lives; imports nothing."""
    return {entry.name: entry.value for entry in sorted(entry_points(group=group))}


def find_class(name: str | type, group: str) -> type:
    """Return the class that `name` means.

    `name` is a class, a registered name, `package.module:Class` or `path/file.py:Class`. Raises UsageError that
    lists the registered names and the nearest one, or says what the module holds; MissingPathError for a missing
    file.
    """
    if isinstance(name, type):
        return name
    known = registered(group)
    source, _, attribute = known.get(name, name).partition(":")
    if not attribute:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"Did you mean {near[0]}? " if near else ""
        raise UsageError(
            f"no {group.rsplit('.', 1)[-1].rstrip('s')} called {name!r}",
            found=", ".join(known) or "nothing registered",
            hint=f"{hint}Your own class: package.module:Class or path/file.py:Class",
        )
    module = _module_from_file(Path(source)) if source.endswith(".py") else _module(source)
    found = getattr(module, attribute, None)
    if not isinstance(found, type):
        classes = [key for key, value in vars(module).items() if isinstance(value, type) and not key.startswith("_")]
        raise UsageError(f"{source} has no class {attribute!r}", found=", ".join(classes) or "no class")
    return found


def _module(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise UsageError(
            f"cannot import {name!r}", found=str(error), hint="Is it installed in this environment?"
        ) from error


def _module_from_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise MissingPathError("the plug-in file does not exist", path=path)
    name = f"siccs_plugin_{path.stem}_{abs(hash(path.resolve())):x}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UsageError("not a Python file", path=path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise UsageError(
            "the plug-in file cannot be imported", path=path, found=f"{type(error).__name__}: {error}"
        ) from error
    return module
