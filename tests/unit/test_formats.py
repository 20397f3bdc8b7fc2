"""MetaImage, NRRD, pictures and TIFF against SimpleITK, Pillow and tifffile; damaged files refused by name."""

from __future__ import annotations

import io
import itertools
import json
import logging
import tracemalloc

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as Pillow

from siccs_net.errors import DataError, GeometryError, ImageError, MissingPathError, UnavailableError
from siccs_net.geometry import Orientation, canonical_affine
from siccs_net.io.formats import ENDINGS, image_sha256
from siccs_net.io.image import read_image, read_label, write_image, write_label

ITK_ENDINGS = (".mha", ".mhd", ".nrrd", ".nhdr")
AFFINE = np.array([[0, 1.5, 0, 3.3], [-0.7, 0, 0, 1.7], [0, 0, 2.5, -9.1], [0, 0, 0, 1]])


def _itk_image(array, spacing=(0.7, 0.8, 2.5), origin=(-11.3, 20.7, 1 / 3), direction=None):
    """SimpleITK's image of an array [z, y, x]."""
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(spacing[: image.GetDimension()])
    image.SetOrigin(origin[: image.GetDimension()])
    if direction is not None:
        image.SetDirection(np.asarray(direction, float).ravel().tolist())
    return image


def _volume(dtype=np.int16, shape=(4, 5, 6)):
    return np.random.default_rng(0).integers(0, 100, shape).astype(dtype)


def _same_geometry(one, other):
    return all(getattr(one, f"Get{name}")() == getattr(other, f"Get{name}")() for name in ("Spacing", "Origin", "Size"))


ALL_ORIENTATIONS = [
    np.eye(3)[:, list(order)] * signs
    for order in itertools.permutations(range(3))
    for signs in itertools.product((1.0, -1.0), repeat=3)
]


@pytest.mark.parametrize("ending", [".mha", ".nrrd"])
def test_all_48_orientations_are_read_as_nifti_reads_them(tmp_path, ending):
    """SimpleITK writes each scan in both formats; the mask goes back onto exactly the scan's grid."""
    assert len(ALL_ORIENTATIONS) == 48
    for direction in ALL_ORIENTATIONS:
        scan = _itk_image(_volume(), direction=direction)
        sitk.WriteImage(scan, tmp_path / f"scan{ending}")
        sitk.WriteImage(scan, tmp_path / "scan.nii.gz")
        image, twin = read_image([tmp_path / f"scan{ending}"]), read_image([tmp_path / "scan.nii.gz"])
        assert np.array_equal(image.array, twin.array)
        assert np.allclose(image.grid.affine, twin.grid.affine, atol=1e-5)
        write_label(tmp_path / f"mask{ending}", (image.array[0] > 50).astype(np.uint8), image.orientation, image.header)
        mask = sitk.ReadImage(tmp_path / f"mask{ending}")
        assert mask.GetPixelID() == sitk.sitkUInt8
        assert _same_geometry(mask, sitk.ReadImage(tmp_path / f"scan{ending}"))
        assert mask.GetDirection() == sitk.ReadImage(tmp_path / f"scan{ending}").GetDirection()
        assert np.array_equal(sitk.GetArrayFromImage(mask), _volume() > 50)


@pytest.mark.parametrize("ending", ITK_ENDINGS)
@pytest.mark.parametrize("dtype", ["i1", "u1", "i2", "u2", "i4", "u4", "f4", "f8"])
@pytest.mark.parametrize("compress", [True, False])
def test_every_type_is_read_as_simpleitk_reads_it(tmp_path, ending, dtype, compress):
    angle = np.array([[0.8, -0.6, 0], [0.6, 0.8, 0], [0, 0, 1]])
    sitk.WriteImage(_itk_image(_volume(dtype), direction=angle), tmp_path / f"a{ending}", compress)
    image = read_image([tmp_path / f"a{ending}"])
    theirs = sitk.ReadImage(tmp_path / f"a{ending}")
    native = image.orientation.to_native(image.array[0]).transpose(2, 1, 0)
    assert np.array_equal(native, sitk.GetArrayFromImage(theirs))
    for index in ((0, 0, 0), (5, 4, 3)):
        lps = np.diag([-1, -1, 1, 1]) @ image.orientation.native_affine @ (*index, 1)
        assert np.allclose(lps[:3], theirs.TransformIndexToPhysicalPoint(index), atol=1e-9)


@pytest.mark.parametrize("ending", ITK_ENDINGS)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_mask_of_a_nifti_scan_lies_on_its_grid_in_any_format(tmp_path, ending, dtype):
    nib.save(nib.Nifti1Image(_volume().T, AFFINE), tmp_path / "scan.nii.gz")
    image = read_image([tmp_path / "scan.nii.gz"])
    labels = image.array[0].astype(dtype) * (300 if dtype == np.uint16 else 1)
    write_label(tmp_path / f"mask{ending}", labels, image.orientation, image.header)
    theirs = sitk.ReadImage(tmp_path / f"mask{ending}")
    assert theirs.GetPixelID() == (sitk.sitkUInt16 if dtype == np.uint16 else sitk.sitkUInt8)
    assert np.allclose(theirs.GetSpacing(), (0.7, 1.5, 2.5))
    again = read_label(tmp_path / f"mask{ending}")
    assert np.array_equal(again.array[0], labels)
    assert np.allclose(again.orientation.native_affine, image.orientation.native_affine, atol=1e-6)


@pytest.mark.parametrize("ending", ITK_ENDINGS)
def test_slices_are_volumes_of_one_slice(tmp_path, ending):
    sitk.WriteImage(_itk_image(_volume()[0]), tmp_path / f"a{ending}")
    image = read_image([tmp_path / f"a{ending}"])
    assert image.array.shape == (1, 1, 5, 6)
    assert np.allclose(image.grid.spacing_mm, (1, 0.8, 0.7))
    write_label(tmp_path / f"m{ending}", image.array[0].astype(np.uint8), image.orientation, image.header)
    mask = sitk.ReadImage(tmp_path / f"m{ending}")
    assert mask.GetDimension() == 2
    assert _same_geometry(mask, sitk.ReadImage(tmp_path / f"a{ending}"))


def test_spaces_of_slicer_and_big_endian_files_are_read_right(tmp_path):
    for space, signs in (("left-posterior-superior", (-1, -1)), ("RAS", (1, 1)), ("left-anterior-superior", (-1, 1))):
        text = (
            f"NRRD0005\n# a comment\ntype: short\ndimension: 3\nspace: {space}\nsizes: 6 5 4\nendian: big\n"
            "space directions: (0.7,0,0) (0,0.8,0) (0,0,2.5)\nspace origin: (1,2,3)\nencoding: raw\nkey:=value\n\n"
        )
        (tmp_path / "a.nrrd").write_bytes(text.encode() + _volume(">i2").tobytes())
        image = read_image([tmp_path / "a.nrrd"])
        assert np.allclose(np.diag(image.orientation.native_affine)[:2], np.array(signs) * (0.7, 0.8))
        theirs = sitk.ReadImage(tmp_path / "a.nrrd")
        lps = np.diag([-1, -1, 1, 1]) @ image.orientation.native_affine @ (1, 2, 3, 1)
        assert np.allclose(lps[:3], theirs.TransformIndexToPhysicalPoint((1, 2, 3)))
        native = image.orientation.to_native(image.array[0]).transpose(2, 1, 0)
        assert np.array_equal(native, sitk.GetArrayFromImage(theirs))


def test_the_hash_covers_the_detached_file(tmp_path):
    for ending, raw in ((".mhd", ".raw"), (".nhdr", ".raw")):
        path = tmp_path / f"a{ending}"
        sitk.WriteImage(_itk_image(_volume()), path)
        before = image_sha256(path)
        assert read_image([path]).sha256 == (before,)
        beside = path.with_suffix(raw)
        beside.write_bytes(beside.read_bytes()[:-2] + b"ab")
        assert image_sha256(path) != before
        beside.unlink()
        with pytest.raises(MissingPathError, match=r"a\.raw"):
            read_image([path])


def _mha(**changes):
    fields = {
        "ObjectType": "Image",
        "NDims": 3,
        "BinaryData": True,
        "BinaryDataByteOrderMSB": False,
        "CompressedData": False,
        "TransformMatrix": "1 0 0 0 1 0 0 0 1",
        "Offset": "0 0 0",
        "ElementSpacing": "1 1 1",
        "DimSize": "6 5 4",
        "ElementType": "MET_SHORT",
        **changes,
    }
    return "".join(f"{key} = {value}\n" for key, value in fields.items() if value is not None) + "ElementDataFile = "


def _nrrd(**changes):
    fields = {
        "type": "short",
        "dimension": 3,
        "space": "left-posterior-superior",
        "sizes": "6 5 4",
        "space directions": "(1,0,0) (0,1,0) (0,0,1)",
        "space origin": "(0,0,0)",
        "endian": "little",
        "encoding": "raw",
        **{key.replace("_", " "): value for key, value in changes.items()},
    }
    return "NRRD0004\n" + "".join(f"{key}: {value}\n" for key, value in fields.items() if value is not None) + "\n"


VOXELS = _volume().tobytes()
NAN = np.full(120, np.nan, "f4").tobytes()
BAD = {
    "truncated mha": (".mha", _mha() + "LOCAL\n", VOXELS[:-1], "truncated"),
    "cut header of mha": (".mha", _mha()[:60], b"", "no ElementDataFile"),
    "wrong magic of nrrd": (".nrrd", "NRRX" + _nrrd()[4:], VOXELS, "not a NRRD"),
    "not an mha": (".mha", "hello", b"", "not a readable MetaImage"),
    "empty mha": (".mha", "", b"", "MetaImage"),
    "empty nrrd": (".nrrd", "", b"", "NRRD"),
    "NaN in mha": (".mha", _mha(ElementType="MET_FLOAT") + "LOCAL\n", NAN, "not finite.*120 of 120"),
    "NaN in nrrd": (".nrrd", _nrrd(type="float"), NAN, "not finite"),
    "zero spacing in mha": (".mha", _mha(ElementSpacing="1 1 0") + "LOCAL\n", VOXELS, "spacing is zero"),
    "zero spacing in nrrd": (".nrrd", _nrrd(space_directions="(1,0,0) (0,1,0) (0,0,0)"), VOXELS, "spacing is zero"),
    "NaN spacing": (".mha", _mha(ElementSpacing="1 nan 1") + "LOCAL\n", VOXELS, "damaged ElementSpacing"),
    "missing numbers": (".mha", _mha(Offset="1 2") + "LOCAL\n", VOXELS, "damaged Offset.*3 numbers"),
    "axes that point the same way": (".mha", _mha(TransformMatrix="1 0 0 1 0 0 0 0 1") + "LOCAL\n", VOXELS, "singular"),
    "four axes in mha": (".mha", _mha(NDims=4, DimSize="6 5 4 2") + "LOCAL\n", VOXELS * 2, "three axes"),
    "four axes in nrrd": (".nrrd", _nrrd(dimension=4, sizes="6 5 4 2"), VOXELS * 2, "three axes"),
    "colours in mha": (".mha", _mha(ElementNumberOfChannels=3) + "LOCAL\n", VOXELS * 3, "several channels"),
    "colours in nrrd": (".nrrd", _nrrd(sizes="3 10 4", kinds="RGB-color domain domain"), VOXELS, "not of space"),
    "a huge mha": (".mha", _mha(DimSize="99999 99999 99999") + "LOCAL\n", VOXELS, "more bytes than this version"),
    "a huge nrrd": (".nrrd", _nrrd(sizes="99999 99999 99999"), VOXELS, "more bytes than this version"),
    "negative sizes": (".mha", _mha(DimSize="-6 5 4") + "LOCAL\n", VOXELS, "no voxels"),
    "sizes that are no numbers": (".nrrd", _nrrd(sizes="a b c"), VOXELS, "damaged sizes"),
    "sizes against dimension": (".nrrd", _nrrd(dimension=2), VOXELS, "contradicts itself"),
    "an unknown type": (".mha", _mha(ElementType="MET_STRING") + "LOCAL\n", VOXELS, "ElementType"),
    "an unknown type in nrrd": (".nrrd", _nrrd(type="block"), VOXELS, "type that is not read"),
    "voxels as text": (".nrrd", _nrrd(encoding="ascii"), VOXELS, "encoding that is not read"),
    "a list of files": (".mhd", _mha() + "LIST\n", b"", "several files"),
    "voxels elsewhere": (".mhd", _mha() + "../../etc/passwd\n", b"", "outside its own folder"),
    "voxels elsewhere in nrrd": (".nhdr", _nrrd(data_file="/etc/passwd"), b"", "outside its own folder"),
    "damaged zlib": (".mha", _mha(CompressedData=True) + "LOCAL\n", b"x" * 50, "damaged compressed"),
    "damaged gzip": (".nrrd", _nrrd(encoding="gzip"), b"x" * 50, "gzip"),
    "damaged bzip2": (".nrrd", _nrrd(encoding="bzip2"), b"x" * 50, "damaged compressed"),
}


@pytest.mark.parametrize("name", BAD)
def test_damaged_files_are_one_named_error(tmp_path, name):
    ending, text, voxels, words = BAD[name]
    (tmp_path / f"bad{ending}").write_bytes(text.encode() + voxels)
    with pytest.raises(DataError, match=rf"bad\{ending}.*{words}") as caught:
        read_image([tmp_path / f"bad{ending}"])
    assert "\n" not in str(caught.value)


def test_a_bomb_is_not_inflated(tmp_path):
    """200 MB of zeros behind headers that ask for 240 bytes."""
    import zlib

    from siccs_net.io.gunzip import gzip

    (tmp_path / "a.mha").write_bytes((_mha(CompressedData=True) + "LOCAL\n").encode() + zlib.compress(bytes(200 << 20)))
    (tmp_path / "a.nrrd").write_bytes(_nrrd(encoding="gzip").encode() + gzip(bytes(200 << 20)))
    tracemalloc.start()
    for name in ("a.mha", "a.nrrd"):
        with pytest.raises(ImageError, match=rf"{name}.*inflates to more bytes"):
            read_image([tmp_path / name])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20_000_000


def _encoded(ending, folder):
    labels = np.zeros((1, 40, 50), np.uint8)
    labels[0, 10:30, 10:30] = 2
    labels[0, 15, 15:40] = 1
    path = folder / f"good{ending}"
    write_label(path, labels, Orientation.of((50, 40, 1), canonical_affine((1, 1, 1))))
    return path.read_bytes()


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    folder = tmp_path_factory.mktemp("good")
    return {ending: _encoded(ending, folder) for ending in ENDINGS if ending not in (".mhd", ".nhdr")}


@pytest.mark.parametrize("ending", [".mha", ".nrrd", ".png", ".bmp", ".tif"])
@given(data=st.data())
def test_flipped_bits_and_cuts_never_crash(tmp_path_factory, good, ending, data):
    """Whatever is damaged, there is an image of a plausible grid or one error of ours; compressed voxels have sums."""
    damaged = bytearray(good[ending])
    if data.draw(st.booleans()):
        damaged = damaged[: data.draw(st.integers(0, len(damaged) - 1))]
    else:
        for _ in range(data.draw(st.integers(1, 3))):
            damaged[data.draw(st.integers(0, len(damaged) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path = tmp_path_factory.getbasetemp() / f"damaged{ending}"
    path.write_bytes(damaged)
    try:
        found = read_image([path])
    except (DataError, MissingPathError) as error:  # a letter of LOCAL flipped names a file that is not there
        found = error
    if isinstance(found, MissingPathError):
        assert ending == ".mha"
    elif isinstance(found, DataError):
        assert f"damaged{ending}" in str(found)
    else:
        assert found.array.size < 1 << 24


@given(data=st.data())
def test_any_flipped_bit_of_a_png_is_noticed(tmp_path_factory, good, data):
    damaged = bytearray(good[".png"])
    damaged[data.draw(st.integers(0, len(damaged) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path = tmp_path_factory.getbasetemp() / "flipped.png"
    path.write_bytes(damaged)
    with pytest.raises(DataError, match=r"flipped\.png"):
        read_image([path])


@pytest.mark.parametrize("ending", [".png", ".bmp", ".tif", ".tiff"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_grey_pictures_are_one_slice_of_1_mm(tmp_path, ending, dtype):
    if ending == ".bmp" and dtype == np.uint16:
        pytest.skip("BMP has 8 bits")
    picture = _volume(dtype, (5, 6)) * (600 if dtype == np.uint16 else 2)
    Pillow.fromarray(picture).save(tmp_path / f"a{ending}")
    image = read_image([tmp_path / f"a{ending}"])
    assert image.array.dtype == dtype
    assert np.array_equal(image.array, picture[None, None])
    assert image.grid.spacing_mm == (1, 1, 1)
    write_label(tmp_path / f"m{ending}", image.array[0], image.orientation, image.header)
    with Pillow.open(tmp_path / f"m{ending}") as mask:
        assert np.array_equal(np.asarray(mask), picture)


@pytest.mark.parametrize("ending", [".png", ".bmp", ".tif"])
def test_colours_are_three_channels_and_alpha_is_refused(tmp_path, ending):
    picture = _volume(np.uint8, (5, 6, 3))
    Pillow.fromarray(picture).save(tmp_path / f"a{ending}")
    image = read_image([tmp_path / f"a{ending}"], channels=3)
    assert np.array_equal(image.array, picture.transpose(2, 0, 1)[:, None])
    with pytest.raises(ImageError, match=rf"a\{ending}.*another number of channels.*found 3; expected 1"):
        read_image([tmp_path / f"a{ending}"], channels=1)
    with pytest.raises(ImageError, match=rf"a\{ending}.*label map must have one channel"):
        read_label(tmp_path / f"a{ending}")
    if ending != ".bmp":
        Pillow.fromarray(_volume(np.uint8, (5, 6, 4))).save(tmp_path / f"b{ending}")
        with pytest.raises(ImageError, match=rf"b\{ending}.*alpha"):
            read_image([tmp_path / f"b{ending}"])
    Pillow.fromarray(picture).convert("P").save(tmp_path / f"c{ending}")
    with pytest.raises(ImageError, match=rf"c\{ending}.*palette"):
        read_image([tmp_path / f"c{ending}"])


def test_what_pillow_would_change_unsaid_is_refused(tmp_path):
    """A PNG of 16 bits a colour is cut down to 8 by Pillow, and transparent grey is taken as grey."""
    import struct
    import zlib

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    def png(bits, colour, extra=b""):
        row = b"\0" + b"\1" * (bits // 8 * (3 if colour == 2 else 1) * 2)
        head = chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 2, bits, colour, 0, 0, 0))
        return b"\x89PNG\r\n\x1a\n" + head + extra + chunk(b"IDAT", zlib.compress(row * 2)) + chunk(b"IEND", b"")

    (tmp_path / "good.png").write_bytes(png(16, 0))
    assert read_image([tmp_path / "good.png"]).array.tolist() == [[[[257, 257], [257, 257]]]]
    (tmp_path / "deep.png").write_bytes(png(16, 2))
    with pytest.raises(ImageError, match=r"deep\.png.*16 bits a colour"):
        read_image([tmp_path / "deep.png"])
    (tmp_path / "clear.png").write_bytes(png(8, 0, chunk(b"tRNS", b"\0\0")))
    with pytest.raises(ImageError, match=r"clear\.png.*transparent"):
        read_image([tmp_path / "clear.png"])


def test_one_bit_pictures_hold_0_and_1(tmp_path):
    Pillow.fromarray(np.eye(4, dtype=bool)).save(tmp_path / "a.png")
    assert np.array_equal(read_label(tmp_path / "a.png").array[0, 0], np.eye(4))


def test_pictures_hold_one_slice_and_few_bits(tmp_path):
    place = Orientation.of((6, 5, 4), canonical_affine((1, 1, 1)))
    with pytest.raises(ImageError, match="one slice only"):
        write_label(tmp_path / "a.png", _volume(np.uint8), place)
    with pytest.raises(ImageError, match=r"b\.bmp.*cannot hold uint16"):
        write_label(tmp_path / "b.bmp", _volume(np.uint16)[:1], Orientation.of((6, 5, 1), canonical_affine((1, 1, 1))))


@pytest.mark.parametrize("photometric", ["rgb", "minisblack"])
@pytest.mark.parametrize("name", ["a_0000", "a"])
def test_a_tiff_stack_has_the_spacing_of_its_json(tmp_path, name, photometric):
    """A stack of three or four slices is stored by tifffile as colours unless it is told otherwise."""
    tifffile.imwrite(tmp_path / f"{name}.tif", _volume(np.uint16), photometric=photometric)
    (tmp_path / "a.json").write_text('{"spacing": [3, 0.5, 0.4]}')
    image = read_image([tmp_path / f"{name}.tif"])
    assert np.array_equal(image.array[0], _volume(np.uint16))
    assert np.allclose(image.grid.spacing_mm, (3, 0.5, 0.4))
    assert image.sha256 == (image_sha256(tmp_path / f"{name}.tif"),)
    write_label(tmp_path / "out" / "a.tif", image.array[0].astype(np.uint8), image.orientation, image.header)
    assert np.array_equal(tifffile.imread(tmp_path / "out" / "a.tif"), _volume(np.uint8))
    assert json.loads((tmp_path / "out" / "a.json").read_text())["spacing"] == pytest.approx([3, 0.5, 0.4])
    (tmp_path / "a.json").write_text('{"spacing": [3, 0.5]}')
    with pytest.raises(GeometryError, match=r"a\.json.*gives no spacing"):
        read_image([tmp_path / f"{name}.tif"])


def test_a_stack_without_a_spacing_is_1_mm_and_said(tmp_path, caplog):
    tifffile.imwrite(tmp_path / "a_0000.tif", _volume(np.uint8, (3, 5, 6)), photometric="minisblack")
    with caplog.at_level(logging.WARNING):
        assert read_image([tmp_path / "a_0000.tif"]).grid.spacing_mm == (1, 1, 1)
    assert "no a.json gives its spacing" in caplog.text


@pytest.mark.parametrize("compression", ["tiff_lzw", "packbits", "tiff_adobe_deflate"])
def test_compressed_stacks_of_other_programs_are_read(tmp_path, compression):
    frames = [Pillow.fromarray(plane) for plane in _volume(np.uint8)]
    frames[0].save(tmp_path / "a.tif", save_all=True, append_images=frames[1:], compression=compression)
    (tmp_path / "a.json").write_text('{"spacing": [1, 1, 1]}')
    assert np.array_equal(read_image([tmp_path / "a.tif"]).array[0], _volume(np.uint8))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.png", b"GIF89a" + bytes(50)),
        ("a.bmp", b"PNG" + bytes(50)),
        ("a.tif", b"hello" * 20),
        ("a.tif", b"II*\0" + bytes(4)),
        ("a.tif", b"II*\0\x08\0\0\0\xff\xff" + b"\1" * 60),
        ("a.png", b"\x89PNG\r\n\x1a\n"),
        ("a.bmp", b"BM" + bytes(10)),
        ("a.png", b""),
    ],
)
def test_files_that_are_no_pictures_are_named(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=name):
        read_image([tmp_path / name])


def test_a_bitmap_that_asks_for_more_than_it_holds_is_refused(tmp_path):
    stream = io.BytesIO()
    Pillow.fromarray(_volume(np.uint8, (5, 6))).save(stream, format="BMP")
    content = bytearray(stream.getvalue())
    content[18:22] = (12000).to_bytes(4, "little")
    content[22:26] = (12000).to_bytes(4, "little")
    (tmp_path / "a.bmp").write_bytes(content)
    with pytest.raises(ImageError, match=r"a\.bmp.*truncated"):
        read_image([tmp_path / "a.bmp"])


def test_channels_may_be_of_different_formats(tmp_path):
    place = Orientation.of((6, 5, 4), canonical_affine((2, 1, 1)))
    write_image(tmp_path / "a_0000.nii.gz", _volume(), place)
    write_image(tmp_path / "a_0001.mha", _volume(np.float32), place)
    image = read_image([tmp_path / "a_0000.nii.gz", tmp_path / "a_0001.mha"])
    assert image.array.shape == (2, 4, 5, 6)
    assert np.array_equal(image.array[0], image.array[1])


def test_an_unknown_ending_lists_those_that_are_read(tmp_path):
    with pytest.raises(UnavailableError, match=r"a\.gipl.*not read by this version.*\.mha or \.mhd or \.png"):
        read_image([tmp_path / "a.gipl"])
