"""nnU-Net's dataset layout read unchanged."""

from __future__ import annotations

import json

import pytest

from siccs_net.errors import DatasetError, MissingPathError, RecordError
from siccs_net.io.dataset import open_dataset, read_splits, require_whole, scan_folder
from siccs_net.records.dataset import DatasetDescription


def _describe(**changes):
    body = {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, "a": 1, "b": 2},
        "numTraining": 1,
        "file_ending": ".nii.gz",
        **changes,
    }
    return DatasetDescription.from_json(json.dumps(body))


def test_all_optional_keys_and_unknown_ones_are_kept():
    description = _describe(
        labels={"background": 0, "whole": [1, 2], "core": 2, "ignore": 3},
        regions_class_order=[1, 2],
        overwrite_image_reader_writer="NibabelIO",
        dataset={"x": {"images": ["a.nii.gz"], "label": "b.nii.gz"}},
        licence="CC",
        siccs_groups={"both": [1, 2]},
        name="N",
    )
    again = DatasetDescription.from_json(description.to_json())
    assert again == description
    assert again.model_extra == {"licence": "CC", "name": "N"}
    scheme = description.label_scheme
    assert scheme.ignore == 3
    assert scheme.regions == {"whole": (1, 2), "core": (2,)}
    assert scheme.values == {0, 1, 2, 3}
    assert scheme.reported == {"whole": (1, 2), "core": (2,), "both": (1, 2)}


def test_the_older_name_of_channels_is_read():
    body = {"modality": {"0": "CT"}, "labels": {"background": 0, "a": 1}, "numTraining": 0, "file_ending": ".nii.gz"}
    assert DatasetDescription.from_json(json.dumps(body)).channels == 1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"labels": {"a": 1}}, "background"),
        ({"labels": {"background": 0}}, "at least one label"),
        ({"labels": {"background": 0, "a": 1, "b": 1}}, "share one value"),
        ({"labels": {"background": 0, "a": "1"}}, "labels"),
        ({"labels": {"background": 0, "a": 65536}}, "65536"),
        ({"labels": {"background": 0, **{f"a{n}": n for n in range(1, 256)}}}, "255 label values at most"),
        ({"labels": {"background": 0, "a": 1, "ignore": [2, 3]}}, "'ignore' must be one value"),
        ({"labels": {"background": 0, "a": []}}, r"a region is a list of label values.*found a \[\]"),
        ({"labels": {"background": 0, "a": [0, 1]}}, "a region is a list of label values, without"),
        ({"labels": {"background": 0, "a": [1, 2], "ignore": 2}}, "a region is a list of label values, without"),
        ({"labels": {"background": 0, "a": 1, "b": [1]}}, "share one value"),
        ({"labels": {"background": 0, "a": 1, "both": [1, 70000]}}, "70000"),
        ({"channel_names": {"1": "CT"}}, "channel_names"),
        ({"siccs_groups": {"x": [9]}}, "no label"),
        ({"numTraining": "many"}, "numTraining"),
    ],
)
def test_a_wrong_description_is_one_clear_error(changes, words):
    with pytest.raises(RecordError, match=words):
        _describe(**changes)


def test_opens_a_whole_dataset(tiny):
    dataset = open_dataset(tiny)
    require_whole(dataset)
    assert list(dataset.cases) == [f"tiny_{number:03d}" for number in range(8)]
    assert dataset.cases["tiny_000"].images[0].name == "tiny_000_0000.nii.gz"
    assert dataset.patients is None


def test_one_channel_needs_no_channel_number(tiny):
    (tiny / "imagesTr" / "tiny_000_0000.nii.gz").rename(tiny / "imagesTr" / "tiny_000.nii.gz")
    assert len(open_dataset(tiny).cases) == 8


def test_explicit_paths_with_environment_variables(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("ELSEWHERE", str(tmp_path / "elsewhere"))
    (tiny / "imagesTr").rename(tmp_path / "elsewhere")
    body = json.loads((tiny / "dataset.json").read_text())
    body["dataset"] = {"one": {"images": ["$ELSEWHERE/tiny_001_0000.nii.gz"], "label": "labelsTr/tiny_001.nii.gz"}}
    (tiny / "dataset.json").write_text(json.dumps(body))
    assert list(open_dataset(tiny).cases) == ["one"]


def test_slice_thickness_comes_from_patients_csv(tiny):
    thickness = ["0.7", "1,25", "", "5", "thin", "0", "21", "nan"]
    rows = [f'tiny_{number:03d},P{number},"{text}"' for number, text in enumerate(thickness)]
    (tiny / "patients.csv").write_text("\n".join(["case,patient,thickness_mm", *rows]))
    dataset = open_dataset(tiny)
    assert dataset.thickness_mm == {"tiny_000": 0.7, "tiny_001": 1.25, "tiny_003": 5.0}
    wrong = [problem for problem in dataset.problems if "thickness_mm" in problem.message]
    assert [problem.case for problem in wrong] == ["tiny_004", "tiny_005", "tiny_006", "tiny_007"]
    assert "line 6" in wrong[0].message
    assert "'thin'" in wrong[0].message


def test_patients_csv_as_a_spreadsheet_writes_it_where_the_decimal_point_is_a_comma(tiny):
    rows = [f"tiny_{number:03d};P{number // 2};1,25" for number in range(8)]
    (tiny / "patients.csv").write_bytes("\r\n".join(["\ufeffCase;Patient;Thickness_mm", *rows, ""]).encode())
    dataset = open_dataset(tiny)
    assert not [problem for problem in dataset.problems if problem.kind == "patients.csv"]
    assert dataset.patients == {f"tiny_{number:03d}": f"P{number // 2}" for number in range(8)}
    assert set(dataset.thickness_mm.values()) == {1.25}


def test_patients_come_from_patients_csv(tiny):
    rows = ["case,patient,date", *(f"tiny_{number:03d},P{number // 2}," for number in range(8))]
    (tiny / "patients.csv").write_text("\n".join(rows))
    assert open_dataset(tiny).patients == {f"tiny_{number:03d}": f"P{number // 2}" for number in range(8)}
    (tiny / "patients.csv").write_text("\n".join(rows[:-1]))
    assert open_dataset(tiny).thickness_mm == {}
    assert "tiny_007: not in patients.csv" in [problem.message for problem in open_dataset(tiny).problems]


def test_a_missing_dataset_json_is_named(tmp_path):
    with pytest.raises(MissingPathError, match=r"dataset\.json"):
        open_dataset(tmp_path)


def test_layout_problems_are_all_listed(tiny):
    (tiny / "imagesTr" / "tiny_000_0000.nii.gz").unlink()
    (tiny / "labelsTr" / "tiny_001.nii.gz").unlink()
    (tiny / "imagesTr" / "tiny_002_0001.nii.gz").write_bytes(b"")
    (tiny / "imagesTr" / "tiny_003.nii.gz").write_bytes(b"")
    dataset = open_dataset(tiny)
    kinds = {problem.kind for problem in dataset.problems}
    assert {"label without image", "image without label", "unknown channel", "duplicate case"} <= kinds
    with pytest.raises(DatasetError, match="4 problems"):
        require_whole(dataset)


@pytest.mark.parametrize("name", ["-x", "a\nb", "..x", "n" * 201])
def test_case_names_that_cannot_be_files_are_refused(tiny, name):
    body = json.loads((tiny / "dataset.json").read_text())
    paths = {"images": ["imagesTr/tiny_000_0000.nii.gz"], "label": "labelsTr/tiny_000.nii.gz"}
    body["dataset"] = {name: paths}
    (tiny / "dataset.json").write_text(json.dumps(body))
    assert [problem.kind for problem in open_dataset(tiny).problems if problem.severity == "error"] == ["case name"]


def test_spaces_and_unicode_in_names_are_fine(tiny):
    for folder, suffix in (("imagesTr", "_0000"), ("labelsTr", "")):
        (tiny / folder / f"tiny_000{suffix}.nii.gz").rename(tiny / folder / f"Müller 7 λ{suffix}.nii.gz")
    dataset = open_dataset(tiny)
    assert "Müller 7 λ" in dataset.cases
    assert not [problem for problem in dataset.problems if problem.severity == "error"]


def _rename(tiny, image, label):
    (tiny / "imagesTr" / "tiny_000_0000.nii.gz").rename(tiny / "imagesTr" / image)
    (tiny / "labelsTr" / "tiny_000.nii.gz").rename(tiny / "labelsTr" / label)


@pytest.mark.parametrize("image", ["patient_0012.nii.gz", "patient_0012_0000.nii.gz"])
def test_with_one_channel_a_number_other_than_0000_is_part_of_the_name(tiny, image):
    _rename(tiny, image, "patient_0012.nii.gz")
    dataset = open_dataset(tiny)
    assert "patient_0012" in dataset.cases
    assert dataset.problems == ()


def test_images_that_are_left_out_are_named(tiny):
    for name in ("b.nrrd", "c.NII.GZ", "d.nii"):
        (tiny / "imagesTr" / name).write_bytes(b"")
    problems = open_dataset(tiny).problems
    assert [(problem.path.name, problem.severity) for problem in problems] == [
        ("b.nrrd", "warning"),
        ("c.NII.GZ", "warning"),
        ("d.nii", "warning"),
    ]


def test_the_largest_label_value_is_fine():
    assert _describe(labels={"background": 0, "a": 65535}).label_scheme.values == {0, 65535}


def test_two_channels_are_matched(tmp_path):
    description = _describe(channel_names={"0": "CT", "1": "x"})
    for name in ("a_0000", "a_0001", "b_0000", "c"):
        (tmp_path / f"{name}.nii.gz").write_bytes(b"")
    found, problems = scan_folder(tmp_path, description)
    assert {case: sorted(channels) for case, channels in found.items()} == {"a": [0, 1], "b": [0]}
    assert [problem.kind for problem in problems] == ["missing channel number"]


@pytest.mark.parametrize("text", ["{}", "[]", "[1]", "[{}]", "not json", '[{"train": ["a"]}]'])
def test_a_wrong_splits_file_is_named(tmp_path, text):
    (tmp_path / "splits_final.json").write_text(text)
    with pytest.raises(DatasetError, match="splits_final"):
        read_splits(tmp_path / "splits_final.json")


NESTED = {"background": 0, "lung": [1, 2, 3], "abnormal": [2, 3], "fibrosis": [2]}


@pytest.mark.parametrize(
    ("order", "words"),
    [
        (None, r"such as \[1, 3, 2\]; found none"),
        ([1, 3], r"found \[1, 3\]"),
        ([1, 3, 2, 4], r"found \[1, 3, 2, 4\]"),
        ([1, 3, 9], r"found \[1, 3, 9\]: 9 is no value of fibrosis"),
        ([1, 2, 3], r"3 is no value of fibrosis"),
        (["1", 3, 2], "regions_class_order"),
    ],
)
def test_a_wrong_order_of_regions_is_one_error_that_says_the_right_one(order, words):
    with pytest.raises(RecordError, match=words):
        _describe(labels=NESTED, regions_class_order=order)


def test_two_regions_of_the_same_values_are_refused():
    labels = {"background": 0, "a": [1, 2], "b": [2, 1]}
    with pytest.raises(RecordError, match="two regions have the same values"):
        _describe(labels=labels, regions_class_order=[1, 2])


def test_a_network_has_a_channel_a_region_in_the_order_of_the_file():
    """Values with gaps; a plain label beside regions is one too, and keeps its key in summaries."""
    labels = {"background": 0, "all": [4, 2, 9], "core": 9, "part": [4, 9], "ignore": 11}
    scheme = _describe(labels=labels, regions_class_order=[2, 9, 4]).label_scheme
    assert scheme.outputs == 3
    assert scheme.stored_values == (0, 2, 4, 9)
    assert scheme.region_classes == ((2, 1, 3), (3,), (2, 3))
    assert scheme.painted_classes == (1, 3, 2)
    assert scheme.class_values == (0, 2, 9, 4)
    assert scheme.measured == {"all": (4, 2, 9), "core": 9, "part": (4, 9)}
    assert scheme.foreground == {"all": 2, "part": 4, "core": 9}


def test_lists_of_one_value_are_plain_labels_as_for_nnunet():
    scheme = _describe(labels={"background": 0, "a": [3], "b": 1}).label_scheme
    assert (scheme.plain, scheme.regions, scheme.outputs) == ({"background": 0, "a": 3, "b": 1}, {}, 3)
    assert scheme.class_values == scheme.stored_values == (0, 1, 3)


def test_a_region_that_is_painted_over_is_a_warning(tiny):
    body = json.loads((tiny / "dataset.json").read_text())
    body |= {"labels": {"background": 0, "fibrosis": 2, "lung": [1, 2, 3]}, "regions_class_order": [2, 1]}
    (tiny / "dataset.json").write_text(json.dumps(body))
    (problem,) = open_dataset(tiny).problems
    assert (problem.kind, problem.severity) == ("regions", "warning")
    assert "region fibrosis is part of lung" in problem.message
