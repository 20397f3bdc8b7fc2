"""Images and labels matched by name: folders of pairs, and first manifests."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from convert_files import assert_same_image, assert_valid, convert_siccs, make_download, save, scan, touch

from siccs_net.errors import (
    DataError,
    MissingPathError,
    UnavailableError,
    UsageError,
)
from siccs_net.interop.names import match, match_tree
from siccs_net.interop.pairs import draft_pairs, parse_labels
from siccs_net.interop.siccs import draft_manifest
from siccs_net.io.dataset import open_dataset
from siccs_net.pipeline.convert import convert


@pytest.fixture
def download(tmp_path):
    return make_download(tmp_path / "download")


@pytest.fixture
def out(tmp_path):
    return tmp_path / "raw" / "Dataset501_SICCS"


def test_a_first_manifest_lists_pairs_and_converts(download, out):
    (download / "manifest.csv").unlink()
    save(download / "ct" / "P9_ct.nii.gz", scan(0)[0])
    text, matching = draft_manifest(download)
    (download / "manifest.csv").write_bytes(text)
    assert [path.name for path in matching.images] == ["P9_ct.nii.gz"]
    assert matching.labels == ()
    rows = list(csv.DictReader(text.decode().splitlines()))
    assert [(row["case"], row["image"], row["label"]) for row in rows] == [
        ("P0", "ct/P0_ct.nii.gz", "masks/P0_seg.nii.gz"),
        ("P1", "ct/P1_ct.nii.gz", "masks/P1_seg.nii.gz"),
        ("P2", "ct/P2_ct.nii", "masks/P2_seg.nii"),
    ]
    assert not convert_siccs(download, out).problems
    assert list(assert_valid(out).cases) == ["P0", "P1", "P2"]


@pytest.mark.parametrize(
    ("names", "cases"),
    [
        (["P1/ct.nii.gz", "P1/mask.nii.gz", "P2/ct.nii.gz", "P2/mask.nii.gz"], ["P1", "P2"]),
        (["P1/scan1.nii", "P1/scan1_seg.nii", "P2/scan1.nii", "P2/scan1_seg.nii"], ["P1_scan1", "P2_scan1"]),
        (["a.nii.gz", "a_label.nii.gz", "b.nii.gz", "b_label.nii.gz"], ["a", "b"]),
        (["imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz"], ["a"]),
        (["P1/images/ct.nii", "P1/labels/seg.nii", "P2/images/ct.nii", "P2/labels/seg.nii"], ["P1", "P2"]),
        (["P1_segmentation/image.nii.gz", "P1_segmentation/label.nii.gz", ".git/x.nii.gz"], ["P1"]),
    ],
)
def test_folders_are_searched_for_pairs(tmp_path, names, cases):
    touch(tmp_path, *names, "._a.nii.gz", "notes.txt")
    matching = match_tree(tmp_path)
    assert (list(matching.pairs), matching.images, matching.labels, matching.ambiguous) == (cases, (), (), {})
    for image, label in matching.pairs.values():
        assert names.index(str(label.relative_to(tmp_path))) == names.index(str(image.relative_to(tmp_path))) + 1


def test_no_pair_to_write_a_manifest_of(tmp_path):
    touch(tmp_path, "a.nii.gz", "b_seg.nii.gz")
    with pytest.raises(DataError, match=r"1 images and 1 labels.*by hand"):
        draft_manifest(tmp_path)


@pytest.mark.parametrize(
    ("images", "labels", "cases"),
    [
        (["a", "b"], ["a", "b"], ["a", "b"]),
        (["a_0000", "b_0000"], ["a", "b"], ["a", "b"]),
        (["a_ct_0000"], ["a_ct"], ["a_ct"]),
        (["a_ct_0000"], ["a_ct_seg"], ["a"]),
        (["7-image", "8-image"], ["7-label", "8-label"], ["7", "8"]),
        (["x_img"], ["x_mask"], ["x"]),
        (["volume-0", "volume-1"], ["segmentation-0", "segmentation-1"], ["0", "1"]),
        (["img001", "img002"], ["label001", "label002"], ["001", "002"]),
        (["scan_1", "scan_2"], ["scan_1_seg", "scan_2_seg"], ["scan_1", "scan_2"]),
        (["P1 CT", "P2 CT"], ["P1 Mask", "P2 Mask"], ["P1", "P2"]),
        (["patient_0012"], ["patient_0012"], ["patient_0012"]),
    ],
)
def test_names_are_matched(images, labels, cases):
    scans = [Path("images") / f"{name}.nii.gz" for name in images]
    masks = [Path("labels") / f"{name}.nii" for name in labels]
    matching = match(scans, masks)
    assert matching.pairs == dict(zip(cases, zip(scans, masks, strict=True), strict=True))
    assert (matching.images, matching.labels, matching.ambiguous) == ((), (), {})


@pytest.fixture
def pairs(tmp_path):
    for number in range(3):
        image, label = scan(number)
        save(tmp_path / "scans" / f"p{number}_ct.nii.gz", image)
        save(tmp_path / "masks" / f"p{number}_seg.nii", label)
    return tmp_path / "scans", tmp_path / "masks"


def test_pairs_become_a_whole_dataset(pairs, tmp_path):
    out = tmp_path / "Dataset502_Pairs"
    result = convert(draft_pairs(*pairs, names={"normal": 1, "EF": 2, "GGO": 3}), out)
    assert result.cases == ("p0", "p1", "p2")
    assert not result.problems
    dataset = assert_valid(out)
    assert dataset.description.labels == {"background": 0, "normal": 1, "EF": 2, "GGO": 3}
    for number in range(3):
        assert_same_image(pairs[0] / f"p{number}_ct.nii.gz", out / "imagesTr" / f"p{number}_0000.nii.gz")
        assert_same_image(pairs[1] / f"p{number}_seg.nii", out / "labelsTr" / f"p{number}.nii.gz")


def test_labels_without_names_are_called_after_their_values(pairs, tmp_path):
    out = tmp_path / "Dataset502_Pairs"
    convert(draft_pairs(*pairs, channel="LowDoseCT"), out)
    description = open_dataset(out).description
    assert description.labels == {"background": 0, "label_1": 1, "label_2": 2, "label_3": 3}
    assert description.channel_names == {"0": "LowDoseCT"}


def _swap(scans, masks):
    scans.rename(scans.parent / "swap")
    masks.rename(scans)
    (scans.parent / "swap").rename(masks)


PAIR_PROBLEMS = {
    "no label": (lambda s, m: (m / "p1_seg.nii").unlink(), "image without label", ["p1_ct.nii.gz: has no label"]),
    "no image": (lambda s, m: (s / "p1_ct.nii.gz").unlink(), "label without image", ["p1_seg.nii: has no image"]),
    "two images": (
        lambda s, m: save(s / "p1_image.nii", scan(1)[0]),
        "ambiguous name",
        ["p1: more than one", "p1_ct.nii.gz", "p1_image.nii"],
    ),
    "both endings": (
        lambda s, m: save(s / "p1_ct.nii", scan(1)[0]),
        "ambiguous name",
        ["p1_ct.nii,", "p1_ct.nii.gz"],
    ),
    "other format": (lambda s, m: touch(s, "p7_ct.nrrd"), "file format", ["p7_ct.nrrd", "not read by this version"]),
    "value without a name": (lambda s, m: None, "label value", ["values 3 (", "expected 0, 1, 2"]),
}


@pytest.mark.parametrize("name", PAIR_PROBLEMS)
def test_each_bad_pair_is_one_clear_problem(pairs, tmp_path, name):
    damage, kind, words = PAIR_PROBLEMS[name]
    damage(*pairs)
    names = {"normal": 1, "EF": 2} if name == "value without a name" else None
    result = convert(draft_pairs(*pairs, names=names), tmp_path / "Dataset502_Pairs")
    assert {problem.kind for problem in result.errors} == {kind}
    assert all(word in result.errors[0].message for word in words), result.errors
    assert not (tmp_path / "Dataset502_Pairs").exists()


def test_swapped_folders_are_noticed(pairs, tmp_path):
    _swap(*pairs)
    result = convert(draft_pairs(*pairs), tmp_path / "Dataset502_Pairs")
    assert {problem.kind for problem in result.errors} == {"label value"}
    assert "Is it the scan?" in result.errors[0].message
    assert not result.written


def test_a_second_channel_is_told(tmp_path):
    image, label = scan(0)
    for name in ("a_0000", "a_0001", "[b]_0000", "[b]_0001"):
        save(tmp_path / "scans" / f"{name}.nii.gz", image)
    for name in ("a", "[b]"):
        save(tmp_path / "masks" / f"{name}.nii.gz", label)
    problems = draft_pairs(tmp_path / "scans", tmp_path / "masks").problems
    assert len(problems) == 2
    assert all("is a second channel beside" in problem.message for problem in problems)


def test_folders_without_nifti_files(pairs, tmp_path):
    with pytest.raises(MissingPathError, match="absent"):
        draft_pairs(tmp_path / "absent", pairs[1])
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no image"):
        draft_pairs(tmp_path / "empty", pairs[1])
    touch(tmp_path, "dicom/1.dcm", "dicom/2.dcm")
    with pytest.raises(UnavailableError, match=r"holds no NIfTI file; found 2 images such as 1\.dcm"):
        draft_pairs(tmp_path / "dicom", pairs[1])


def test_label_words():
    assert parse_labels(["background=0", "lesion=1", "ground glass=2"]) == {
        "background": 0,
        "lesion": 1,
        "ground glass": 2,
    }


@pytest.mark.parametrize("text", ["lesion", "lesion=", "=1", "lesion=-1", "lesion=1.5", "air=0", "background=1"])
def test_label_words_that_make_no_sense(text):
    with pytest.raises(UsageError, match="--labels"):
        parse_labels([text])
    with pytest.raises(UsageError, match="once"):
        parse_labels(["a=1", "b=1"])
