"""Volumes of a label map: millilitres of each class, and percent of the lung."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from siccs_net.errors import UnavailableError
from siccs_net.evaluation.overlap import check_label_map, code_table, lookup

LUNG = "lung"
MM3_PER_ML = 1000


def volumes_ml(
    label_map: NDArray[Any], spacing_mm: Sequence[float], classes: Mapping[str, Sequence[int]]
) -> dict[str, float]:
    """Return the volume of each class of a label map [z, y, x] in millilitres.

    A class is a name and its label values. Raises DataError for a map that does not hold whole numbers.
    """
    voxel_ml = math.prod(spacing_mm) / MM3_PER_ML
    return {name: count * voxel_ml for name, count in count_voxels(label_map, classes).items()}


def percent_of_lung(label_map: NDArray[Any], classes: Mapping[str, Sequence[int]]) -> dict[str, float | None]:
    """Return the share of the lung, in percent, of each class that is part of it (the lung itself: 100).

    `classes` must say what lung is; a class with a label value outside of the lung is not listed. None when no voxel
    is lung. Raises UnavailableError without a class "lung", DataError for a map that does not hold whole numbers.
    """
    if LUNG not in classes:
        raise UnavailableError(
            "percent of lung needs to know which labels are lung",
            found=f"classes {', '.join(classes) or 'none'}",
            hint='Add "siccs_groups": {"lung": [...]} with the lung\'s label values to dataset.json',
        )
    parts = {name: values for name, values in classes.items() if set(values) <= set(classes[LUNG])}
    counts = count_voxels(label_map, parts)
    return {name: 100 * count / counts[LUNG] if counts[LUNG] else None for name, count in counts.items()}


def count_voxels(label_map: NDArray[Any], classes: Mapping[str, Sequence[int]]) -> dict[str, int]:
    """Return the number of voxels of each class. Raises DataError for a map that does not hold whole numbers."""
    check_label_map(label_map)
    values = sorted({value for of_class in classes.values() for value in of_class})
    table = code_table({value: number + 1 for number, value in enumerate(values)}, np.int64)
    counts = np.zeros(len(values) + 1, np.int64)
    # Plane by plane, because numpy.bincount needs eight bytes a voxel.
    for plane in label_map:
        counts += np.bincount(lookup(plane, table).ravel(), minlength=len(counts))
    by_value = dict(zip(values, counts[1:].tolist(), strict=True))
    return {name: sum(by_value[value] for value in set(of_class)) for name, of_class in classes.items()}
