"""Convert: a draft of a dataset is checked as a whole, then written; nothing is written of a draft that is wrong."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from siccs_net.errors import UsageError
from siccs_net.interop.checking import CheckedCase, check_draft
from siccs_net.interop.draft import Draft, name_findings
from siccs_net.interop.writer import (
    Written,
    describe,
    refuse_existing,
    refuse_leftovers,
    write_cases,
    write_file,
    write_tables,
)
from siccs_net.io import files
from siccs_net.io.dataset import Problem, open_dataset
from siccs_net.workspace import Workspace


@dataclass(frozen=True)
class Conversion:
    """What a conversion found and wrote; `written` is empty when it wrote nothing."""

    folder: Path
    problems: tuple[Problem, ...]
    cases: tuple[str, ...] = ()
    written: tuple[Written, ...] = ()
    input_sha256: dict[str, str] = field(default_factory=dict)

    @property
    def errors(self) -> list[Problem]:
        """The problems that keep a case, or the dataset, from being written."""
        return [problem for problem in self.problems if problem.severity == "error"]


def convert(
    draft: Draft,
    folder: Path,
    *,
    link: bool = False,
    overwrite: bool = False,
    skip_bad: bool = False,
    workers: int | None = None,
    show_progress: bool = False,
) -> Conversion:
    """Make a dataset folder from a draft: read and check every case, then write all of them, dataset.json last.

    With any error nothing is written; `skip_bad` leaves out the cases at fault and writes the others. A conversion
    that was interrupted goes on: files that are there with the same bytes are kept. Raises UsageError when the folder
    is a dataset already (without `overwrite`) or holds files that do not belong to it.
    """
    refuse_existing(folder, draft, overwrite=overwrite)
    checked, problems = _check(draft, workers, show_progress)
    good = _usable(checked, problems, skip_bad)
    written: list[Written] = []
    if good:
        description = describe(draft, good, folder / "dataset.json")
        refuse_leftovers(folder, _targets(draft, good))
        with files.exclusive(folder, "converting a dataset"):
            if overwrite:
                (folder / "dataset.json").unlink(missing_ok=True)
            jobs = write_cases(folder, good, draft.channels, link=link, overwrite=overwrite, workers=workers)
            bar = tqdm(jobs, "writing cases", len(good), leave=False, disable=None if show_progress else True)
            written += [file for case_files in bar for file in case_files]
            written += write_tables(folder, draft, good, overwrite=overwrite)
            written.append(write_file(folder / "dataset.json", description, overwrite=overwrite))
        problems += open_dataset(folder).problems
    names = tuple(sorted(case.case.name for case in good))
    hashes = {str(path): digest for case in checked for path, digest in case.sha256.items()}
    return Conversion(folder, tuple(problems), names, tuple(written), hashes)


def dataset_folder(
    workspace: Workspace, dataset: str | None, *, root: Path | None = None, name: str | None = None
) -> Path:
    """Return the folder to make a dataset in: DatasetXXX_Name in `root`, by default in the workspace's own raw folder.

    `dataset` is a number, completed with `name`, or the full DatasetXXX_Name. Raises UsageError when it is neither, or
    when another dataset there has the number.
    """
    full = f"Dataset{int(dataset):03d}_{name}" if name and dataset and re.fullmatch(r"\d{1,3}", dataset) else dataset
    found = re.fullmatch(r"Dataset(\d{3})_[A-Za-z0-9_.-]+", full or "", re.ASCII)
    if full is None or found is None or ".." in full:
        expected = "DatasetXXX_Name, such as Dataset501_Lungs" + (", or its number" if name else "")
        raise UsageError("the dataset has no usable name", found=full, expected=expected, hint="Give it with -d")
    for place in (root,) if root else workspace.raw:
        for other in sorted(place.glob(f"Dataset{found[1]}_*/dataset.json")):
            if other.parent.name != full:
                hint = "Choose another number with -d"
                raise UsageError(f"another dataset has the number {found[1]}", path=other.parent, hint=hint)
    return (root or workspace.raw[0]) / full


def _check(draft: Draft, workers: int | None, show_progress: bool) -> tuple[list[CheckedCase], list[Problem]]:
    jobs = check_draft(draft, workers=workers)
    bar = tqdm(jobs, "checking cases", len(draft.cases), leave=False, disable=None if show_progress else True)
    checked = sorted(bar, key=lambda item: (item.case.name, item.case.label is None))
    found = [problem for case in checked for problem in case.problems]
    return checked, [*draft.problems, *name_findings(draft.cases), *found]


def _usable(checked: Sequence[CheckedCase], problems: Sequence[Problem], skip_bad: bool) -> list[CheckedCase]:
    """Return the cases to write: all, those without an error (`skip_bad`), or none when an error concerns them all."""
    errors = [problem for problem in problems if problem.severity == "error"]
    if any(problem.case is None for problem in errors) or (errors and not skip_bad):
        return []
    bad = {problem.case for problem in errors}
    good = [case for case in checked if case.case.name not in bad]
    return good if any(case.case.label is not None for case in good) else []


def _targets(draft: Draft, good: Sequence[CheckedCase]) -> set[str]:
    return {*draft.tables, *(name for case in good for name in case.case.targets(draft.channels))}
