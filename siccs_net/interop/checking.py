"""Every file of a draft is read once before anything is written; all that is wrong is found in that one reading."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from siccs_net.errors import DataError, GeometryError, ImageError, MissingPathError, SiccsError, UnavailableError
from siccs_net.interop.channels import split_channels
from siccs_net.interop.draft import Draft, DraftCase
from siccs_net.io import files
from siccs_net.io.dataset import Problem
from siccs_net.io.image import Image, check_same_grid, read_image, read_label
from siccs_net.io.nifti import ENDINGS
from siccs_net.io.table import shorten
from siccs_net.parallel import run_all
from siccs_net.records.dataset import LARGEST_LABEL

_MANY_VALUES = 256
"""A map with more distinct values than this is a scan, not a label map."""


@dataclass(frozen=True)
class CheckedCase:
    """A case whose files were read: their SHA-256, the label's values, and what is wrong."""

    case: DraftCase
    sha256: dict[Path, str]
    values: frozenset[int]
    problems: tuple[Problem, ...]


def check_draft(draft: Draft, *, workers: int | None = None) -> Iterator[CheckedCase]:
    """Yield each case as it has been read: readable, label on the image's grid, no value without a name."""
    known = None if draft.labels is None else frozenset(draft.labels.values())
    jobs = run_all(lambda case: check_case(case, draft.channels, known), draft.cases, workers=workers)
    return (checked for _, checked in jobs)


def check_case(case: DraftCase, channels: int, known: frozenset[int] | None) -> CheckedCase:
    """Read a case's files; `known` are the label values with a name (None: those found will be named)."""
    problems: list[Problem] = []
    hashes: dict[Path, str] = {}
    values: frozenset[int] = frozenset()
    image = label = None
    try:
        _require_nifti(*case.images)
        image = _read_stack(case.images[0], channels) if is_stack(case, channels) else read_image(case.images)
        hashes |= dict(zip(case.images, image.sha256, strict=True))
    except SiccsError as error:
        problems.append(problem_of(case.name, error))
    if case.label is not None:
        try:
            _require_nifti(case.label)
            label = read_label(case.label)
            hashes[case.label] = label.sha256[0]
            values = frozenset(_values(label.array[0]))
            problems += _value_problems(case, label.array[0], values, known)
        except SiccsError as error:
            problems.append(problem_of(case.name, error))
    if image is not None and label is not None:
        problems += _grid_problems(case, label, image)
    return CheckedCase(case, hashes, values, tuple(problems))


def _require_nifti(*paths: Path) -> None:
    """Refuse other formats: files are copied into the new dataset as they are, as .nii.gz."""
    for path in paths:
        if not path.name.endswith(ENDINGS):
            raise UnavailableError(
                "this file format is not read by this version of siccs_convert",
                path=path,
                expected=" or ".join(ENDINGS),
            )


def is_stack(case: DraftCase, channels: int) -> bool:
    """Say whether the case's one file holds all the channels."""
    return len(case.images) == 1 and channels > 1


def problem_of(case: str | None, error: SiccsError) -> Problem:
    """Return an error as a finding of a case."""
    kinds = {GeometryError: "geometry", MissingPathError: "missing file", UnavailableError: "file format"}
    text = str(error) if case is None else f"{case}: {error}"
    return Problem(kinds.get(type(error), "unreadable file"), text, case, error.path)


def _read_stack(path: Path, channels: int) -> Image:
    """Read a file of all channels as its parts will be read, so that nothing else passes than later will."""
    data = files.read_bytes(path)
    try:
        parts = split_channels(data)
        if len(parts) != channels:
            raise ImageError("has another number of channels than dataset.json", found=len(parts), expected=channels)
        with tempfile.TemporaryDirectory(prefix="siccs_") as folder:
            paths = [Path(folder) / f"{number}.nii" for number in range(channels)]
            for part_path, part in zip(paths, parts, strict=True):
                part_path.write_bytes(part)
            image = read_image(paths)
    except (ImageError, GeometryError) as error:
        raise type(error)(
            error.message, path=path, found=error.found, expected=error.expected, hint=error.hint
        ) from error
    return Image(image.array, image.orientation, image.header, (files.sha256(data),))


def _values(label: NDArray[Any]) -> set[int]:
    return set().union(*(np.unique(plane).tolist() for plane in label))


def _value_problems(
    case: DraftCase, label: NDArray[Any], values: frozenset[int], known: frozenset[int] | None
) -> list[Problem]:
    if len(values) > _MANY_VALUES:
        message = f"the label map holds {len(values)} different values; expected few. Is it the scan?"
        return [_label_problem(case, message)]
    if known is None:
        wrong = {value for value in values if not 0 <= value <= LARGEST_LABEL}
        expected = f"0 to {LARGEST_LABEL}"
    else:
        wrong, expected = set(values - known), ", ".join(map(str, sorted(known)))
    problems = []
    if wrong:
        listed = shorten([f"{value} ({np.count_nonzero(label == value)} voxels)" for value in sorted(wrong)], 5)
        hint = ". Is it the scan?" if min(wrong) < 0 else ""
        problems.append(_label_problem(case, f"the label map holds the values {listed}; expected {expected}{hint}"))
    elif values == {0}:
        message = f"{case.name}: {case.label}: the label map holds only background"
        problems.append(Problem("empty label", message, case.name, case.label, "warning"))
    return problems


def _label_problem(case: DraftCase, message: str) -> Problem:
    return Problem("label value", f"{case.name}: {case.label}: {message}", case.name, case.label)


def _grid_problems(case: DraftCase, label: Image, image: Image) -> list[Problem]:
    try:
        check_same_grid(label.orientation, image.orientation, path=case.label, other="its image")
    except DataError as error:
        return [problem_of(case.name, error)]
    return []
