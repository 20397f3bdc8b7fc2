"""Cross-validation folds: grouped by patient, stratified by lesion volume, in nnU-Net's `splits_final.json` form."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from siccs_net.errors import DatasetError, UsageError

Fold = dict[str, list[str]]


def make_splits(
    cases: Sequence[str],
    *,
    folds: int,
    patients: Mapping[str, str] | None,
    strata: Mapping[str, float] | None,
    seed: int,
) -> list[Fold]:
    """Return `folds` folds as {"train": [...], "val": [...]}, sorted; every case is validated once.

    All cases of a patient (`patients`: case to patient; None: every case is a patient of its own) fall into the same
    fold. `strata` maps a case to its lesion volume (any unit): patients of like volume are dealt over the folds,
    each group of `folds` neighbours in a random order of its own. Patients with many cases are dealt first and every
    patient goes to a fold with the fewest cases, so that folds are as equal as the patients allow. With fewer
    patients than `folds` there is one fold a patient: the caller says so. The same arguments give the same folds on
    every machine, in whatever order the cases come.

    Raises UsageError for fewer than two folds, DatasetError for a repeated case, a case without patient or
    volume, or a single patient.
    """
    if folds < 2:
        raise UsageError("cross-validation needs two folds at least", found=folds)
    groups = _group_by_patient(cases, patients)
    if len(groups) < 2:
        raise DatasetError(
            "cannot be split into training and validation cases",
            found=f"{len(groups)} patient(s)",
            expected="two patients at least",
            hint="Train on all cases (fold full), or name the patients of the cases if they differ",
        )
    order = _dealing_order(groups, _patient_volumes(groups, strata))
    members = _deal(order, groups, min(folds, len(groups)), np.random.RandomState(seed))
    return [_fold(cases, set(validation)) for validation in members]


def _group_by_patient(cases: Sequence[str], patients: Mapping[str, str] | None) -> dict[str, list[str]]:
    _refuse_repeated(cases)
    groups: dict[str, list[str]] = {}
    for case in sorted(cases):
        if patients is not None and case not in patients:
            raise DatasetError(f"no patient is named for case {case}", hint="Name one for every case, or for none")
        groups.setdefault(case if patients is None else patients[case], []).append(case)
    return groups


def _refuse_repeated(cases: Sequence[str]) -> None:
    repeated = [case for case, times in Counter(cases).items() if times > 1]
    if repeated:
        raise DatasetError("the list of cases names a case twice", found=", ".join(sorted(repeated)))


def _patient_volumes(groups: Mapping[str, Sequence[str]], strata: Mapping[str, float] | None) -> dict[str, float]:
    """Return the mean volume of each patient's cases (0 without strata)."""
    if strata is None:
        return dict.fromkeys(groups, 0.0)
    missing = [case for members in groups.values() for case in members if case not in strata]
    if missing:
        raise DatasetError("cases without a lesion volume to stratify by", found=", ".join(sorted(missing)))
    return {patient: float(np.mean([strata[case] for case in members])) for patient, members in groups.items()}


def _dealing_order(groups: Mapping[str, Sequence[str]], volumes: Mapping[str, float]) -> list[str]:
    return sorted(groups, key=lambda patient: (-len(groups[patient]), volumes[patient], patient))


def _deal(
    order: Sequence[str], groups: Mapping[str, Sequence[str]], folds: int, random: np.random.RandomState
) -> list[list[str]]:
    """Give each patient in turn to a fold with the fewest cases; of equal folds a random one.

    While all patients have one case this deals them in blocks of `folds`, each block in a random permutation.
    """
    members: list[list[str]] = [[] for _ in range(folds)]
    for patient in order:
        draw = random.random_sample(folds)
        smallest = min(range(folds), key=lambda fold: (len(members[fold]), draw[fold]))
        members[smallest] += groups[patient]
    return members


def _fold(cases: Sequence[str], validation: set[str]) -> Fold:
    ordered = sorted(cases)
    return {
        "train": [case for case in ordered if case not in validation],
        "val": [case for case in ordered if case in validation],
    }


def make_nnunet_splits(cases: Sequence[str], folds: int = 5, seed: int = 12345) -> list[Fold]:
    """Return the folds that nnU-Net makes of these cases: a shuffled k-fold that knows neither patients nor volumes.

    Equal to scikit-learn's `KFold(folds, shuffle=True, random_state=seed)` on the sorted cases. Raises DatasetError
    for a repeated case or fewer cases than folds, UsageError for fewer than two folds.
    """
    _refuse_repeated(cases)
    if folds < 2:
        raise UsageError("cross-validation needs two folds at least", found=folds)
    if len(cases) < folds:
        raise DatasetError("fewer cases than folds", found=f"{len(cases)} cases", expected=f"{folds} at least")
    ordered = sorted(cases)
    shuffled = np.arange(len(ordered))
    np.random.RandomState(seed).shuffle(shuffled)
    return [_fold(ordered, {ordered[index] for index in part}) for part in np.array_split(shuffled, folds)]


def check_splits(
    splits: Sequence[Mapping[str, Sequence[str]]], cases: Sequence[str], patients: Mapping[str, str] | None
) -> list[str]:
    """Return everything that is wrong with given folds, one sentence a problem that names the fold and the case.

    Looked for: a part that is missing or empty, an unknown case, a case twice in one part or in both parts of a
    fold, a patient on both sides of a fold, and a case that several folds validate (a cross-validation counts each
    case once). A case that is never validated is allowed.
    """
    if not splits:
        return ["there is no fold"]
    known = set(cases)
    within = [
        f"fold {index}: {problem}" for index, fold in enumerate(splits) for problem in _problems(fold, known, patients)
    ]
    return [*within, *_validated_twice(splits)]


def _validated_twice(splits: Sequence[Mapping[str, Sequence[str]]]) -> Iterator[str]:
    folds: dict[str, list[int]] = {}
    for index, fold in enumerate(splits):
        for case in set(fold.get("val", [])):
            folds.setdefault(case, []).append(index)
    for case, found in sorted(folds.items()):
        if len(found) > 1:
            yield f"case {case} is in val of folds {', '.join(map(str, found))}; one fold may validate it"


def _problems(fold: Mapping[str, Sequence[str]], known: set[str], patients: Mapping[str, str] | None) -> Iterator[str]:
    train, validation = fold.get("train", []), fold.get("val", [])
    for part, members in (("train", train), ("val", validation)):
        if not members:
            yield f"{part} is empty"
        yield from (f"case {case} in {part} is not in the dataset" for case in sorted(set(members) - known))
        yield from (f"case {case} is {n} times in {part}" for case, n in sorted(Counter(members).items()) if n > 1)
    both = set(train) & set(validation)
    yield from (f"case {case} is in train and in val" for case in sorted(both))
    if patients is not None:
        yield from _patients_on_both_sides(set(train) - both, set(validation) - both, patients)


def _patients_on_both_sides(train: set[str], validation: set[str], patients: Mapping[str, str]) -> Iterator[str]:
    trained = {patients[case]: case for case in sorted(train, reverse=True) if case in patients}
    for case in sorted(validation):
        patient = patients.get(case)
        if patient in trained:
            yield f"patient {patient} is in train (case {trained[patient]}) and in val (case {case})"
