"""NIfTI in and out: exact round trips, damaged files refused by name."""

from __future__ import annotations

import gzip as standard_gzip
import tracemalloc
import zlib

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from siccs_net.errors import DataError, GeometryError, ImageError, UnavailableError
from siccs_net.io.gunzip import gunzip, gzip
from siccs_net.io.image import Image, read_image, read_label, write_label
from siccs_net.testing.tiny import make_tiny_case


def _save(path, array, affine=None, *, sform=1, qform=1):
    image = nib.Nifti1Image(array, np.diag([-0.7, -0.8, 2.5, 1]) if affine is None else affine)
    image.set_sform(image.affine, code=sform)
    image.set_qform(image.affine, code=qform)
    nib.save(image, path)
    return path


@pytest.fixture
def volume():
    return make_tiny_case(0, (5, 6, 7))[0].transpose(2, 1, 0)


def test_reads_what_nibabel_reads_in_canonical_order(tmp_path, volume):
    image = read_image([_save(tmp_path / "a.nii.gz", volume)])
    assert np.array_equal(image.array[0], volume.transpose(2, 1, 0))
    assert image.array.dtype == np.int16
    assert np.allclose(image.grid.spacing_mm, (2.5, 0.8, 0.7))


@pytest.mark.parametrize(("sform", "qform"), [(1, 1), (2, 0), (0, 1), (4, 3)])
@pytest.mark.parametrize("ending", [".nii.gz", ".nii"])
def test_a_mask_lies_on_its_scans_exact_grid(tmp_path, volume, sform, qform, ending):
    affine = np.array([[0, 1.5, 0, 3.3], [-0.7, 0, 0, 1.7], [0, 0, 2.5, -9.1], [0, 0, 0, 1]])
    path = _save(tmp_path / f"a{ending}", volume, affine, sform=sform, qform=qform)
    image = read_image([path])
    label = (image.array[0] > -500).astype(np.uint8)
    write_label(tmp_path / f"mask{ending}", label, image.orientation, image.header)
    scan, mask = nib.load(path), nib.load(tmp_path / f"mask{ending}")
    assert np.array_equal(scan.affine, mask.affine)
    assert scan.shape == mask.shape
    assert [int(mask.header[name]) for name in ("sform_code", "qform_code")] == [sform, qform]
    assert np.array_equal(np.asarray(mask.dataobj), (np.asarray(scan.dataobj) > -500))
    assert mask.get_data_dtype() == np.uint8


def test_scaled_and_big_endian_files_are_read_right(tmp_path, volume):
    image = nib.Nifti1Image(volume.astype(np.float32), np.eye(4))
    image.set_data_dtype(np.int16)
    image.header.set_slope_inter(2, 10)
    nib.save(image, tmp_path / "scaled.nii.gz")
    expected = nib.load(tmp_path / "scaled.nii.gz").get_fdata()
    assert np.allclose(np.sort(read_image([tmp_path / "scaled.nii.gz"]).array.ravel()), np.sort(expected.ravel()))
    big = nib.Nifti1Image(volume, np.eye(4), nib.Nifti1Header(endianness=">"))
    nib.save(big, tmp_path / "big.nii")
    assert np.array_equal(np.sort(read_image([tmp_path / "big.nii"]).array.ravel()), np.sort(volume.ravel()))


def test_no_orientation_is_refused_unless_the_user_says_one(tmp_path, volume):
    path = _save(tmp_path / "a.nii.gz", volume, sform=0, qform=0)
    with pytest.raises(GeometryError, match=r"a\.nii\.gz.*no orientation.*--assume-orientation"):
        read_image([path])
    assert np.array_equal(read_image([path], assume_orientation="LPS").array[0], volume.transpose(2, 1, 0))
    with pytest.raises(GeometryError, match="not an orientation"):
        read_image([path], assume_orientation="LLS")


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.full((3, 3, 3), np.nan, np.float32), "not finite.*27 of 27"),
        (np.full((3, 3, 3), np.inf, np.float32), "not finite"),
        (np.zeros((3, 3, 3, 2), np.int16), "three axes"),
        (np.zeros((3, 3, 3), np.complex64), "not a real number"),
    ],
)
def test_unusable_voxels_are_refused_by_name(tmp_path, array, words):
    with pytest.raises(ImageError, match=rf"bad\.nii.*{words}"):
        read_image([_save(tmp_path / "bad.nii", array)])


def test_float_labels_are_whole_numbers_or_refused(tmp_path):
    whole = np.zeros((3, 3, 3), np.float32)
    whole[0, 0, 0] = 2.0004
    assert read_label(_save(tmp_path / "whole.nii.gz", whole)).array.max() == 2
    whole[0, 0, 0] = 1.5
    with pytest.raises(ImageError, match=r"half\.nii\.gz.*whole numbers.*1 voxels such as 1\.5"):
        read_label(_save(tmp_path / "half.nii.gz", whole))


def test_other_formats_are_refused_by_name(tmp_path):
    (tmp_path / "a.dcm").write_bytes(b"DICM")
    with pytest.raises(UnavailableError, match=r"a\.dcm.*not read by this version"):
        read_image([tmp_path / "a.dcm"])


def test_second_channel_on_another_grid_is_refused(tmp_path, volume):
    first = _save(tmp_path / "a_0000.nii.gz", volume)
    moved = np.diag([-0.7, -0.8, 2.5, 1])
    moved[0, 3] = 5
    second = _save(tmp_path / "a_0001.nii.gz", volume, moved)
    with pytest.raises(GeometryError, match=r"a_0001.*lies elsewhere.*5\.000 mm"):
        read_image([first, second])


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    path = tmp_path_factory.mktemp("packed") / "a.nii.gz"
    return _save(path, make_tiny_case(1, (6, 20, 24))[0].transpose(2, 1, 0)).read_bytes()


@given(st.data())
def test_any_flipped_bit_or_cut_is_noticed(tmp_path_factory, packed, data):
    """nibabel misses most of these: the CRC and length are checked here.

    A flip in a Huffman code that no symbol uses leaves the content as it was: then there is nothing to notice.
    """
    damaged = bytearray(packed)
    if data.draw(st.booleans()):
        damaged = damaged[: data.draw(st.integers(0, len(damaged) - 1))]
    else:
        damaged[data.draw(st.integers(10, len(damaged) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path = tmp_path_factory.mktemp("damaged") / "scan.nii.gz"
    path.write_bytes(damaged)
    if _inflates_to(damaged, standard_gzip.decompress(packed)):
        return
    with pytest.raises(DataError, match=r"scan\.nii\.gz"):
        read_image([path])


def _inflates_to(damaged, content):
    try:
        return standard_gzip.decompress(damaged) == content
    except (OSError, EOFError, zlib.error):
        return False


def test_an_unknown_data_type_is_refused(tmp_path, packed):
    content = bytearray(standard_gzip.decompress(packed))
    content[70:72] = (8204).to_bytes(2, "little")
    for name, data in (("scan.nii", bytes(content)), ("scan.nii.gz", gzip(bytes(content)))):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(DataError, match=rf"{name}.*is not a readable NIfTI file.*8204"):
            read_image([tmp_path / name])


@given(st.binary(max_size=400))
def test_random_bytes_are_refused_not_crashed_on(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("random") / "noise.nii"
    path.write_bytes(content)
    with pytest.raises(DataError):
        read_image([path])


@given(st.binary(max_size=2000))
def test_gzip_agrees_with_the_standard_library(content):
    assert standard_gzip.decompress(gzip(content)) == content
    assert gunzip(standard_gzip.compress(content)) == content
    assert gunzip(standard_gzip.compress(content) + standard_gzip.compress(b"more")) == content + b"more"


def test_an_oversized_gzip_is_refused():
    with pytest.raises(ImageError, match="more than 10"):
        gunzip(standard_gzip.compress(bytes(11)), limit=10)


def test_a_bomb_is_refused_before_it_fills_the_memory(tmp_path):
    """200 MB of zeros after a scan of 27 voxels: no more than the slack of 1 MiB is inflated."""
    nib.save(nib.Nifti1Image(np.ones((3, 3, 3), np.int16), np.eye(4)), tmp_path / "small.nii")
    content = (tmp_path / "small.nii").read_bytes()
    (tmp_path / "bomb.nii.gz").write_bytes(gzip(content + bytes(200_000_000)))
    tracemalloc.start()
    with pytest.raises(ImageError, match=r"bomb\.nii\.gz.*inflates to more bytes than its header"):
        read_image([tmp_path / "bomb.nii.gz"])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20_000_000
    (tmp_path / "padded.nii.gz").write_bytes(gzip(content + bytes(1 << 20)))
    assert read_image([tmp_path / "padded.nii.gz"]).array.shape == (1, 3, 3, 3)


@pytest.mark.parametrize("cut", [0, 100, 352, 500])
def test_a_file_of_several_gzip_members_is_read(tmp_path, volume, cut):
    content = _save(tmp_path / "a.nii", volume).read_bytes()
    (tmp_path / "b.nii.gz").write_bytes(gzip(content[:cut]) + gzip(content[cut:]))
    assert np.array_equal(read_image([tmp_path / "b.nii.gz"]).array, read_image([tmp_path / "a.nii"]).array)


def test_a_compressed_nifti2_is_read(tmp_path, volume):
    nib.save(nib.Nifti2Image(volume, np.diag([-1, -1, 2, 1])), tmp_path / "two.nii.gz")
    image = read_image([tmp_path / "two.nii.gz"])
    assert np.array_equal(image.array[0], volume.transpose(2, 1, 0))


@pytest.mark.parametrize("shape", [(8, 9, 10, 1), (8, 9), (8, 9, 1), (8, 9, 10), (8, 9, 10, 1, 1)])
def test_a_mask_has_its_scans_own_axes(tmp_path, shape):
    voxels = np.arange(np.prod(shape), dtype=np.int16).reshape(shape)
    path = _save(tmp_path / "scan.nii.gz", voxels, np.diag([0.7, -0.8, 2.5, 1]))
    image = read_image([path])
    write_label(tmp_path / "mask.nii.gz", image.array[0], image.orientation, image.header)
    mask = nib.load(tmp_path / "mask.nii.gz")
    assert mask.shape == shape
    assert np.array_equal(mask.affine, nib.load(path).affine)
    assert np.array_equal(np.asarray(mask.dataobj), voxels)


def test_arrays_need_a_matching_canonical_grid():
    array = np.zeros((3, 4, 5), np.int16)
    assert np.allclose(Image.from_array(array, spacing_mm=(3, 2, 1)).grid.spacing_mm, (3, 2, 1))
    with pytest.raises(GeometryError, match="needs grid= or spacing_mm="):
        Image.from_array(array)
    with pytest.raises(ImageError, match="axes"):
        Image.from_array(np.zeros((3, 4)), spacing_mm=(1, 1, 1))


def test_real_ct_round_trip(shared_data, tmp_path):
    path = shared_data / "ct3d" / "ibsi_lung_phantom_0000.nii.gz"
    image = read_image([path])
    write_label(tmp_path / "same.nii.gz", image.array[0], image.orientation, image.header)
    ours, theirs = nib.load(tmp_path / "same.nii.gz"), nib.load(path)
    assert np.array_equal(np.asarray(ours.dataobj), np.asarray(theirs.dataobj))
    assert np.array_equal(ours.affine, theirs.affine)
