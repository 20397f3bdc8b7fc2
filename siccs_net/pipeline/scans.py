"""The scans to predict: files of a folder grouped into cases, each whole or with what is wrong with it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from siccs_net.errors import (
    DataError,
    MissingPathError,
    SiccsError,
    UnavailableError,
    UsageError,
)
from siccs_net.io.dataset import split_channel
from siccs_net.io.formats import (
    endings,
    format_of,
    is_other_image,
    is_readable,
    stem,
    use_installed_readers,
)
from siccs_net.io.problem import name_problems, printable

_MEMORY_WORDS = ("DefaultCPUAllocator", "not enough memory", "out of memory")


@dataclass(frozen=True)
class Scan:
    """One scan to predict: its name and its files, one a channel.

    `problem` says why it is refused at once; its paths are then all the files that are refused with it. `channels` is
    how many the model takes, `previous` the previous stage's mask for a cascade, where it is given.
    """

    name: str
    paths: tuple[Path, ...]
    problem: SiccsError | None = None
    channels: int | None = None
    previous: Path | None = None

    @property
    def inputs(self) -> tuple[Path, ...]:
        """Every file that the mask is made from."""
        return self.paths if self.previous is None else (*self.paths, self.previous)


def find_scans(source: Path, channels: int) -> list[Scan]:
    """Return the scans in a folder, or the one in a file, in the order of their names.

    CASE_0000.nii.gz is channel 0 of CASE; with one channel CASE.nii.gz is taken too, and a number other than _0000
    belongs to the name (`split_channel`). A colour picture may hold all channels. Any ending that is read is taken;
    images in another format are scans with a `problem`. Raises
    MissingPathError for a path that does not exist, UsageError for a folder without an image.
    """
    if not source.exists():
        raise MissingPathError("the input does not exist", path=source)
    use_installed_readers()
    if source.is_file():
        return _scans_of_file(source, channels)
    paths = _visible_files(source)
    images = [path for path in paths if is_readable(path)]
    scans = [*_group(images, channels), *(_other_format(path) for path in paths if is_other_image(path))]
    if not scans:
        raise UsageError("the folder holds no image", path=source, expected=f"files ending in {' or '.join(endings())}")
    return sorted(scans, key=lambda scan: scan.name)


def _visible_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))


def _scans_of_file(path: Path, channels: int) -> list[Scan]:
    format_of(path)
    if channels == 1:
        return _group([path], channels)
    images = [other for other in sorted(path.parent.iterdir()) if is_readable(other)]
    return [scan for scan in _group(images, channels) if path in scan.paths]


def _group(images: Sequence[Path], channels: int) -> list[Scan]:
    names = {stem(path) for path in images}
    grouped: dict[str, dict[int, list[Path]]] = {}
    for path in images:
        name, channel = split_channel(stem(path), names, channels)
        grouped.setdefault(name, {}).setdefault(channel, []).append(path)
    return [_scan(name, found, channels) for name, found in sorted(grouped.items())]


def _other_format(path: Path) -> Scan:
    problem: SiccsError = UnavailableError(
        "this file format is not read by this version", path=path, expected=" or ".join(endings())
    )
    return Scan(printable(path.name), (path,), _name_problem(path.name, path) or problem)


def _name_problem(name: str, path: Path) -> DataError | None:
    problems = name_problems(name, path)
    return DataError(problems[0].message, path=path.parent) if problems else None


def _scan(name: str, found: dict[int, list[Path]], channels: int) -> Scan:
    paths = tuple(path for channel in sorted(found) for path in found[channel])
    problem = _name_problem(name, paths[0])
    listed = ", ".join(path.name for path in paths)
    if problem is None and len(paths) > len(found):
        problem = DataError("two files for one channel of one scan", path=paths[0], found=listed)
    elif problem is None and sorted(found) != list(range(channels)) and not _in_colour(paths, found):
        problem = DataError(
            "has other channels than the model",
            path=paths[0],
            found=f"channels {sorted(found)} ({listed})",
            expected=f"{channels} ({name}_0000 …)" if channels > 1 else "one file",
        )
    return Scan(printable(name), paths, problem, channels)


def _in_colour(paths: Sequence[Path], found: Collection[int]) -> bool:
    return set(found) == {0} and format_of(paths[0]).several_channels


def with_previous_masks(scans: Sequence[Scan], folder: Path) -> list[Scan]:
    """Return the scans with the previous stage's masks in a folder: NAME.nii.gz, or another ending that is read.

    A scan without one is refused in its turn. Raises MissingPathError for a folder that does not exist.
    """
    if not folder.is_dir():
        raise MissingPathError("the folder of the previous stage's masks does not exist", path=folder)
    return [_with_previous_mask(scan, folder) for scan in scans]


def _with_previous_mask(scan: Scan, folder: Path) -> Scan:
    if scan.problem is not None:
        return scan
    found = [folder / f"{scan.name}{ending}" for ending in endings() if (folder / f"{scan.name}{ending}").is_file()]
    if found:
        return replace(scan, previous=found[0])
    expected = f"{scan.name}{endings()[0]}"
    problem = DataError("the scan has no mask of the previous stage", path=folder, expected=expected)
    return replace(scan, problem=problem)


def part_of(scans: Sequence[Scan], parts: int, part: int) -> list[Scan]:
    """Return the scans of one of so many parts, counted from 0: each scan is in exactly one part.

    Raises UsageError for a part that does not exist.
    """
    if parts < 1 or not 0 <= part < parts:
        raise UsageError(f"there is no part {part} of {parts}", expected=f"0 to {parts - 1}" if parts > 0 else None)
    return list(scans[part::parts])
