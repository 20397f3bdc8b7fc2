"""Scans and labels for the tests of siccs_convert, and what every dataset that it makes must meet."""

from __future__ import annotations

import nibabel as nib
import numpy as np

from siccs_net.interop.siccs import draft_siccs
from siccs_net.io.dataset import open_dataset, require_whole
from siccs_net.pipeline.convert import convert
from siccs_net.pipeline.validate import validate
from siccs_net.testing.tiny import make_tiny_case

SHAPE = (8, 20, 24)
OBLIQUE = np.array([[-7.9, 0.5, 0, 90.25], [-0.5, -7.9, 0, 80.5], [0, 0, 10, -172.125], [0, 0, 0, 1]])
MOVED = OBLIQUE + np.array([[0, 0, 0, 3.0], [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
LABEL = "masks/P1_seg.nii.gz"
SCAN = "ct/P1_ct.nii.gz"


def save(path, array, affine=OBLIQUE, **codes):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(array, affine)
    image.set_sform(affine, code=codes.get("sform", 1))
    image.set_qform(affine, code=codes.get("qform", 1))
    nib.save(image, path)
    return path


def scan(seed):
    """Return a scan and its label in file order [x, y, z]."""
    return [array.transpose(2, 1, 0) for array in make_tiny_case(seed, SHAPE)]


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return [root / name for name in names]


def assert_valid(folder):
    dataset = open_dataset(folder)
    require_whole(dataset)
    assert not dataset.problems
    assert not validate(dataset, workers=2).errors
    return dataset


def assert_same_image(first, second):
    one, two = nib.load(first), nib.load(second)
    assert np.array_equal(one.affine, two.affine)
    assert np.array_equal(np.asarray(one.dataobj.get_unscaled()), np.asarray(two.dataobj.get_unscaled()))
    assert one.get_data_dtype() == two.get_data_dtype()
    assert np.array_equal(one.get_fdata(), two.get_fdata())
    for form in ("get_sform", "get_qform"):
        for a, b in zip(getattr(one.header, form)(coded=True), getattr(two.header, form)(coded=True), strict=True):
            assert np.array_equal(a, b)


def file_names(folder):
    return sorted(
        str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and path.name != ".lock"
    )


def make_download(folder):
    """Three cases as someone might deposit them: two compressed, one not, and a manifest."""
    for number, ending in enumerate((".nii.gz", ".nii.gz", ".nii")):
        image, label = scan(number)
        save(folder / "ct" / f"P{number}_ct{ending}", image)
        save(folder / "masks" / f"P{number}_seg{ending}", label)
    lines = ["case,image,label,patient,date,thickness_mm,fev1_fvc,fev1_pp"]
    lines += [f"ssc_0,ct/P0_ct.nii.gz,masks/P0_seg.nii.gz,A,2019-03-07,{1.25},81.5,70"]
    lines += ["ssc_1,ct/P1_ct.nii.gz,masks/P1_seg.nii.gz,A,,,,"]
    lines += ["ssc_2,ct/P2_ct.nii,masks/P2_seg.nii,B,2020-01-31,5,77,64.25"]
    (folder / "manifest.csv").write_text("\n".join(lines) + "\n")
    return folder


def edit_manifest(folder, old, new):
    path = folder / "manifest.csv"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


def convert_siccs(download, out, **settings):
    return convert(draft_siccs(download, download / "manifest.csv"), out, workers=2, **settings)


def resave(name, change, affine=None):
    def damage(download):
        image = nib.load(download / name)
        array = change(np.asarray(image.dataobj).copy())
        save(download / name, array, image.affine if affine is None else affine)

    return damage


def put(value, dtype=None):
    def change(array):
        array = array.astype(dtype or array.dtype)
        array[2, 3, 4] = value
        return array

    return change
