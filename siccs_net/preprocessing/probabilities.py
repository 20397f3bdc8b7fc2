"""Class probabilities on a scan's own grid, as whole numbers of levels: beside `restore_to_native`, its other end."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from siccs_net.geometry import Orientation
from siccs_net.preprocessing.crop import crop
from siccs_net.preprocessing.export import Slab, probabilities_to_shape
from siccs_net.preprocessing.nnunet_steps import from_order
from siccs_net.records.case import CaseGeometry
from siccs_net.records.dataset import LabelScheme

LEVELS = 255
"""A stored probability is a whole number of 255ths: right within 0.002, a quarter of float32's room before packing."""


def native_levels(
    slabs: Iterable[Slab], geometry: CaseGeometry, labels: LabelScheme, orientation: Orientation
) -> NDArray[np.uint8]:
    """Return the probabilities of a prepared case on the scan's canonical grid, times 255, rounded.

    Takes the logits of `restore_to_native`, interpolated as they are there. The axes are [class, z, y, x] and the
    values the softmax; outside the crop the background has probability 1. With regions they are [region, z, y, x] and
    each one's sigmoid, 0 outside the crop.
    """
    regions = bool(labels.regions)
    whole = np.zeros((labels.outputs, *geometry.oriented_shape), dtype=np.uint8)
    if not regions:
        whole[0] = LEVELS
    cropped = crop(whole, geometry.crop_box)
    target = cropped.shape[1:]
    for start, planes in probabilities_to_shape(
        slabs,
        geometry.prepared_shape,
        labels.outputs,
        target,
        regions=regions,
        separate_axis=geometry.export_separate_axis,
    ):
        cropped[:, start : start + planes.shape[1]] = np.rint(planes * np.float32(LEVELS))
    back = np.argsort(geometry.transpose)
    ordered = whole.transpose(0, *(int(axis) + 1 for axis in back))
    return from_order(ordered, orientation, geometry.order)


def most_probable(planes: NDArray[Any], labels: LabelScheme) -> NDArray[Any]:
    """Return the label values that probabilities [class or region, ...] in 0..1 decide for.

    That is the class with the largest one, the lowest of equals; with regions the value of the last one above a half,
    as regions are painted in their order, or 0.
    """
    kind = np.uint8 if max(labels.class_values) < 256 else np.uint16
    values: NDArray[Any] = np.asarray(labels.class_values, dtype=kind)
    if not labels.regions:
        found: NDArray[Any] = values[planes.argmax(axis=0)]
        return found
    painted = np.zeros(planes.shape[1:], dtype=kind)
    for value, probability in zip(values[1:], planes, strict=True):
        painted[probability > 0.5] = value
    return painted
