"""A task of the Medical Segmentation Decathlon: TaskXX_Name with dataset.json, imagesTr, labelsTr and imagesTs.

Its images hold all channels of a scan in one file with four axes.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from siccs_net.errors import DatasetError, MissingPathError
from siccs_net.interop.draft import Draft, DraftCase
from siccs_net.interop.names import nifti_files, stem
from siccs_net.io import files
from siccs_net.io.dataset import Problem
from siccs_net.records.dataset import BACKGROUND

logger = logging.getLogger(__name__)
_KEPT_KEYS = ("name", "description", "reference", "licence", "license", "release")


def draft_decathlon(folder: Path) -> Draft:
    """Return the draft of a dataset from a Decathlon task; its imagesTs become test scans.

    Raises MissingPathError without dataset.json or imagesTr, DatasetError when its labels or channels make no sense,
    UnavailableError for a folder of other formats. A file that is missing is a problem of the draft.
    """
    path = folder / "dataset.json"
    if not path.is_file():
        raise MissingPathError("the folder has no dataset.json", path=folder, hint="Give a TaskXX_Name folder")
    body = _read_json(path)
    images, image_problems = _by_name(folder / "imagesTr")
    labels, label_problems = _by_name(folder / "labelsTr")
    tests, test_problems = _by_name(folder / "imagesTs") if _has_files(folder / "imagesTs") else ({}, [])
    cases = [DraftCase(name, (images[name],), labels[name]) for name in images if name in labels]
    cases += [DraftCase(name, (path,), None) for name, path in tests.items()]
    lone = _lone_files(images, labels)
    missing = _missing_files(folder, body, [*images.values(), *labels.values(), *tests.values()])
    return Draft(
        tuple(cases),
        _channel_names(body, path),
        _labels(body, path),
        further_keys={key: body[key] for key in _KEPT_KEYS if key in body},
        problems=(*image_problems, *label_problems, *test_problems, *lone, *missing),
    )


def task_name(folder: Path) -> tuple[int | None, str]:
    """Return the number and the name in TaskXX_Name, or no number and the folder's own name."""
    name = folder.resolve().name
    found = re.fullmatch(r"Task(\d+)_(.+)", name)
    return (int(found[1]), found[2]) if found else (None, name)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        body = json.loads(files.read_bytes(path))
    except ValueError as error:
        raise DatasetError("is not readable as JSON", path=path, found=str(error)) from error
    if not isinstance(body, dict):
        raise DatasetError("is not a JSON object", path=path, found=type(body).__name__)
    return body


def _channel_names(body: dict[str, Any], path: Path) -> tuple[str, ...]:
    names = body.get("modality")
    expected = 'such as {"0": "CT"}'
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise DatasetError("`modality` does not name the channels", path=path, found=names, expected=expected)
    if set(names) != {str(number) for number in range(len(names))} or not names:
        raise DatasetError("`modality` is not keyed 0, 1, …", path=path, found=list(names), expected=expected)
    return tuple(names[str(number)] for number in range(len(names)))


def _labels(body: dict[str, Any], path: Path) -> dict[str, int]:
    meaning = body.get("labels")
    expected = 'such as {"0": "background", "1": "lesion"}'
    if not isinstance(meaning, dict) or not all(re.fullmatch(r"\d+", key) for key in meaning):
        raise DatasetError("`labels` does not name the values", path=path, found=meaning, expected=expected)
    names = {int(key): name for key, name in meaning.items()}
    if 0 in names and names[0] != BACKGROUND:
        logger.warning("%s: the label 0, called %r, is called background in the dataset", path, names[0])
    names[0] = BACKGROUND
    if not all(isinstance(name, str) for name in names.values()) or len(set(names.values())) < len(meaning):
        raise DatasetError("`labels` gives two values one name", path=path, found=meaning, expected=expected)
    return {name: value for value, name in sorted(names.items())}


def _by_name(folder: Path) -> tuple[dict[str, Path], list[Problem]]:
    paths, problems = nifti_files(folder)
    found: dict[str, Path] = {}
    for path in paths:
        name = stem(path)
        if name in found:
            message = f"{name}: two files, {found[name]} and {path.name}; remove one"
            problems.append(Problem("ambiguous name", message, name, path))
        found[name] = path
    return found, problems


def _has_files(folder: Path) -> bool:
    return folder.is_dir() and any(not path.name.startswith(".") for path in folder.iterdir())


def _lone_files(images: dict[str, Path], labels: dict[str, Path]) -> list[Problem]:
    alone = [(name, "image without label", "has no label") for name in images if name not in labels]
    alone += [(name, "label without image", "has no image") for name in labels if name not in images]
    return [Problem(kind, f"{name}: {text}", name, images.get(name, labels.get(name))) for name, kind, text in alone]


def _missing_files(folder: Path, body: dict[str, Any], found: Iterable[Path]) -> list[Problem]:
    """Compare with the lists in dataset.json: an incomplete download is not taken for the whole task."""
    there = {path.relative_to(folder) for path in found}
    listed = []
    for entry in (*_entries(body.get("training")), *_entries(body.get("test"))):
        listed += list(entry.values()) if isinstance(entry, dict) else [entry]
    lost = [Path(text) for text in listed if isinstance(text, str) and Path(text) not in there]
    return [
        Problem("missing file", f"{path}: is listed in dataset.json and is not there", stem(path), folder / path)
        for path in lost
    ]


def _entries(listed: Any) -> list[Any]:
    return listed if isinstance(listed, list) else []
