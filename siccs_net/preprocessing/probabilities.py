"""Class probabilities on a scan's own grid, as whole numbers of levels: beside `restore_to_native`, its other end."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from siccs_net.errors import UnavailableError
from siccs_net.preprocessing.crop import crop
from siccs_net.preprocessing.export import Slab, probabilities_to_shape
from siccs_net.records.case import CaseGeometry
from siccs_net.records.dataset import LabelScheme

LEVELS = 255
"""A stored probability is a whole number of 255ths: right within 0.002, a quarter of float32's room before packing."""


def native_levels(slabs: Iterable[Slab], geometry: CaseGeometry, labels: LabelScheme) -> NDArray[np.uint8]:
    """Return the probabilities [class, z, y, x] of a prepared case on the scan's canonical grid, times 255, rounded.

    Takes the logits of `restore_to_native`, interpolated as they are there, then softmax. Outside the crop the
    background has probability 1. Raises UnavailableError for region labels, whose outputs are no softmax.
    """
    if labels.regions:
        raise UnavailableError(
            "probabilities of region labels are not saved by this version", found=f"regions {', '.join(labels.regions)}"
        )
    classes = len(labels.class_values)
    whole = np.zeros((classes, *geometry.oriented_shape), dtype=np.uint8)
    whole[0] = LEVELS
    cropped = crop(whole, geometry.crop_box)
    for start, planes in probabilities_to_shape(slabs, geometry.prepared_shape, classes, cropped.shape[1:]):
        cropped[:, start : start + planes.shape[1]] = np.rint(planes * np.float32(LEVELS))
    back = np.argsort(geometry.transpose)
    return whole.transpose(0, *(int(axis) + 1 for axis in back))


def most_probable(planes: NDArray[Any], class_values: Sequence[int]) -> NDArray[Any]:
    """Return the label value with the largest probability of planes [class, ...]; the lowest class wins a tie."""
    kind = np.uint8 if max(class_values) < 256 else np.uint16
    values: NDArray[Any] = np.asarray(class_values, dtype=kind)[planes.argmax(axis=0)]
    return values
