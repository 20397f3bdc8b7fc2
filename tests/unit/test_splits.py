"""Cross-validation folds: grouping, balance, stratification, nnU-Net's k-fold and the check of given folds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from siccs_net.data.splits import Fold, check_splits, make_nnunet_splits, make_splits
from siccs_net.errors import DatasetError, UsageError

FORTY = [f"case_{number:03d}" for number in range(40)]


def validated(splits: list[Fold]) -> list[str]:
    return sorted(case for fold in splits for case in fold["val"])


def test_forty_cases_in_eight_folds_are_35_and_5() -> None:
    splits = make_splits(FORTY, folds=8, patients=None, strata=None, seed=0)
    assert [(len(fold["train"]), len(fold["val"])) for fold in splits] == [(35, 5)] * 8
    assert validated(splits) == FORTY


def test_each_fold_gets_one_of_each_eight_like_volumes() -> None:
    volumes = {case: float((7 * number) % 40) for number, case in enumerate(FORTY)}
    splits = make_splits(FORTY, folds=8, patients=None, strata=volumes, seed=3)
    for fold in splits:
        assert sorted(int(volumes[case]) // 8 for case in fold["val"]) == [0, 1, 2, 3, 4]


def test_volumes_are_more_alike_than_in_random_folds() -> None:
    random = np.random.default_rng(5)
    volumes = {case: float(volume) for case, volume in zip(FORTY, random.lognormal(3, 1.5, 40), strict=True)}

    def spread(splits: list[Fold]) -> float:
        return float(np.std([np.mean([volumes[case] for case in fold["val"]]) for fold in splits]))

    dealt = [spread(make_splits(FORTY, folds=8, patients=None, strata=volumes, seed=seed)) for seed in range(10)]
    shuffled = [spread(make_nnunet_splits(FORTY, folds=8, seed=seed)) for seed in range(10)]
    assert np.mean(dealt) < 0.8 * np.mean(shuffled)


def test_the_seed_decides_and_the_order_of_cases_does_not() -> None:
    first = make_splits(FORTY, folds=8, patients=None, strata=None, seed=1)
    assert first == make_splits(FORTY[::-1], folds=8, patients=None, strata=None, seed=1)
    assert first != make_splits(FORTY, folds=8, patients=None, strata=None, seed=2)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 5), min_size=2, max_size=20), st.integers(2, 8), st.integers(0, 5))
def test_patients_stay_together_and_folds_are_as_equal_as_they_allow(scans: list[int], folds: int, seed: int) -> None:
    patients = {f"s{number}_{scan}": f"p{number}" for number, times in enumerate(scans) for scan in range(times)}
    volumes = {case: float(len(case) * seed) for case in patients}
    splits = make_splits(list(patients), folds=folds, patients=patients, strata=volumes, seed=seed)
    sizes = [len(fold["val"]) for fold in splits]
    assert len(splits) == min(folds, len(scans))
    assert check_splits(splits, list(patients), patients) == []
    assert validated(splits) == sorted(patients)
    assert max(sizes) - min(sizes) <= max(scans)
    assert all(fold["train"] == sorted(set(patients) - set(fold["val"])) for fold in splits)


def test_a_patient_with_half_of_the_scans_fills_one_fold() -> None:
    patients = {f"a{number}": "often" for number in range(6)} | {f"b{number}": f"b{number}" for number in range(6)}
    splits = make_splits(list(patients), folds=2, patients=patients, strata=None, seed=0)
    assert [len(fold["val"]) for fold in splits] == [6, 6]


def test_fewer_patients_than_folds_gives_one_fold_a_patient() -> None:
    patients = {"a1": "a", "a2": "a", "b1": "b", "c1": "c"}
    splits = make_splits(list(patients), folds=8, patients=patients, strata=None, seed=0)
    assert sorted(fold["val"] for fold in splits) == [["a1", "a2"], ["b1"], ["c1"]]


def test_one_patient_is_refused() -> None:
    with pytest.raises(DatasetError, match=r"1 patient.*two patients at least"):
        make_splits(["a1", "a2"], folds=2, patients={"a1": "a", "a2": "a"}, strata=None, seed=0)


@pytest.mark.parametrize(
    ("cases", "folds", "patients", "strata", "error", "said"),
    [
        (["a", "b", "a"], 2, None, None, DatasetError, "case twice; found a"),
        (["a", "b"], 2, {"a": "p"}, None, DatasetError, "no patient is named for case b"),
        (["a", "b"], 2, None, {"b": 1.0}, DatasetError, "volume to stratify by; found a"),
        (["a", "b"], 1, None, None, UsageError, "two folds"),
    ],
)
def test_what_cannot_be_split_is_named(
    cases: list[str],
    folds: int,
    patients: dict[str, str] | None,
    strata: dict[str, float] | None,
    error: type[Exception],
    said: str,
) -> None:
    with pytest.raises(error, match=said):
        make_splits(cases, folds=folds, patients=patients, strata=strata, seed=0)


@pytest.mark.parametrize(("number", "folds", "seed"), [(40, 5, 12345), (41, 5, 12345), (5, 5, 12345), (103, 8, 7)])
def test_nnunet_splits_equal_scikit_learns(number: int, folds: int, seed: int) -> None:
    model_selection = pytest.importorskip("sklearn.model_selection")
    cases = [f"c{index}" for index in range(number)]
    ordered = np.array(sorted(cases))
    parts = model_selection.KFold(n_splits=folds, shuffle=True, random_state=seed).split(ordered)
    expected = [{"train": ordered[train].tolist(), "val": ordered[val].tolist()} for train, val in parts]
    assert make_nnunet_splits(cases[::-1], folds=folds, seed=seed) == expected


def test_nnunet_splits_of_twelve_cases_as_scikit_learn_1_9_made_them() -> None:
    splits = make_nnunet_splits([f"case_{number:02d}" for number in range(12)])
    expected = [[0, 3, 8], [7, 10, 11], [6, 9], [1, 4], [2, 5]]
    assert [fold["val"] for fold in splits] == [[f"case_{number:02d}" for number in part] for part in expected]


def test_nnunet_splits_of_too_few_cases_are_refused() -> None:
    with pytest.raises(DatasetError, match="4 cases"):
        make_nnunet_splits(["a", "b", "c", "d"])


def test_good_splits_have_no_problem() -> None:
    assert check_splits(make_nnunet_splits(FORTY), FORTY, None) == []


def test_every_problem_names_fold_and_case() -> None:
    splits = [
        {"train": ["a", "b"], "val": ["c"]},
        {"train": ["a", "a", "ghost"], "val": ["b", "a"]},
        {"train": ["a", "b"], "val": []},
        {"train": ["a2"], "val": ["a", "b"]},
        {"val": ["a"]},
    ]
    problems = check_splits(splits, ["a", "a2", "b", "c"], {"a": "anna", "a2": "anna", "b": "bo", "c": "cy"})
    assert problems == [
        "fold 1: case ghost in train is not in the dataset",
        "fold 1: case a is 2 times in train",
        "fold 1: case a is in train and in val",
        "fold 2: val is empty",
        "fold 3: patient anna is in train (case a2) and in val (case a)",
        "fold 4: train is empty",
        "case a is in val of folds 1, 3, 4; one fold may validate it",
        "case b is in val of folds 1, 3; one fold may validate it",
    ]


def test_no_fold_at_all_is_a_problem() -> None:
    assert check_splits([], FORTY, None) == ["there is no fold"]
