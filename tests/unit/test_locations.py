"""Voxels of each class: counted exactly, drawn from all of them, looked up without the label map, kept true to it."""

from __future__ import annotations

import pickle
import tracemalloc
from collections import Counter

import numpy as np
import pytest

from siccs_net.data.foreground import ForegroundIndex
from siccs_net.errors import StoreError
from siccs_net.io.locations import read_locations, write_locations
from siccs_net.io.store import PreparedCase, PreparedStore
from siccs_net.records.case import CaseGeometry, PreparedRecord

IGNORED = 255


def _save(store, case, label):
    shape = label.shape
    geometry = CaseGeometry(
        canonical_spacing_mm=(1, 1, 1),
        oriented_shape=shape,
        crop_box=tuple((0, size) for size in shape),
        prepared_shape=shape,
        transpose=(0, 1, 2),
    )
    record = PreparedRecord(
        case=case,
        recipe_sha256="0",
        input_sha256=(),
        image_sha256="",
        label_sha256=None,
        geometry=geometry,
        statistics_all=(),
        statistics_foreground=(),
        label_voxels={},
    )
    return store.save(PreparedCase(np.zeros((1, *shape), np.int16), label, record))


@pytest.fixture
def store(tmp_path):
    return PreparedStore(tmp_path, 3)


def _label(seed=0, values=(0, 0, 0, 1, 3), shape=(7, 11, 13)):
    return np.random.default_rng(seed).choice(values, shape).astype(np.uint8)


class _Blind(PreparedStore):
    """A store whose label maps cannot be read."""

    def label(self, case):
        raise AssertionError("the label map was read")


def test_every_voxel_of_a_class_and_no_other_without_reading_the_label_map(store):
    label = _label()
    _save(store, "a", label)
    found = _Blind(store.folder, 3).locations("a")
    assert found.shape == label.shape
    assert found.counts == {value: int((label == value).sum()) for value in (1, 3)}
    for value in (1, 3):
        voxels = [found.voxel(value, number) for number in range(found.counts[value])]
        assert voxels == list(map(tuple, np.argwhere(label == value).tolist()))
    with pytest.raises(IndexError, match="class 2 has 0"):
        found.voxel(2, 0)
    with pytest.raises(IndexError, match="none of number"):
        found.voxel(1, found.counts[1])


def test_views_are_written_in_their_own_order(tmp_path):
    label = _label()[::-1, :, 2:].transpose(2, 0, 1)
    write_locations(tmp_path / "v", label, "x" * 64)
    found = read_locations(tmp_path / "v", "x" * 64)
    assert [found.voxel(3, number) for number in range(5)] == list(map(tuple, np.argwhere(label == 3)[:5].tolist()))


@pytest.mark.parametrize(
    ("runs", "shape"),
    [
        ([(3, 1), (70_000, 2), (300, 1), (255, 0), (256, 2), (65_281, 1), (0, 0), (1, 2)], (1, 1, -1)),
        ([(90_000, 0), (1, 1), (200_000, 0), (600, 1), (510, 2)], (1, 1, -1)),
        ([(1, 1), (2, 0)] * 400 + [(256 * 255 + 255, 0), (255, 1), (256 * 256, 0), (1, 1)], (1, 1, -1)),
        ([(7, 1)], (1, 7, 1)),
    ],
)
def test_long_and_short_gaps_and_runs(tmp_path, runs, shape):
    """The file counts in bytes: pages of 256 voxels for long gaps, pieces of 255 for long runs."""
    label = np.repeat([value for _, value in runs], [count for count, _ in runs]).astype(np.uint8).reshape(shape)
    write_locations(tmp_path / "v", label, "x" * 64)
    found = read_locations(tmp_path / "v", "x" * 64)
    for value in found.counts:
        expected = np.flatnonzero(label == value)
        assert found.counts[value] == len(expected)
        for number in {*range(0, len(expected), 997), *range(min(len(expected), 300)), len(expected) - 1}:
            assert np.ravel_multi_index(found.voxel(value, number), label.shape) == expected[number]
    assert set(found.counts) == {value for count, value in runs if value and count}


def test_a_lung_takes_a_fraction_of_its_voxels_flat_indices(tmp_path):
    z, y, x = np.ogrid[:64, :128, :128]
    label = (((z - 32) / 30) ** 2 + ((y - 64) / 50) ** 2 + ((x - 64) / 40) ** 2 < 1).astype(np.uint8)
    write_locations(tmp_path / "v", label, "x" * 64)
    assert (tmp_path / "v").stat().st_size < 4 * label.sum() / 20


def test_draws_are_uniform_over_all_voxels_and_regions_are_unions(store):
    label = np.zeros((1, 1, 40), np.uint8)
    label[..., :30], label[..., 30:36] = 1, 2
    _save(store, "a", label)
    index = ForegroundIndex(store, ["a"], 3)
    rng = np.random.default_rng(0)
    drawn = Counter(index.draw_of("a", 1, rng) for _ in range(3000))
    assert len(drawn) == 30
    assert max(drawn.values()) < 160
    classes = Counter(int(label[index.draw("a", rng)]) for _ in range(1000))
    assert abs(classes[1] - 500) < 80
    assert {int(label[index.draw("a", rng, {1: 0.0})]) for _ in range(50)} == {2}
    assert index.draw("a", rng, {1: 0.0, 2: 0.0}) is None
    regions = ForegroundIndex(store, ["a"], 3, regions=[(1, 2), (2,)])
    assert (regions.count("a", 1), regions.count("a", 2)) == (36, 6)
    assert len({regions.draw_of("a", 1, rng) for _ in range(2000)}) == 36
    assert {int(label[regions.draw_of("a", 2, rng)]) for _ in range(50)} == {2}
    assert regions.draw_labelled("a", rng) is None


def test_of_a_case_annotated_in_part_the_background_can_be_found_and_the_rest_cannot(store):
    label = _label(1, (0, 1, 2))
    label[1::3] = IGNORED
    label[2::3] = IGNORED
    _save(store, "part", label)
    _save(store, "nothing", np.full((2, 3, 4), IGNORED, np.uint8))
    index = ForegroundIndex(store, ["part", "nothing"], 3)
    assert index.found["part"].ignored == int((label == IGNORED).sum())
    rng = np.random.default_rng(0)
    assert {index.draw_labelled("part", rng) for _ in range(6000)} == set(
        map(tuple, np.argwhere(label != 255).tolist())
    )
    assert index.present("part") == [1, 2]
    assert index.present("nothing") == []
    assert index.draw_labelled("nothing", rng) is None
    assert index.draw("nothing", rng) is None


def test_a_missing_a_cut_and_a_stale_file_are_made_again_and_a_damaged_one_by_verify(store):
    label = _label()
    _save(store, "a", label)
    path = store.folder / "a_seg.voxels"
    whole = path.read_bytes()
    for broken in (None, whole[:-4], whole[:100], b"", b"x" * len(whole)):
        path.unlink()
        if broken is not None:
            path.write_bytes(broken)
        assert store.locations("a").counts == {1: int((label == 1).sum()), 3: int((label == 3).sum())}
        assert path.read_bytes() == whole
    path.write_bytes(whole[:-4] + b"\xff\xff\xff\xff")
    store.verify("a")
    assert path.read_bytes() == whole
    stale = whole
    other = _label(5)
    _save(store, "a", other)
    path.write_bytes(stale)
    assert store.locations("a").counts[3] == int((other == 3).sum())


def test_a_case_without_label_or_never_prepared_is_named(store):
    with pytest.raises(StoreError, match="'b' is not prepared"):
        store.locations("b")
    record = _save(store, "a", _label())
    bare = record.model_copy(update={"case": "bare"})
    store.save(PreparedCase(np.zeros((1, 2, 2, 2), np.int16), None, bare))
    with pytest.raises(StoreError, match="'bare' was prepared without a label"):
        store.locations("bare")


def test_an_index_holds_counts_only_and_is_sent_to_workers_in_few_bytes(store):
    """A case of 3 million labelled voxels: neither opening, drawing nor pickling grows with them."""
    label = np.ones((48, 256, 256), np.uint8)
    _save(store, "large", label)
    tracemalloc.start()
    index = ForegroundIndex(_Blind(store.folder, 3), ["large"], 2)
    for seed in range(20):
        assert label[index.draw("large", np.random.default_rng(seed))] == 1
    sent = pickle.dumps(index)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 300_000
    assert len(sent) < 2_000
    assert pickle.loads(sent).draw("large", np.random.default_rng(0)) == index.draw("large", np.random.default_rng(0))
