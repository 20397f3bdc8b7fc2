"""The rolling slab against a dense accumulation with explicit weights and counts."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from siccs_net.inference.sliding_window import count_tiles, gaussian_weights, plan_tiles, sliding_window, tile_starts


def _position_dependent(channels_out):
    """A 'network' whose output depends on the position within the tile, so that the weights matter."""

    def forward(tiles, padding):
        padded = np.pad(tiles.astype(np.float32), [(0, 0), (0, 0), *padding])
        ramp = np.linspace(0, 1, padded.shape[-1], dtype=np.float32)
        out = np.concatenate([padded[:, :1] * (1 + k) + ramp * k for k in range(channels_out)], axis=1)
        return torch.from_numpy(out)

    return forward


def _dense(image, patch, overlap, sigma, forward, classes):
    """Sum of weighted tiles divided by the sum of weights, on an array padded to hold every tile."""
    shape = image.shape[1:]
    starts = [tile_starts(n, p, overlap) for n, p in zip(shape, patch, strict=True)]
    pads = [max(-s[0], 0) for s in starts]
    big = [max(n + 2 * p, p + q) for n, p, q in zip(shape, pads, patch, strict=True)]
    total, count = np.zeros((classes, *big)), np.zeros(big)
    padded = np.zeros((image.shape[0], *big))
    padded[(slice(None), *(slice(p, p + n) for p, n in zip(pads, shape, strict=True)))] = image
    weights = [gaussian_weights(p, sigma).astype(float) for p in patch]
    weight = weights[0][:, None, None] * weights[1][:, None] * weights[2]
    for place in itertools.product(*starts):
        box = tuple(slice(s + p, s + p + q) for s, p, q in zip(place, pads, patch, strict=True))
        logits = forward(padded[(slice(None), *box)][None], [(0, 0)] * 3)[0].numpy()
        total[(slice(None), *box)] += logits * weight
        count[box] += weight
    inside = tuple(slice(p, p + n) for p, n in zip(pads, shape, strict=True))
    return total[(slice(None), *inside)] / count[inside]


@given(
    st.tuples(*[st.integers(3, 17)] * 3),
    st.tuples(*[st.integers(2, 8)] * 3),
    st.sampled_from([0.0, 0.25, 0.5, 0.75]),
    st.integers(1, 3),
)
def test_equals_dense_accumulation(shape, patch, overlap, batch):
    image = np.random.default_rng(0).normal(size=(1, *shape)).astype(np.float32)
    forward = _position_dependent(3)
    axes = plan_tiles(shape, patch, overlap, 0.125)
    done = []
    slabs = list(
        sliding_window(
            image, axes, forward, 3, flat=False, device=torch.device("cpu"), tile_batch=batch, on_tiles=done.append
        )
    )
    assert [start for start, _ in slabs] == [0, *np.cumsum([part.shape[1] for _, part in slabs])[:-1]]
    result = np.concatenate([part for _, part in slabs], axis=1)
    assert result.shape == (3, *shape)
    assert np.allclose(result, _dense(image, patch, overlap, 0.125, forward, 3), atol=2e-4)
    assert sum(done) == count_tiles(axes)


@given(st.tuples(st.integers(1, 20), st.integers(3, 12), st.integers(3, 12)), st.integers(1, 4))
def test_flat_patches_take_each_slice_alone(shape, batch):
    image = np.random.default_rng(1).normal(size=(1, *shape)).astype(np.float32)
    axes = plan_tiles(shape, (4, 5), 0.5, 0.125)
    forward = _position_dependent(2)
    slabs = sliding_window(image, axes, forward, 2, flat=True, device=torch.device("cpu"), tile_batch=batch)
    result = np.concatenate([part for _, part in slabs], axis=1)
    for z in range(shape[0]):
        single = plan_tiles((1, *shape[1:]), (4, 5), 0.5, 0.125)
        (_, one), *_ = list(
            sliding_window(image[:, z : z + 1], single, forward, 2, flat=True, device=torch.device("cpu"))
        )
        assert np.allclose(result[:, z], one[:, 0], atol=1e-5)


@given(st.integers(1, 300), st.integers(1, 96), st.floats(0, 0.9))
def test_tiles_cover_everything_and_overlap_enough(size, patch, overlap):
    starts = tile_starts(size, patch, overlap)
    if size <= patch:
        assert len(starts) == 1
        assert starts[0] <= 0
        assert starts[0] + patch >= size
        return
    assert (starts[0], starts[-1]) == (0, size - patch)
    gaps = np.diff(starts)
    assert gaps.min() >= 0
    assert gaps.max() <= patch * (1 - overlap) + 1


def test_the_published_tile_count():
    """performance.md: 140 tiles of 96x96x96 on a 230x257x360 volume at half overlap (4 * 5 * 7)."""
    assert count_tiles(plan_tiles((230, 257, 360), (96, 96, 96), 0.5, 0.125)) == 4 * 5 * 7


def test_weights_are_a_gaussian_of_an_eighth():
    scipy_ndimage = pytest.importorskip("scipy.ndimage")
    impulse = np.zeros(65)
    impulse[32] = 1
    expected = scipy_ndimage.gaussian_filter1d(impulse, 65 / 8, truncate=8)
    assert np.allclose(gaussian_weights(65, 0.125), np.maximum(expected / expected.max(), 1e-4), atol=1e-3)
