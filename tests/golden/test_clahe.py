"""CLAHE against scikit-image: equal voxel for voxel, for any shape and setting and on real CT."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from skimage.exposure import equalize_adapthist

from siccs_net.errors import DataError, UsageError
from siccs_net.preprocessing import preprocess, steps
from siccs_net.preprocessing.clahe import clahe
from siccs_net.preprocessing.resample import resample_image
from siccs_net.records.plan import Clahe

# Without the decorator that takes a last axis of 3 or 4 voxels for colours.
scikit_image = equalize_adapthist.__wrapped__
SHAPES = st.one_of(
    st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9)),
    st.tuples(st.integers(1, 12), st.integers(1, 40), st.integers(1, 40)),
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
)
KINDS = ("noise", "smooth", "two values", "coarse", "narrow", "constant", "one voxel")


def draw(kind: str, shape: tuple[int, ...], seed: int) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    noise = rng.random(shape)
    places = np.indices(shape).sum(axis=0)
    single = np.zeros(shape)
    single.flat[rng.integers(single.size)] = rng.random()
    images = {
        "noise": noise,
        "smooth": np.clip(0.5 + 0.5 * np.sin(0.3 * places) + 0.05 * noise, 0, 1),
        "two values": np.where(noise > 0.7, 0.9, 0.2),
        "coarse": np.rint(noise * 5) / 5,
        "narrow": 0.4 + 0.001 * noise,
        "constant": np.full(shape, rng.choice([0, 1e-5, 0.1, 0.3, 1])),
        "one voxel": single,
    }
    return images[kind].astype(np.float32)


def peer(image: NDArray[np.float32], divisor: int, clip_limit: float, bins: int) -> NDArray[np.uint16]:
    kernel = [max(size // divisor, 1) for size in image.shape]
    equalised = scikit_image(image, kernel_size=kernel, clip_limit=clip_limit, nbins=bins)
    return np.rint(equalised * np.float32(65535)).astype(np.uint16)


def compare(image: NDArray[np.float32], divisor: int = 8, clip_limit: float = 0.01, bins: int = 256) -> None:
    """Fail with the number of voxels that differ and by how much, in steps of 1/65535."""
    before = image.copy()
    ours = clahe(image, kernel_divisor=divisor, clip_limit=clip_limit, bins=bins)
    difference = ours.astype(np.int32) - peer(image, divisor, clip_limit, bins)
    assert ours.dtype == np.uint16
    assert (np.count_nonzero(difference), np.abs(difference).max()) == (0, 0)
    np.testing.assert_array_equal(image, before)


@settings(max_examples=150)
@given(
    shape=SHAPES,
    kind=st.sampled_from(KINDS),
    divisor=st.integers(1, 12),
    clip_limit=st.sampled_from([0, 1e-4, 0.01, 0.05, 0.4, 0.999, 1, 3]),
    bins=st.sampled_from([1, 2, 7, 100, 256, 300, 1000]),
    seed=st.integers(0, 99),
)
@example(shape=(1, 1, 1), kind="noise", divisor=8, clip_limit=0.01, bins=256, seed=0)
@example(shape=(1, 33, 3), kind="noise", divisor=4, clip_limit=0.01, bins=256, seed=0)
@example(shape=(40, 1, 1), kind="coarse", divisor=3, clip_limit=0.01, bins=256, seed=0)
@example(shape=(9, 20, 20), kind="constant", divisor=8, clip_limit=0.01, bins=256, seed=3)
@example(shape=(6, 30, 30), kind="noise", divisor=1, clip_limit=1e-4, bins=16384, seed=0)
def test_equals_scikit_image_for_any_image_and_setting(
    shape: Any, kind: str, divisor: int, clip_limit: float, bins: int, seed: int
) -> None:
    compare(draw(kind, shape, seed), divisor, clip_limit, bins)


@pytest.mark.parametrize("clip_limit", [0, 0.01, 1])
@pytest.mark.parametrize("shape", [(23, 150, 131), (16, 128, 128), (200, 301)])
def test_equals_scikit_image_where_planes_are_done_in_several_blocks(shape: Any, clip_limit: float) -> None:
    compare(draw("smooth", shape, 1), 8, clip_limit)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("ricord1a_001012_2mm", None),
        ("ricord1a_001012_2mm", (40, 160, 160)),
        ("ibsi_lung_phantom", None),
        ("cip_ct64", None),
        ("totalseg_chest_crop", (33, 126, 120)),
    ],
)
def test_equals_scikit_image_on_real_scans(shared_data: Path, name: str, shape: Any) -> None:
    import nibabel as nib

    scan = np.asanyarray(nib.load(shared_data / "ct3d" / f"{name}_0000.nii.gz").dataobj).T
    volume = scan.astype(np.float32) if shape is None else resample_image(scan, shape, order="area")
    windowed = np.clip((volume + 1024) / 1624, 0, 1).astype(np.float32)
    compare(windowed)
    compare(windowed[len(windowed) // 2])


def test_takes_any_layout_in_memory() -> None:
    image = draw("smooth", (30, 20, 10), 2)
    ours = clahe(image.transpose(2, 0, 1), kernel_divisor=8, clip_limit=0.01, bins=256)
    copied = clahe(image.transpose(2, 0, 1).copy(), kernel_divisor=8, clip_limit=0.01, bins=256)
    np.testing.assert_array_equal(ours, copied)


def test_a_volume_of_three_columns_is_no_colour_image() -> None:
    image = draw("noise", (12, 20, 3), 0)
    turned = clahe(image.transpose(2, 1, 0), kernel_divisor=2, clip_limit=0.01, bins=256).transpose(2, 1, 0)
    ours = clahe(image, kernel_divisor=2, clip_limit=0.01, bins=256)
    # One rounding at most, from the order of the axes; scikit-image's colours are far off.
    assert np.abs(ours.astype(int) - turned).max() <= 5
    as_colours = equalize_adapthist(image, kernel_size=[6, 10], clip_limit=0.01)
    assert np.abs(ours / 65535 - as_colours).max() > 0.1


def test_a_constant_image_stays_constant() -> None:
    bright = clahe(np.full((4, 9, 9), 0.5, dtype=np.float32), kernel_divisor=8, clip_limit=0.01, bins=256)
    assert set(bright.flat) == {65535}


def test_holds_less_than_the_image() -> None:
    image = draw("noise", (32, 256, 256), 0)
    tracemalloc.start()
    clahe(image, kernel_divisor=8, clip_limit=0.01, bins=256)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < image.nbytes


@pytest.mark.parametrize(
    "image",
    [
        np.zeros(5, np.float32),
        np.zeros((1, 2, 3, 4), np.float32),
        np.zeros((0, 4, 4), np.float32),
        np.zeros((4, 4)),
        np.full((4, 4), 1.01, np.float32),
        np.full((4, 4), -0.1, np.float32),
        np.array([[0.5, np.nan]], np.float32),
    ],
)
def test_refuses_what_is_not_an_image_in_0_to_1(image: NDArray[Any]) -> None:
    with pytest.raises(DataError, match="CLAHE takes"):
        clahe(image, kernel_divisor=8, clip_limit=0.01, bins=256)


@pytest.mark.parametrize(
    "wrong", [{"kernel_divisor": 0}, {"clip_limit": -0.1}, {"clip_limit": np.nan}, {"bins": 0}, {"bins": 16385}]
)
def test_refuses_settings_out_of_range(wrong: dict[str, Any]) -> None:
    setting = {"kernel_divisor": 8, "clip_limit": 0.01, "bins": 256, **wrong}
    with pytest.raises(UsageError, match="not settings of CLAHE"):
        clahe(np.zeros((4, 4), np.float32), **setting)


def test_the_step_windows_each_channel_and_stores_what_scikit_image_gives() -> None:
    rng = np.random.default_rng(0)
    scan = rng.integers(-1200, 900, (2, 10, 30, 31)).astype(np.int16)
    step = Clahe(window_hu=(-1000.0, 400.0), clip_limit=0.02, bins=128, kernel_divisor=4)
    after = steps.apply_step(step, steps.State(scan, None, (1.0, 1.0, 1.0)))
    stored = preprocess.to_storage(after.image, "uint16")
    windowed = np.clip((scan.astype(np.float32) + 1000) / 1400, 0, 1)
    np.testing.assert_array_equal(stored, [peer(channel, 4, 0.02, 128) for channel in windowed])
