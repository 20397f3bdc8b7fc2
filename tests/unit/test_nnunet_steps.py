"""The steps of imported plans against nnU-Net's definitions, written out with numpy, scipy and scikit-image."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from nnunet_files import DESCRIPTION, plans_of, spec_of
from scipy.ndimage import binary_fill_holes, gaussian_filter, map_coordinates
from skimage.transform import resize

from siccs_net.errors import DataError
from siccs_net.geometry import Orientation
from siccs_net.inference.sliding_window import gaussian_weights
from siccs_net.interop.nnunet_plan import translate
from siccs_net.io.image import Image
from siccs_net.preprocessing.nnunet_steps import from_order, nonzero_box, normalise, ordered_spacing, to_order
from siccs_net.preprocessing.preprocess import preprocess_case, restore_to_native
from siccs_net.records.dataset import DatasetDescription
from siccs_net.records.plan import ChannelIntensities, Normalise

LABELS = DatasetDescription.model_validate(DESCRIPTION)


def _orientations():
    for axes in itertools.permutations(range(3)):
        for signs in itertools.product((1, -1), repeat=3):
            affine = np.zeros((4, 4))
            affine[3, 3] = 1
            for axis, (ras, sign, size) in enumerate(zip(axes, signs, (0.7, 1.1, 3.0), strict=True)):
                affine[ras, axis] = sign * size
            yield Orientation.of((4, 5, 6), affine)


def test_stored_order_of_all_48_orientations():
    native = np.random.default_rng(0).standard_normal((4, 5, 6))
    orientations = list(_orientations())
    assert len(orientations) == 48
    for orientation in orientations:
        canonical = orientation.to_canonical(native)
        stored = to_order(canonical, orientation, "file")
        assert np.array_equal(stored, native.transpose(2, 1, 0))  # what SimpleITK's GetArrayFromImage gives
        assert ordered_spacing(orientation, "file") == pytest.approx((3.0, 1.1, 0.7))
        assert np.array_equal(to_order(canonical[None], orientation, "file")[0], stored)
        turned = to_order(canonical, orientation, "RAS+")
        assert np.array_equal(turned, canonical[:, ::-1, ::-1])
        for order, array in (("file", stored), ("RAS+", turned), ("canonical", canonical)):
            assert np.array_equal(from_order(array, orientation, order), canonical)
            assert np.array_equal(from_order(array[None], orientation, order)[0], canonical)


def test_nonzero_box_is_that_of_the_filled_mask():
    rng = np.random.default_rng(0)
    for _ in range(20):
        image = rng.standard_normal((2, 9, 10, 11)) * (rng.random((2, 9, 10, 11)) < 0.004)
        mask = binary_fill_holes((image != 0).any(axis=0))
        places = np.argwhere(mask)
        expected = [(0, size) for size in mask.shape]
        if len(places):
            expected = [(int(a), int(b) + 1) for a, b in zip(places.min(0), places.max(0), strict=True)]
        assert list(nonzero_box(image)) == expected


def test_normalisation_schemes():
    rng = np.random.default_rng(0)
    image = (rng.standard_normal((5, 6, 7, 8)) * 300).astype(np.float32)
    image[:, :, :2] = 0
    image[4] = np.abs(image[4]) % 255
    image[:, 2, 4, 4] = 0  # a hole, which is filled
    ct = ChannelIntensities(scheme="ct", lower=-100.0, upper=200.0, mean=10.0, std=50.0)
    schemes = [ct, *(ChannelIntensities(scheme=name) for name in ("zscore", "none", "rescale_to_0_1", "rgb_to_0_1"))]
    found = normalise(image, Normalise(channels=tuple(schemes)))
    expected = [
        (np.clip(image[0], -100, 200) - 10) / 50,
        (image[1] - image[1].mean()) / image[1].std(),
        image[2],
        (image[3] - image[3].min()) / (image[3] - image[3].min()).max(),
        image[4] / 255,
    ]
    np.testing.assert_allclose(found, np.stack(expected), rtol=1e-5, atol=1e-5)
    masked = normalise(image, Normalise(channels=(ChannelIntensities(scheme="zscore", nonzero_only=True),) * 5))
    mask = binary_fill_holes((image != 0).any(axis=0))
    assert mask[2, 4, 4]
    inside = image[1][mask]
    np.testing.assert_allclose(masked[1][mask], (inside - inside.mean()) / inside.std(), rtol=1e-5, atol=1e-5)
    assert not masked[1][~mask].any()
    constant = normalise(np.full((1, 2, 2, 2), 7.0), Normalise(channels=(ChannelIntensities(scheme="zscore"),)))
    assert not constant.any()
    with pytest.raises(DataError, match="8 bits"):
        normalise(image[:1], Normalise(channels=(ChannelIntensities(scheme="rgb_to_0_1"),)))
    with pytest.raises(DataError, match="channels"):
        normalise(image, Normalise(channels=(ct,)))


@pytest.mark.parametrize("size", [7, 8, 20, 33, 64])
def test_gaussian_is_nnunets(size):
    impulse = np.zeros((size, size))
    impulse[size // 2, size // 2] = 1
    expected = gaussian_filter(impulse, size / 8, mode="constant")
    weights = gaussian_weights(size, 0.125, on_voxel=True).astype(np.float64)
    np.testing.assert_allclose(np.outer(weights, weights), expected / expected.max(), atol=1e-6)


def _separate(volume, shape, order):
    """nnU-Net's resampling of thick slices along axis 0: each in its plane, then the nearest one."""
    planes = np.stack([resize(p, shape[1:], order, mode="edge", anti_aliasing=False) for p in volume.astype(float)])
    rows = (np.arange(shape[0]) + 0.5) * len(volume) / shape[0] - 0.5
    grid = np.meshgrid(rows, np.arange(shape[1]), np.arange(shape[2]), indexing="ij")
    return map_coordinates(planes, grid, order=0, mode="nearest")


@pytest.mark.parametrize("thick", [False, True])
def test_whole_preprocessing_and_the_way_back(thick, tmp_path):
    """A transposed plan on a scan with an empty border, in a stored order of its own."""
    own = (12.0, 2.0, 3.0) if thick else (4.0, 2.0, 3.0)  # stored z, y, x
    rng = np.random.default_rng(0)
    stored = np.zeros((9, 20, 16), dtype=np.int16)
    stored[:, 3:18, 2:15] = rng.integers(-1000, 300, (9, 15, 13))
    affine = np.array([[0, 0, own[0], 5], [own[2], 0, 0, 6], [0, -own[1], 0, 7], [0, 0, 0, 1]], dtype=float)
    orientation = Orientation.of((16, 20, 9), affine)
    image = Image(orientation.to_canonical(stored.transpose(2, 1, 0))[None], orientation)
    plans = plans_of(spec_of("plain_unet", 3), "3d_fullres", spacing=[5.0, 3.0, 2.5])
    configuration = translate(plans, "3d_fullres", LABELS, (0, 1, 2), path=tmp_path)
    prepared = preprocess_case(image, None, configuration, LABELS.label_scheme, case="a")
    box = stored[:, 3:18, 2:15].astype(np.float32)
    normal = (np.clip(box, -1000, 100) + 600) / 250
    shape = tuple(int(round(a / b * n)) for a, b, n in zip(own, (5.0, 3.0, 2.5), box.shape, strict=True))
    expected = _separate(normal, shape, 3) if thick else resize(normal, shape, 3, mode="edge", anti_aliasing=False)
    assert prepared.image.shape[1:] == shape
    np.testing.assert_allclose(prepared.image[0], expected, atol=2e-5)
    logits = rng.standard_normal((3, *shape)).astype(np.float32)
    back = restore_to_native(iter([(0, logits)]), prepared.record.geometry, LABELS.label_scheme, orientation)
    resized = [
        _separate(one, box.shape, 1)
        if thick
        else resize(one.astype(float), box.shape, 1, mode="edge", anti_aliasing=False)
        for one in logits
    ]
    wanted = np.zeros_like(stored)
    wanted[:, 3:18, 2:15] = np.argmax(resized, axis=0)
    found = orientation.to_native(back).transpose(2, 1, 0)
    assert np.mean(found == wanted) > 0.9999


def test_transposed_plan_goes_there_and_back(tmp_path):
    rng = np.random.default_rng(1)
    stored = rng.integers(1, 300, (16, 20, 9)).astype(np.int16)
    orientation = Orientation.of((9, 20, 16), np.diag([-5.0, 1.0, 1.0, 1.0]))
    image = Image(orientation.to_canonical(stored.transpose(2, 1, 0))[None], orientation)
    plans = plans_of(spec_of("plain_unet", 3), "3d_fullres", spacing=[5.0, 1.0, 1.0])
    plans["transpose_forward"] = [2, 0, 1]
    configuration = translate(plans, "3d_fullres", LABELS, None, path=tmp_path)
    prepared = preprocess_case(image, None, configuration, LABELS.label_scheme, case="a")
    turned = stored.transpose(2, 0, 1)
    np.testing.assert_allclose(prepared.image[0], (np.clip(turned, -1000, 100) + 600) / 250, rtol=1e-6)
    classes = turned % 3
    logits = np.stack([(classes == number) for number in range(3)]).astype(np.float32)
    back = restore_to_native(iter([(0, logits)]), prepared.record.geometry, LABELS.label_scheme, orientation)
    assert np.array_equal(orientation.to_native(back).transpose(2, 1, 0), stored % 3)


def test_mirror_axes_are_named_only_where_the_orientation_is_known(tmp_path):
    configuration = translate(plans_of(spec_of("plain_unet", 2), "2d"), "2d", LABELS, (0, 1), path=tmp_path)
    body = configuration.model_dump()
    assert configuration.patch_axes(configuration.inference.mirror_axes) == (0, 1)
    for axes, words in ((("L-R",), "numbers"), ((0, 2), "2 dimensions")):
        with pytest.raises(ValueError, match=words):
            configuration.model_validate({**body, "inference": {**body["inference"], "mirror_axes": axes}})
    body["steps"] = ({"step": "orient", "transpose": (0, 1, 2)},)
    with pytest.raises(ValueError, match="anatomical names"):
        configuration.model_validate({**body, "inference": {**body["inference"], "mirror_axes": (0,)}})
