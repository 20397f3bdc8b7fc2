"""A dataset folder in nnU-Net's layout: which files belong to which case, and what is wrong with it."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from siccs_net.errors import DatasetError, MissingPathError, UsageError
from siccs_net.io import files
from siccs_net.io.formats import (
    endings,
    format_of,
    is_other_image,
    is_readable,
    stem,
    use_installed_readers,
    use_reader_of_dataset,
)
from siccs_net.io.patients import read_patients
from siccs_net.io.problem import Problem as Problem
from siccs_net.io.problem import is_utf8, name_problems
from siccs_net.records.dataset import DatasetDescription, Fold, LabelScheme, Splits


@dataclass(frozen=True)
class Case:
    """The files of one case: one image a channel (or one of all, in colour), its label map; what patients.csv says."""

    name: str
    images: tuple[Path, ...]
    label: Path | None
    patient: str | None = None
    thickness_mm: float | None = None


@dataclass(frozen=True)
class Dataset:
    """A dataset folder as found. `problems` holds what is wrong with the layout; `cases` only whole cases."""

    folder: Path
    description: DatasetDescription
    cases: dict[str, Case]
    splits: Splits | None = None
    problems: tuple[Problem, ...] = field(default=())

    @property
    def name(self) -> str:
        """The folder's name, such as Dataset501_Lungs."""
        return self.folder.name

    @property
    def labels(self) -> LabelScheme:
        """The meaning of label values."""
        return self.description.label_scheme

    @property
    def patients(self) -> dict[str, str] | None:
        """Patient of each case, or None when the dataset does not say (each case is then its own patient)."""
        named = {case.name: case.patient for case in self.cases.values() if case.patient is not None}
        return named or None

    @property
    def thickness_mm(self) -> dict[str, float]:
        """Slice thickness of the cases of which patients.csv gives it."""
        return {case.name: case.thickness_mm for case in self.cases.values() if case.thickness_mm is not None}


def open_dataset(folder: Path | str) -> Dataset:
    """Open a dataset folder: read dataset.json, patients.csv and splits_final.json and find every case's files.

    Opens no image. Raises MissingPathError without a dataset.json, RecordError for a wrong one; every other problem
    is collected in `Dataset.problems`.
    """
    root = Path(folder).resolve()
    if not (root / "dataset.json").is_file():
        raise MissingPathError(
            "the folder has no dataset.json", path=root, hint="Give nnU-Net's DatasetXXX_Name folder"
        )
    return inspect_dataset(root, read_description(root / "dataset.json"))


def inspect_dataset(root: Path, description: DatasetDescription) -> Dataset:
    """Return the dataset in a folder as a description, not yet written there, says that it is (`open_dataset`)."""
    problems = _reader_problems(root, description)
    cases, case_problems = _find_cases(root, description)
    patients, thickness_mm, patient_problems = read_patients(root / "patients.csv", cases)
    cases = {
        name: Case(name, case.images, case.label, patients.get(name), thickness_mm.get(name))
        for name, case in sorted(cases.items())
    }
    splits, split_problems = _read_splits_leniently(root / "splits_final.json")
    count = _count_problem(description, len(cases))
    problems += [*case_problems, *_store_problems(cases, root), *patient_problems, *split_problems, *count]
    problems += _painted_over(description, root)
    return Dataset(root, description, cases, splits, tuple(problems))


def _painted_over(description: DatasetDescription, root: Path) -> list[Problem]:
    """Return a warning for each region that lies within a later one: it is painted over wherever it is predicted."""
    regions = [(name, set(values)) for name, values in description.label_scheme.regions.items()]
    found = []
    for number, (name, values) in enumerate(regions):
        for wider, others in regions[number + 1 :]:
            if values < others:
                message = (
                    f"region {name} is part of {wider}, which comes after it in labels and is painted over it: "
                    f"list {wider} first, in labels and in regions_class_order"
                )
                found.append(Problem("regions", message, path=root / "dataset.json", severity="warning"))
    return found


def read_description(path: Path) -> DatasetDescription:
    """Read dataset.json. Raises MissingPathError or RecordError."""
    return files.read_record(path, DatasetDescription)


def require_whole(dataset: Dataset) -> None:
    """Raise DatasetError that lists every error of the layout (the first ten in full)."""
    errors = [problem for problem in dataset.problems if problem.severity == "error"]
    if errors:
        listed = "; ".join(problem.message for problem in errors[:10])
        more = f"; and {len(errors) - 10} more" if len(errors) > 10 else ""
        raise DatasetError(
            f"{len(errors)} problems: {listed}{more}", path=dataset.folder, hint="siccs_validate lists them all"
        )
    if not dataset.cases:
        raise DatasetError(
            "the dataset has no case", path=dataset.folder, expected="images in imagesTr, labels in labelsTr"
        )


def read_splits(path: Path) -> Splits:
    """Read splits_final.json, nnU-Net's list of {train, val}. Raises MissingPathError or DatasetError."""
    try:
        folds = json.loads(files.read_bytes(path))
        if not isinstance(folds, list) or not folds:
            raise ValueError(f"{type(folds).__name__} of {len(folds)} entries")
        return Splits(folds=tuple(Fold(train=tuple(fold["train"]), val=tuple(fold["val"])) for fold in folds))
    except (ValueError, TypeError, KeyError) as error:
        raise DatasetError(
            "is not a list of folds",
            path=path,
            found=str(error),
            expected='[{"train": [case, …], "val": [case, …]}, …]',
        ) from error


def splits_json(folds: Iterable[Fold]) -> bytes:
    """Return splits_final.json's text for these folds."""
    return (
        json.dumps([{"train": list(fold.train), "val": list(fold.val)} for fold in folds], indent=1) + "\n"
    ).encode()


def _reader_problems(root: Path, description: DatasetDescription) -> list[Problem]:
    """Use the reader that dataset.json names, and those that are installed; say what is wrong with it."""
    try:
        use_installed_readers()
        use_reader_of_dataset(description.overwrite_image_reader_writer)
    except UsageError as error:
        return [Problem("reader", str(error), path=root / "dataset.json")]
    return []


def _find_cases(root: Path, description: DatasetDescription) -> tuple[dict[str, Case], list[Problem]]:
    if description.file_ending not in endings():
        known = ", ".join(endings())
        message = f"file_ending {description.file_ending!r} is not read by this version (it reads {known})"
        return {}, [Problem("file ending", message, path=root / "dataset.json")]
    if description.dataset is not None:
        return _listed_cases(root, description)
    return _cases_in_folders(root, description)


def _listed_cases(root: Path, description: DatasetDescription) -> tuple[dict[str, Case], list[Problem]]:
    """Cases from dataset.json's `dataset` key: paths relative to the folder, environment variables expanded."""
    cases, problems = {}, []
    for name, entry in (description.dataset or {}).items():
        paths = [root / os.path.expandvars(text) for text in (*entry.images, entry.label)]
        missing = [path for path in paths if not path.is_file()]
        problems += [Problem("missing file", f"{name}: {path} does not exist", name, path) for path in missing]
        problems += name_problems(name, root)
        unread = [path for path in paths if path not in missing and not is_readable(path)]
        problems += [_unread(name, path) for path in unread]
        if len(entry.images) != description.channels and not _in_one_file(paths[:-1], description):
            message = f"{name}: {len(entry.images)} images listed, {description.channels} channels in channel_names"
            problems.append(Problem("missing channel", message, name, root / "dataset.json"))
        elif not missing and not unread:
            cases[name] = Case(name, tuple(paths[:-1]), paths[-1])
    return cases, problems


def _unread(case: str, path: Path) -> Problem:
    message = f"{case}: {path.name} is in a format that is not read by this version (it reads {', '.join(endings())})"
    return Problem("file format", message, case, path)


def _in_one_file(paths: Sequence[Path], description: DatasetDescription) -> bool:
    """Say whether a case's only file may hold all its channels, as a picture in RGB does."""
    return (
        description.channels > 1 and len(paths) == 1 and is_readable(paths[0]) and format_of(paths[0]).several_channels
    )


def _cases_in_folders(root: Path, description: DatasetDescription) -> tuple[dict[str, Case], list[Problem]]:
    images, problems = scan_folder(root / "imagesTr", description)
    labels, label_problems = _find_labels(root / "labelsTr", description.file_ending)
    problems += label_problems
    cases = {}
    for name, channels in images.items():
        problems += name_problems(name, root / "imagesTr")
        missing = [number for number in range(description.channels) if number not in channels]
        if 0 in channels and _in_one_file(list(channels.values()), description):
            missing = []
        for number in missing:
            path = root / "imagesTr" / f"{name}_{number:04d}{description.file_ending}"
            problems.append(
                Problem("missing channel", f"{name}: channel {number} is missing ({path.name})", name, path)
            )
        if name not in labels:
            path = root / "labelsTr" / f"{name}{description.file_ending}"
            problems.append(Problem("image without label", f"{name}: has no label file {path.name}", name, path))
        elif not missing:
            cases[name] = Case(name, tuple(channels[number] for number in sorted(channels)), labels[name])
    for name in sorted(set(labels) - set(images)):
        problems.append(Problem("label without image", f"{name}: has a label but no image", name, labels[name]))
    return cases, problems


def _find_labels(folder: Path, ending: str) -> tuple[dict[str, Path], list[Problem]]:
    """Return each case's label map: a file with the dataset's ending, else one with any other that is read."""
    labels, problems = _names(folder, ending), _unused_files(folder, ending)
    others: dict[str, list[Path]] = {}
    for path in (problem.path for problem in problems if problem.severity == "warning"):
        if path is not None and is_readable(path) and stem(path) not in labels:
            others.setdefault(stem(path), []).append(path)
    used = {path for paths in others.values() for path in paths}
    problems = [problem for problem in problems if problem.path not in used]
    for name, paths in others.items():
        if len(paths) > 1:
            listed = " and ".join(path.name for path in paths)
            problems.append(Problem("duplicate case", f"{name}: two label maps: {listed}", name, paths[0]))
        else:
            labels[name] = paths[0]
    return labels, problems


def scan_folder(folder: Path, description: DatasetDescription) -> tuple[dict[str, dict[int, Path]], list[Problem]]:
    """Return each case's files by channel in a folder of images, and what is wrong there.

    CASE_0000.ending is channel 0 of CASE; with one channel CASE.ending is accepted too (`split_channel`).
    """
    found: dict[str, dict[int, Path]] = {}
    problems = _unused_files(folder, description.file_ending)
    names = _names(folder, description.file_ending)
    for name, path in names.items():
        case, channel = split_channel(name, names, description.channels)
        if case == name and description.channels > 1:
            message = f"{path.name}: the name has no channel number such as _0000"
            problems.append(Problem("missing channel number", message, name, path))
        elif channel >= description.channels:
            message = f"{path.name}: channel {channel} is not in channel_names ({description.channels} channels)"
            problems.append(Problem("unknown channel", message, case, path))
        elif channel in found.setdefault(case, {}):
            message = f"{case}: two files for channel {channel}: {found[case][channel].name} and {path.name}"
            problems.append(Problem("duplicate case", message, case, path))
        else:
            found[case][channel] = path
    return {name: channels for name, channels in found.items() if channels}, problems


def _names(folder: Path, ending: str) -> dict[str, Path]:
    if not folder.is_dir():
        return {}
    paths = sorted(path for path in folder.iterdir() if path.name.endswith(ending) and not path.name.startswith("."))
    return {path.name.removesuffix(ending): path for path in paths if path.is_file() and is_utf8(path.name)}


def split_channel(name: str, names: Container[str], channels: int) -> tuple[str, int]:
    """Return the case and the channel that a file's name without ending stands for.

    With several channels _0000, _0001 … end the name. With one, _0000 is a channel and another number belongs to the
    case, as in patient_0012; but where `names`, the other files' names, hold the same name with _0000 too, the
    number is a channel of that case: taking a second channel for a scan of its own would be silently wrong.
    """
    match = re.fullmatch(r"(.+)_(\d{4})", name, re.DOTALL)
    if match is None:
        return name, 0
    if channels == 1 and match[2] != "0000" and f"{match[1]}_0000" not in names:
        return name, 0
    return match[1], int(match[2])


def _unused_files(folder: Path, ending: str) -> list[Problem]:
    """Name the files that look like images and are left out."""
    if not folder.is_dir():
        return []
    problems = []
    for path in sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith(".")):
        if not is_utf8(path.name):
            problems += name_problems(path.name, folder)
        elif not path.name.endswith(ending) and (is_other_image(path) or is_readable(path)):
            message = f"{path.name}: is left out, dataset.json says that files end in {ending}"
            problems.append(Problem("file ending", message, path=path, severity="warning"))
    return problems


def _store_problems(names: Iterable[str], root: Path) -> list[Problem]:
    """Name the cases whose prepared files would be another case's label: the store calls those CASE_seg."""
    return [
        Problem("case name", f"{name!r} and '{name}_seg' cannot be in one dataset; rename one's files", name, root)
        for name in sorted(set(names) & {name.removesuffix("_seg") for name in names if name.endswith("_seg")})
    ]


def _read_splits_leniently(path: Path) -> tuple[Splits | None, list[Problem]]:
    if not path.is_file():
        return None, []
    try:
        return read_splits(path), []
    except DatasetError as error:
        return None, [Problem("splits", str(error), path=path)]


def _count_problem(description: DatasetDescription, found: int) -> list[Problem]:
    if description.numTraining == found:
        return []
    message = f"dataset.json says numTraining {description.numTraining}, {found} whole cases are there"
    return [Problem("numTraining", message, severity="warning")]
