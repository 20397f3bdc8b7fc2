"""The body's box on drawn bodies with known boxes, and on real CT with known labels."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from siccs_net.errors import DataError
from siccs_net.preprocessing.crop import body_box, crop, uncrop

SPACING = (2.0, 1.0, 1.0)


def drawn_body(*, table: bool) -> NDArray[np.int16]:
    """Air with an elliptic body at z 10..49, y 60..139, x 50..169, two lungs in it, and a table below it."""
    z, y, x = np.ogrid[:60, :200, :220]
    body = (((y - 99.5) / 40) ** 2 + ((x - 109.5) / 60) ** 2 <= 1) & (z >= 10) & (z < 50)
    lungs = (((y - 99.5) / 25) ** 2 + ((np.abs(x - 109.5) - 30) / 20) ** 2 <= 1) & (z >= 12) & (z < 48)
    image = np.full(body.shape, -1000, dtype=np.int16)
    image[body] = 40
    image[lungs] = -850
    if table:
        image[:, 150:154, 20:200] = -100
    return image


@pytest.mark.parametrize("margin_mm", [0.0, 10.0, 12.5])
def test_the_box_is_the_bodys_with_its_margin(margin_mm: float) -> None:
    box = body_box(drawn_body(table=True), SPACING, margin_mm=margin_mm)
    for (start, end), (first, last), spacing in zip(box, ((10, 50), (60, 140), (50, 170)), SPACING, strict=True):
        margin = margin_mm / spacing
        assert max(0, first - margin - 4) <= start <= max(0, first - margin)
        assert last + margin <= end <= last + margin + 4


def test_a_table_that_the_body_does_not_touch_is_left_out() -> None:
    assert body_box(drawn_body(table=True), SPACING) == body_box(drawn_body(table=False), SPACING)


def test_the_margin_ends_at_the_image() -> None:
    box = body_box(drawn_body(table=False), SPACING, margin_mm=1000)
    assert box == ((0, 60), (0, 200), (0, 220))


def test_an_empty_image_is_not_cropped_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        box = body_box(np.full((4, 5, 6), -1000, np.int16), (1.0, 1.0, 1.0))
    assert box == ((0, 4), (0, 5), (0, 6))
    assert "-500 HU" in caplog.text


def test_a_narrow_crop_of_tissue_is_kept_whole() -> None:
    inside = drawn_body(table=False)[20:30, 80:120, 90:130]
    assert body_box(inside, SPACING) == ((0, 10), (0, 40), (0, 40))


def test_a_slice_whose_wall_is_in_pieces_keeps_them_all() -> None:
    """Cropped to the lungs, a slice shows the chest wall as pieces with air between them."""
    image = np.full((1, 200, 300), -900, np.int16)
    image[:, :, 100:180] = 30
    image[:, 150:, :40] = 30
    image[:, :60, 260:] = 30
    assert body_box(image, (1.0, 1.0, 1.0)) == ((0, 1), (0, 200), (0, 300))


@given(
    st.tuples(*[st.integers(1, 30)] * 3),
    st.tuples(*[st.floats(0.3, 6)] * 3),
    st.floats(0, 20),
    st.integers(0, 2**32 - 1),
)
def test_any_single_block_lies_inside_its_box(shape: Any, spacing: Any, margin: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    image = np.full(shape, -1000, np.int16)
    block = tuple(slice(int(low), int(low) + max(size // 2, 1)) for size in shape for low in [rng.integers(0, size)])
    image[block] = 0
    box = body_box(image, spacing, margin_mm=margin)
    for (start, end), part, size, thickness in zip(box, block, shape, spacing, strict=True):
        assert 0 <= start <= max(0, part.start - int(margin / thickness))
        assert min(size, part.stop + int(margin / thickness)) <= end <= size


def test_uncrop_undoes_crop() -> None:
    channels = np.arange(2 * 6 * 7 * 8, dtype=np.int16).reshape(2, 6, 7, 8)
    box = ((1, 4), (0, 7), (3, 5))
    for array in (channels, channels[0]):
        inside = crop(array, box)
        assert inside.shape[-3:] == (3, 7, 2)
        assert inside.base is not None
        whole = uncrop(inside, box, (6, 7, 8), -1)
        np.testing.assert_array_equal(crop(whole, box), inside)
        assert whole.dtype == array.dtype
        assert np.count_nonzero(whole == -1) == array.size - inside.size
    with pytest.raises(DataError, match="size of its box"):
        uncrop(channels[:, :2], box, (6, 7, 8), 0)


def test_only_volumes_with_spacings_are_taken() -> None:
    with pytest.raises(DataError, match="three positive spacings"):
        body_box(np.zeros((3, 3)), (1.0, 1.0, 1.0))
    with pytest.raises(DataError, match="three positive spacings"):
        body_box(np.zeros((3, 3, 3)), (1.0, 0.0, 1.0))


def read(path: Path) -> tuple[NDArray[Any], tuple[float, ...]]:
    image = nib.load(path)
    return np.asanyarray(image.dataobj).T, tuple(float(zoom) for zoom in image.header.get_zooms()[::-1])


def labelled_outside(image: Path, label: Path) -> int:
    array, spacing = read(image)
    labelled = read(label)[0] > 0
    assert labelled.any()
    return int(labelled.sum() - crop(labelled, body_box(array, spacing)).sum())


@pytest.mark.parametrize(
    "name", ["cip_ct64_0000 cip_ct64_label_lung", "ibsi_lung_phantom_0000 ibsi_lung_phantom_label_gtv"]
)
def test_labels_of_real_scans_lie_inside(shared_data: Path, name: str) -> None:
    image, label = (shared_data / "ct3d" / f"{part}.nii.gz" for part in name.split())
    assert labelled_outside(image, label) == 0


def test_labels_of_all_78_real_slices_lie_inside(shared_data: Path) -> None:
    folder = shared_data / "Dataset501_CovidSlices2D"
    images = sorted((folder / "imagesTr").glob("*.nii.gz"))
    outside = {
        image.name: labelled_outside(image, folder / "labelsTr" / image.name.replace("_0000", "")) for image in images
    }
    assert len(outside) == 78
    assert {name: count for name, count in outside.items() if count} == {}


def test_air_above_a_real_body_is_cropped(shared_data: Path) -> None:
    array, spacing = read(shared_data / "ct3d" / "ricord1a_001012_2mm_0000.nii.gz")
    (z0, z1), (y0, y1), (x0, x1) = body_box(array, spacing)
    assert (z0, z1, y1, x0, x1) == (0, 115, 129, 0, 180)
    assert y0 > 0
    assert (array[:, :y0] > -500).mean() < 0.01
