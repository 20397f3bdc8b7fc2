"""A model that nnU-Net 2.8.1 itself trained, imported: the logits and masks that nnU-Net itself computed.

nnunet_model.zip and nnunet_model.npz were made by `python -m benchmarks.nnunet_parity OUT --nnunet PYTHON --golden`,
with the accumulators of the program in float32.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from siccs_net.geometry import Orientation
from siccs_net.inference.load_model import load_model
from siccs_net.inference.predictor import Model
from siccs_net.io.image import Image
from siccs_net.pipeline.share_model import import_model
from siccs_net.preprocessing.nnunet_steps import from_order
from siccs_net.preprocessing.preprocess import preprocess_case
from siccs_net.preprocessing.resample import resample_image
from siccs_net.testing.tiny import make_tiny_case

HERE = Path(__file__).parent
SCANS = {
    20: [[-4.0, 0, 0, 0], [0, -4.0, 0, 0], [0, 0, 5.0, 0], [0, 0, 0, 1]],
    21: [[0, 0, 11.0, 3], [2.0, 0, 0, 4], [0, -3.0, 0, 5], [0, 0, 0, 1]],
}


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Iterator[Model]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    (folder,) = import_model(HERE / "nnunet_model.zip", tmp_path_factory.mktemp("m") / "model")
    yield load_model(folder, device="cpu", precision="float32")  # nnU-Net's, also where bfloat16 is fast
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def theirs() -> dict[str, np.ndarray]:
    with np.load(HERE / "nnunet_model.npz") as file:
        return dict(file)


def _scan(seed: int) -> Image:
    """The array of a tiny case as a file would store it, with an affine of its own."""
    stored, _ = make_tiny_case(seed)
    z, y, x = stored.shape
    orientation = Orientation.of((x, y, z), np.array(SCANS[seed]))
    return Image(from_order(stored, orientation, "file")[None], orientation)


def test_fold_all_is_full(model):
    assert model.folds == ("full",)
    assert model.configuration.inference.mirror_axes == (0, 1, 2)


@pytest.mark.parametrize("seed", SCANS)
def test_masks_are_nnunets(model, theirs, seed):
    found = model.predict(_scan(seed))
    mine = found.orientation.to_native(found.array[0]).transpose(2, 1, 0)
    expected = theirs[f"mask{seed}"]
    foreground = (mine > 0) | (expected > 0)
    assert len(np.unique(expected)) >= 3
    assert foreground.mean() > 0.05
    assert np.mean((mine == expected)[foreground]) >= 0.9999


@pytest.mark.parametrize("seed", SCANS)
def test_logits_are_nnunets(model, theirs, seed):
    """On the scan's own grid, in stored order, every third voxel of each axis."""
    image = _scan(seed)
    prepared = preprocess_case(image, None, model.configuration, model.labels, case="a")
    logits = np.concatenate([slab for _, slab in model.logits(prepared)], axis=1)
    geometry = prepared.record.geometry
    assert geometry.crop_box == tuple((0, size) for size in geometry.oriented_shape)
    native = resample_image(logits, geometry.oriented_shape, order=1, separate_axis=geometry.export_separate_axis)
    expected = theirs[f"logits{seed}"]
    assert (geometry.export_separate_axis is None) == (seed == 20)
    np.testing.assert_allclose(native[:, ::3, ::3, ::3], expected, atol=1e-3 * np.abs(expected).max())
