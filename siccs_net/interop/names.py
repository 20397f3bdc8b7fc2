"""Which label belongs to which image, told by their names: case_7_0000 and case_7, img-7 and mask-7, 7_ct and 7_seg."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from siccs_net.errors import DataError, MissingPathError, UnavailableError
from siccs_net.io.dataset import Problem
from siccs_net.io.formats import is_other_image, is_readable
from siccs_net.io.nifti import ENDINGS

_LABEL = r"(?:labels?|seg(?:mentation)?s?|masks?|gt|ground[-_]?truth|annotations?|roi)"
_WORD = rf"(?:images?|imgs?|scans?|vol(?:ume)?s?|(?:hr)?ct|{_LABEL})"
_LAST_WORDS = re.compile(rf"(?:[-_. ]{_WORD})+$", re.IGNORECASE)
_FIRST_WORDS = re.compile(rf"^(?:{_WORD}(?:[-_. ]|(?=\d)))+", re.IGNORECASE)
_IS_LABEL = re.compile(rf"(?:^|[-_. ]){_LABEL}(?:tr|ts)?(?:$|[-_. \d])", re.IGNORECASE)
_IS_WORD = re.compile(rf"{_WORD}(?:tr|ts)?", re.IGNORECASE)


@dataclass(frozen=True)
class Matching:
    """Images and labels by case, and the files that found no partner or more than one."""

    pairs: dict[str, tuple[Path, Path]]
    images: tuple[Path, ...]
    labels: tuple[Path, ...]
    ambiguous: dict[str, tuple[Path, ...]]


def stem(path: Path) -> str:
    """Return a file's name without .nii or .nii.gz."""
    return next((path.name.removesuffix(ending) for ending in ENDINGS if path.name.endswith(ending)), path.name)


def _without_channel(name: str) -> str:
    return re.sub(r"(?<=.)_0000$", "", name)


def _without_last_words(name: str) -> str:
    short = _without_channel(name)
    return _LAST_WORDS.sub("", short) or short


def _without_words(name: str) -> str:
    short = _without_last_words(name)
    return _FIRST_WORDS.sub("", short) or short


_SIMPLER: tuple[Callable[[str], str], ...] = (str, _without_channel, _without_last_words, _without_words)
"""Ways to make names alike, the most careful first: as they are, without _0000, without words at the end, at both."""


def match(images: Iterable[Path], labels: Iterable[Path], name_of: Callable[[Path], str] = stem) -> Matching:
    """Match labels with images by name, in the most careful way that matches the most."""
    matchings = [_match(tuple(images), tuple(labels), name_of, simpler) for simpler in _SIMPLER]
    return max(matchings, key=lambda matching: len(matching.pairs))


def _match(
    images: tuple[Path, ...], labels: tuple[Path, ...], name_of: Callable[[Path], str], simpler: Callable[[str], str]
) -> Matching:
    by_case: dict[str, tuple[list[Path], list[Path]]] = defaultdict(lambda: ([], []))
    for paths, kind in ((images, 0), (labels, 1)):
        for path in paths:
            by_case[simpler(name_of(path))][kind].append(path)
    pairs, ambiguous = {}, {}
    alone: tuple[list[Path], list[Path]] = ([], [])
    for case, (scans, masks) in sorted(by_case.items()):
        if len(scans) == len(masks) == 1:
            pairs[case] = (scans[0], masks[0])
        elif max(len(scans), len(masks)) > 1:
            ambiguous[case] = (*scans, *masks)
        else:
            alone[0].extend(scans)
            alone[1].extend(masks)
    return Matching(pairs, tuple(alone[0]), tuple(alone[1]), ambiguous)


def match_tree(folder: Path) -> Matching:
    """Match all NIfTI files below a folder, a mask told from a scan by its name or its folder's.

    The folders' names are part of a case's name only where that matches more files (P01/ct and P01/mask).
    """
    paths, _ = nifti_files(folder, deep=True)
    labels = [path for path in paths if _is_label(path, folder)]
    images = [path for path in paths if path not in labels]
    short = match(images, labels)
    long = match(images, labels, lambda path: _name_with_folders(path, folder))
    return max(short, long, key=lambda matching: len(matching.pairs))


def _is_label(path: Path, root: Path) -> bool:
    if _IS_LABEL.search(stem(path)):
        return True
    parts = path.relative_to(root).parts[:-1]
    return not _IS_WORD.fullmatch(_without_channel(stem(path))) and any(_IS_LABEL.search(part) for part in parts)


def _name_with_folders(path: Path, root: Path) -> str:
    parts = [part for part in path.relative_to(root).parts[:-1] if not _IS_WORD.fullmatch(part)]
    return "_".join([*parts, stem(path)])


def nifti_files(folder: Path, *, deep: bool = False) -> tuple[list[Path], list[Problem]]:
    """Return the NIfTI files of a folder (`deep`: and of those below) and the images in other formats as problems.

    Hidden files, also the `._` files that macOS leaves, are passed over. Raises MissingPathError, UnavailableError
    when all images are in other formats, DataError when there is no image at all.
    """
    if not folder.is_dir():
        raise MissingPathError("the folder does not exist", path=folder)
    there = sorted(folder.glob("**/*" if deep else "*"))
    found = [path for path in there if path.is_file() and not _hidden(path, folder)]
    paths = [path for path in found if path.name.endswith(ENDINGS)]
    others = [path for path in found if path not in paths and (is_readable(path) or is_other_image(path))]
    if not paths and others:
        example = f"{len(others)} images such as {others[0].name}"
        raise UnavailableError("holds no NIfTI file", path=folder, found=example, expected=" or ".join(ENDINGS))
    if not paths:
        raise DataError("holds no image", path=folder, expected=f"files ending in {' or '.join(ENDINGS)}")
    return paths, [other_format(path) for path in others]


def other_format(path: Path) -> Problem:
    """Return the finding for an image that this version does not read."""
    message = f"{path}: this file format is not read by this version of siccs_convert (it reads {', '.join(ENDINGS)})"
    return Problem("file format", message, path.name, path)


def _hidden(path: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(folder).parts)
