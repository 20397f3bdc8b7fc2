"""Two folders, images and labels, matched by name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from siccs_net.errors import UsageError
from siccs_net.interop.draft import Draft, DraftCase
from siccs_net.interop.names import Matching, match, nifti_files, stem
from siccs_net.io.dataset import Problem
from siccs_net.records.dataset import BACKGROUND


def draft_pairs(images: Path, labels: Path, *, channel: str = "CT", names: Mapping[str, int] | None = None) -> Draft:
    """Return the draft of a dataset with one channel from two folders of NIfTI files.

    `names` says what the label values mean (the background is 0 without being said); without it the values found are
    called label_1 and so on. A file without a partner, or with several, is a problem of the draft. Raises
    MissingPathError, UnavailableError or DataError for a folder without NIfTI files.
    """
    scans, scan_problems = nifti_files(images)
    masks, mask_problems = nifti_files(labels)
    matching = match(scans, masks)
    cases = tuple(DraftCase(name, (image,), label) for name, (image, label) in matching.pairs.items())
    problems = (*scan_problems, *mask_problems, *matching_problems(matching))
    meaning = None if names is None else {BACKGROUND: 0, **names}
    return Draft(cases, (channel,), meaning, problems=problems)


def parse_labels(texts: list[str]) -> dict[str, int]:
    """Return the label values of words such as lesion=1. Raises UsageError."""
    labels: dict[str, int] = {}
    for text in texts:
        found = re.fullmatch(r"(.+)=(\d+)", text, re.ASCII)
        if found is None or found[1].strip() in labels or int(found[2]) in labels.values():
            raise UsageError(
                "--labels is not understood", found=repr(text), expected="each name and value once, as in lesion=1"
            )
        labels[found[1].strip()] = int(found[2])
    if labels.get(BACKGROUND, 0) != 0 or any(value == 0 and name != BACKGROUND for name, value in labels.items()):
        raise UsageError("--labels gives the value 0 another name than background", found=" ".join(texts))
    return labels


def matching_problems(matching: Matching) -> list[Problem]:
    """Return a finding for every file that has no partner, or more than one."""
    problems = []
    for path in matching.images:
        message = f"{path}: has no label file; the name without endings such as _0000, _image, _ct must be the same"
        if second := _second_channel(path):
            message = f"{path}: is a second channel beside {second}; a dataset of pairs has one"
        problems.append(Problem("image without label", message, stem(path), path))
    for path in matching.labels:
        message = f"{path}: has no image file; the name without endings such as _label, _seg, _mask must be the same"
        problems.append(Problem("label without image", message, stem(path), path))
    for case, paths in matching.ambiguous.items():
        message = f"{case}: more than one image or label: {', '.join(map(str, paths))}; rename or remove all but one"
        problems.append(Problem("ambiguous name", message, case, paths[0]))
    return problems


def _second_channel(path: Path) -> str | None:
    found = re.fullmatch(r"(.+)_(?!0000)\d{4}", stem(path))
    if found is None:
        return None
    return next((first.name for first in path.parent.glob(f"{_literal(found[1])}_0000.*")), None)


def _literal(text: str) -> str:
    return re.sub(r"([*?[])", r"[\1]", text)
