"""Validate: every problem of a dataset at once, from the layout and from one read of each case."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tqdm import tqdm

from siccs_net.data.splits import check_splits
from siccs_net.io.dataset import Dataset, Problem
from siccs_net.planners.fingerprint import Examination, examine_dataset
from siccs_net.records.dataset import Splits
from siccs_net.records.fingerprint import Fingerprint


@dataclass(frozen=True)
class Validation:
    """All problems of a dataset and what was measured on the way."""

    problems: tuple[Problem, ...]
    examinations: tuple[Examination, ...]

    @property
    def errors(self) -> list[Problem]:
        """The problems that keep the dataset from being used."""
        return [problem for problem in self.problems if problem.severity == "error"]


def validate(
    dataset: Dataset, *, known: Fingerprint | None = None, workers: int | None = None, show_progress: bool = False
) -> Validation:
    """Check a dataset's layout, splits and every file; return all problems, in the order of cases."""
    bar = tqdm(
        examine_dataset(dataset, known, workers=workers),
        desc="reading cases",
        total=len(dataset.cases),
        leave=False,
        disable=None if show_progress else True,
    )
    examinations = sorted(bar, key=lambda item: item.case)
    found = [problem for item in examinations for problem in item.problems]
    return Validation((*dataset.problems, *split_problems(dataset, dataset.splits), *found), tuple(examinations))


def split_problems(dataset: Dataset, splits: Splits | None) -> Sequence[Problem]:
    """Return what is wrong with splits_final.json for this dataset: unknown cases, overlaps, patients in both sides."""
    if splits is None:
        return []
    folds = [{"train": list(fold.train), "val": list(fold.val)} for fold in splits.folds]
    texts = check_splits(folds, list(dataset.cases), dataset.patients)
    return [Problem("splits", text, path=dataset.folder / "splits_final.json") for text in texts]
