"""What is wrong with a dataset, one finding at a time, and which names cannot be a case's."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

MAX_NAME = 200


@dataclass(frozen=True)
class Problem:
    """One finding about a dataset: its kind in a few fixed words, where, and one line that says what to do."""

    kind: str
    message: str
    case: str | None = None
    path: Path | None = None
    severity: Literal["error", "warning"] = "error"


def is_utf8(name: str) -> bool:
    """Say whether a file's name is text; bytes that are not UTF-8 reach Python as lone surrogates."""
    return printable(name) == name


def printable(name: str) -> str:
    """Return the name with what is not UTF-8 written as escapes."""
    return name.encode("utf-8", "backslashreplace").decode()


def name_problems(name: str, path: Path) -> list[Problem]:
    """Say why a case's name cannot be used as a file name (control characters, separators, dashes, length)."""
    reasons = []
    if not is_utf8(name):
        reasons.append("bytes that are not UTF-8")
    if any(ord(letter) < 32 or ord(letter) == 127 for letter in name):
        reasons.append("a control character such as a line break")
    if "/" in name or "\\" in name or name.startswith(".") or ".." in name:
        reasons.append("a path separator, a leading dot or '..'")
    if name.startswith("-"):
        reasons.append("a leading dash")
    if len(name) > MAX_NAME or len(printable(name).encode()) > MAX_NAME:
        reasons.append(f"more than {MAX_NAME} bytes")
    shown = name if len(name) <= 60 else name[:57] + "…"
    message = f"{shown!r} has {{}}; rename its files"
    return [Problem("case name", message.format(reason), printable(name), path) for reason in reasons]
