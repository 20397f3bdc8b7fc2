"""From canonical axes and millimetres to the axes of a configuration's patches."""

from __future__ import annotations

from collections.abc import Sequence

from siccs_net.records.plan import Configuration


def patch_axes(canonical_axes: Sequence[int], configuration: Configuration) -> tuple[int, ...]:
    """Return the patch axes along which canonical axes (z 0, y 1, x 2) lie; those outside a 2-D patch drop out."""
    order = configuration.orient.transpose
    leading = 3 - configuration.dimension
    return tuple(order.index(axis) - leading for axis in canonical_axes if order.index(axis) >= leading)


def patch_spacing(configuration: Configuration) -> tuple[float, ...]:
    """Return the spacing of the patch axes in mm (an axis that keeps each scan's own counts as 1 mm)."""
    return tuple(
        1.0 if spacing is None else spacing for spacing in configuration.spacing_mm[-configuration.dimension :]
    )
