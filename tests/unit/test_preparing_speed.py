"""What makes reading and preparing cases fast gives the plain way's answer; a second run does nothing."""

from __future__ import annotations

import gzip as standard_gzip
import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

import siccs_net as sn
from siccs_net.errors import EnvironmentProblem, ImageError
from siccs_net.geometry import canonical_affine
from siccs_net.io import files, gunzip, image, memory, store
from siccs_net.io.image import read_case, read_image
from siccs_net.io.memory import workers_that_fit
from siccs_net.io.store import PreparedStore
from siccs_net.pipeline import preprocess as pipeline
from siccs_net.planners import fingerprint
from siccs_net.preprocessing import crop, statistics
from siccs_net.preprocessing.preprocess import peak_bytes, to_classes, to_storage
from siccs_net.preprocessing.statistics import count_levels, measure
from siccs_net.records.base import _pretty
from siccs_net.records.dataset import LabelScheme
from siccs_net.workspace import Workspace

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=30,
)


@given(JSON)
def test_json_is_written_as_json_itself_writes_it(value: Any) -> None:
    assert _pretty(value) == json.dumps(value, indent=1, ensure_ascii=False)


@given(st.lists(st.tuples(st.integers(0, 70), st.integers(0, 6)), min_size=1, max_size=4), st.integers(0, 2**31))
def test_pieces_of_any_size_inflate_to_the_same(members: list[tuple[int, int]], seed: int) -> None:
    """Members about the sizes of the pieces, some of noise, some that shrink a thousandfold."""
    noise = np.random.default_rng(seed)
    contents = [noise.integers(0, 4**spread, 4096 * size, np.uint16).tobytes() for size, spread in members]
    packed = b"".join(standard_gzip.compress(content, 1) for content in contents)
    whole = b"".join(contents)
    assert gunzip.gunzip(packed) == whole
    if whole:
        with pytest.raises(ImageError, match=f"more than {len(whole) - 1}"):
            gunzip.gunzip(packed, limit=len(whole) - 1)
    for cut in noise.integers(1, len(packed), 3):
        whole_members = {sum(map(len, map(standard_gzip.compress, contents[:n], [1] * n))) for n in range(5)}
        if int(cut) not in whole_members:
            with pytest.raises(ImageError):
                gunzip.gunzip(packed[:cut])


def test_a_wrong_check_sum_or_length_is_refused_whatever_the_size() -> None:
    packed = bytearray(standard_gzip.compress(np.random.default_rng(0).bytes(500_000), 1))
    for place in (-8, -5, -4, -1):
        damaged = bytearray(packed)
        damaged[place] ^= 1
        with pytest.raises(ImageError, match="damaged gzip"):
            gunzip.gunzip(bytes(damaged))


@pytest.mark.parametrize("dtype", ["<i2", ">i2", "u1", ">f4", "<f8", "<i4"])
@pytest.mark.parametrize(("slope", "intercept"), [(1, 0), (2, -1024), (0.3, 0), (1, 7.5)])
def test_voxels_are_what_nibabel_makes_of_slope_and_intercept(
    tmp_path: Path, dtype: str, slope: float, intercept: float
) -> None:
    stored = np.random.default_rng(1).integers(0, 100, (7, 6, 5)).astype(dtype)
    header = nib.Nifti1Header(endianness="<" if dtype[0] != ">" else ">")
    header.set_data_dtype(np.dtype(dtype))
    header.set_data_shape(stored.shape)
    header.set_sform(canonical_affine((3.0, 2.0, 1.0)), 1)
    fields = {"scl_slope": slope, "scl_inter": intercept, "vox_offset": 352, "magic": b"n+1"}
    for name, value in fields.items():
        header[name] = value
    (tmp_path / "a.nii").write_bytes(header.binaryblock + bytes(4) + stored.tobytes(order="F"))
    expected = np.asanyarray(nib.load(tmp_path / "a.nii").dataobj).transpose(2, 1, 0)
    found = read_image([tmp_path / "a.nii"]).array[0]
    if found.dtype.kind == "f":
        expected = expected.astype(np.float32)
    assert np.array_equal(found, expected)
    assert found.dtype.isnative


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """A scan and its label map."""
    rng = np.random.default_rng(0)
    voxels = rng.integers(-1000, 500, (9, 8, 7)).astype(np.int16)
    for name, array in (("scan", voxels), ("mask", (voxels > 0).astype(np.uint8))):
        nib.save(nib.Nifti1Image(array, canonical_affine((3.0, 2.0, 1.0))), tmp_path / f"{name}.nii.gz")
    return tmp_path / "scan.nii.gz", tmp_path / "mask.nii.gz"


def test_large_files_are_read_beside_one_another_to_the_same(
    pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    small = read_case([pair[0]], pair[1])
    monkeypatch.setattr(image, "_WORTH_THREADS", 0)
    large = read_case([pair[0]], pair[1])
    for one, other, path in zip(small, large, pair, strict=True):
        assert np.array_equal(one.array, other.array)
        assert one.sha256 == other.sha256 == (files.file_sha256(path),)
    damaged = bytearray(pair[0].read_bytes())
    damaged[-6] ^= 1
    pair[0].write_bytes(bytes(damaged))
    with pytest.raises(ImageError, match=r"scan\.nii\.gz.*damaged gzip"):
        read_case([pair[0]], pair[1])


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.uint16, ">i2"])
@pytest.mark.parametrize("threads_from", [0, 1 << 40])
def test_levels_are_counted_in_parts_as_at_once(dtype: Any, threads_from: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "_WORTH_THREADS", threads_from)
    monkeypatch.setattr(statistics, "_LEVELS_TOGETHER", 77)
    limits = np.iinfo(dtype)
    values = np.random.default_rng(0).integers(limits.min, limits.max, (7, 11, 13), endpoint=True).astype(dtype)
    view = values[::-1, 1:].transpose(2, 0, 1)
    mask = np.random.default_rng(1).random(view.shape) < 0.3
    for where, chosen in ((None, view), (mask, view[mask])):
        counts = count_levels(view, where)
        levels, expected = np.unique(chosen, return_counts=True)
        assert np.array_equal(np.flatnonzero(counts) + limits.min, levels)
        assert np.array_equal(counts[counts > 0], expected)
        assert measure(view, where) == measure(np.ascontiguousarray(chosen))
    numbers = view.astype(np.float32)
    assert measure(numbers, mask) == measure(numbers[mask])


@given(st.tuples(*[st.integers(1, 12)] * 3), st.floats(0.2, 0.8), st.integers(0, 2**31))
def test_the_bodys_components_are_those_of_scipy(shape: Any, share: float, seed: int) -> None:
    mask = np.random.default_rng(seed).random(shape) < share
    components, count = ndimage.label(mask)
    found = crop._span_large_components(mask)
    if count == 0:
        assert found is None
        return
    inner = ndimage.binary_erosion(mask, border_value=1)
    assert np.array_equal(crop._without_surface(mask), inner)
    sizes = np.bincount(components[inner if inner.any() else mask], minlength=count + 1)[1:]
    large = sizes >= max(crop._SMALLEST_PIECE * sizes.max(), 1)
    boxes = [box for box, kept in zip(ndimage.find_objects(components), large, strict=True) if kept]
    spans = zip(*boxes, strict=True)
    assert found == [slice(min(s.start for s in span), max(s.stop for s in span)) for span in spans]


@pytest.mark.parametrize(("dimension", "shape"), [(3, (1, 130, 40, 70)), (3, (2, 70, 33, 64)), (2, (1, 5, 300, 300))])
def test_a_frame_packed_in_parts_has_the_bytes_of_one_packed_at_once(
    tmp_path: Path, dimension: int, shape: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    array = np.random.default_rng(0).integers(-50, 50, shape).astype(np.int16)
    packer = PreparedStore(tmp_path, dimension)
    monkeypatch.setattr(store, "_WORTH_THREADS", 1 << 40)
    whole = packer.pack(array)
    monkeypatch.setattr(store, "_WORTH_THREADS", 0)
    assert packer.pack(array) == whole
    assert packer.pack(array[:, :, ::-1]) != whole


def _scheme(*values: int, ignore: int | None = None) -> LabelScheme:
    return LabelScheme({f"label{value}": value for value in values}, ignore=ignore)


def test_label_values_become_classes_by_table_or_as_they_are() -> None:
    label = np.array([[[0, 1], [2, 2]]], np.uint8)
    assert np.shares_memory(to_classes(label, _scheme(0, 1, 2)), label)
    assert to_classes(label.astype(np.int32), _scheme(0, 1, 2)).dtype == np.uint8
    gaps = np.array([[[0, 4], [7, 9]]], np.int16)
    assert to_classes(gaps, _scheme(0, 4, 7, ignore=9)).tolist() == [[[0, 1], [2, 255]]]
    for wrong in (np.array([[[0, 5]]]), np.array([[[-1, 0]]]), np.array([[[10]]])):
        with pytest.raises(Exception, match="does not name"):
            to_classes(wrong, _scheme(0, 4, 7, ignore=9))


@pytest.mark.parametrize("storage", ["int16", "uint16", "float32"])
@pytest.mark.parametrize("dtype", [np.int16, np.uint8, np.int32, np.float32])
def test_stored_voxels_are_rounded_and_clipped(storage: str, dtype: Any) -> None:
    array: NDArray[Any] = (np.random.default_rng(0).normal(0, 30000, (2, 5, 6, 7))).astype(np.float32)
    array = (array if dtype == np.float32 else np.clip(array, 0, 200) if dtype == np.uint8 else array).astype(dtype)
    found = to_storage(array, storage)
    assert found.dtype == storage
    if storage == "float32":
        assert np.array_equal(found, array.astype(np.float32))
        return
    limits = np.iinfo(storage)
    assert np.array_equal(found, np.clip(np.rint(array.astype(np.float64)), limits.min, limits.max))


def test_a_cache_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.bin"
    assert files.write_cache(path, [b"some ", memoryview(b"content")]) == files.sha256(b"some content")
    assert path.read_bytes() == b"some content"

    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(EnvironmentProblem, match=r"a\.bin: the disk is full"):
        files.write_cache(path, [b"new"])
    assert path.read_bytes() == b"some content"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.bin"]


def test_no_more_cases_at_a_time_than_the_memory_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scan = tmp_path / "scan"
    gib = 1 << 30
    with open(scan, "wb") as stream:
        stream.truncate(gib)

    def largest() -> list[int]:
        return [gib, 3 * gib, 2 * gib]

    monkeypatch.setattr(memory, "available_cpus", lambda: 3)
    fitting = [workers_that_fit(None, [scan], largest, free=free * gib) for free in (8, 7, 6, 4, 1)]
    assert fitting == [3, 2, 1, 1, 1]
    assert workers_that_fit(2, [scan], largest, free=7 * gib) == 2
    assert workers_that_fit(0, [scan], largest, free=gib) == 0
    scan.write_bytes(b"small")
    assert workers_that_fit(2, [scan], lambda: pytest.fail("asked for small files"), free=gib) == 2


def test_preparing_takes_no_more_memory_than_it_says(tiny: Path, tmp_path: Path) -> None:
    """A scan of 100×100×100 voxels at 2 mm to 1 mm: 1 and 8 million voxels."""
    workspace, dataset = Workspace.resolve(tmp_path), sn.open_dataset(tiny)
    plan = sn.plan(dataset, settings={"spacing_mm": [1, 1, 1]}, configurations=["3d_fullres"], workspace=workspace)
    shape = (100, 100, 100)
    found = peak_bytes(shape, shape, (2.0, 2.0, 2.0), plan.configurations["3d_fullres"])
    assert found == 1_000_000 * 8 + 8_000_000 * 10


def test_a_second_run_reads_no_image_and_writes_nothing(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace, dataset = Workspace.resolve(tmp_path), sn.open_dataset(tiny)
    plan = sn.plan(dataset, configurations=["3d_fullres"], workspace=workspace)
    made = sn.preprocess(dataset, plan, "3d_fullres", workspace=workspace)
    assert len(made.made) == len(dataset.cases)

    def state() -> dict[Path, tuple[int, int]]:
        found = (path for path in tmp_path.rglob("*") if path.is_file() and path.name != ".lock")
        return {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in found}

    before = state()

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a case was read again")

    monkeypatch.setattr(pipeline, "read_case", refuse)
    monkeypatch.setattr(fingerprint, "read_case", refuse)
    assert sn.plan(dataset, configurations=["3d_fullres"], workspace=workspace) == plan
    again = sn.preprocess(dataset, plan, "3d_fullres", workspace=workspace)
    assert (again.made, len(again.kept)) == ((), len(dataset.cases))
    assert state() == before
