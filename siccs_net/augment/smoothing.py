"""Gaussian smoothing as products with a band: what scipy's `gaussian_filter` gives, in less time."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float32]

_TRUNCATE = 4.0
_ROWS = 16
"""Outputs made by one product: the wider, the more of its matrix is zeros."""

_SINGLE_THREAD_PRODUCT = 4 * 65536
"""OpenBLAS splits larger products over threads, which loader workers have no cores for."""


def smooth(image: Numbers, sigmas: Sequence[float]) -> Numbers:
    """Return an image [c, *spatial] smoothed with one sigma (voxels) an axis; borders reflect, it ends at 4 sigma."""
    result = image
    for axis, sigma in enumerate(sigmas, start=1):
        if int(_TRUNCATE * sigma + 0.5) > 0:
            result = _along(result, axis, sigma)
    return result


def _along(image: Numbers, axis: int, sigma: float) -> Numbers:
    """Smooth along one axis: as [outer, axis, inner], or for the last axis as [outer, rows, axis]."""
    shape, size, reach = image.shape, image.shape[axis], int(_TRUNCATE * sigma + 0.5)
    last = axis == image.ndim - 1
    view = image.reshape(math.prod(shape[: axis - last]), *((-1, size) if last else (size, -1)))
    result = np.empty_like(view)
    others = view.shape[1 if last else 2]
    together = max(1, _SINGLE_THREAD_PRODUCT // (_ROWS * (_ROWS + 2 * reach)))
    for first in range(0, size, _ROWS):
        inputs, band = _band(size, sigma, reach, range(first, min(first + _ROWS, size)))
        outputs = slice(first, first + _ROWS)
        for start in range(0, others, together):
            part = slice(start, start + together)
            if last:
                np.matmul(view[:, part, inputs], band.T, out=result[:, part, outputs])
            else:
                np.matmul(band, view[:, inputs, part], out=result[:, outputs, part])
    return result.reshape(shape)


def _band(size: int, sigma: float, reach: int, outputs: range) -> tuple[slice, Numbers]:
    """Return the voxels of an axis that some voxels depend on, and the weights [outputs, inputs]."""
    offsets = np.arange(-reach, reach + 1)
    weights = np.exp(-0.5 * (offsets / sigma) ** 2)
    source = (np.array(outputs)[:, None] + offsets) % (2 * size)
    source = np.minimum(source, 2 * size - 1 - source)
    inputs = slice(int(source.min()), int(source.max()) + 1)
    band = np.zeros((len(outputs), inputs.stop - inputs.start))
    np.add.at(band, (np.arange(len(outputs))[:, None], source - inputs.start), weights / weights.sum())
    return inputs, band.astype(np.float32)
