"""The bones of a phantom: ribs, spine, sternum, clavicles and shoulder blades.

Bones are drawn straight on the grid of the image, because a cortex of 1 to 2 mm needs its resolution.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from siccs_net.testing.phantom_body import cage_front, spine_centre
from siccs_net.testing.phantom_grid import Array, Frame, blend, coverage
from siccs_net.testing.phantom_tubes import Tubes, join, polyline, tube_coverage

CORTEX_HU, MARROW_HU, CARTILAGE_HU, DISC_HU = 620.0, 160.0, 115.0, 85.0
_RIB_PITCH_MM = 23.0
_RIB_DROP_MM = 96.0
_VERTEBRA_PITCH_MM = 23.0
_DISC_MM = 4.5


def paint_skeleton(hu: Array, frame: Frame, cage: Array, skin: Array) -> None:
    """Paint all bones over hu [z, y, x], given the distances (mm) to the rib cage and to the skin."""
    _paint_ribs(hu, frame, cage)
    _paint_scapulae(hu, frame, cage, skin)
    _paint_sternum(hu, frame)
    _paint_clavicles(hu, frame)
    _paint_spine(hu, frame)


def _paint_ribs(hu: Array, frame: Frame, cage: Array) -> None:
    """Paint ribs as oblique rings in a shell outside of the pleura; in front they go on as cartilage."""
    facing, side = _facing(frame)
    shell = np.flatnonzero((cage > 1.0) & (cage < 14.0))
    z, plane = np.divmod(shell, facing.size)
    turn = np.arccos(np.clip(facing, -1.0, 1.0)).reshape(-1)[plane] / np.pi
    level = frame.z[z] + _RIB_DROP_MM * turn
    phase = level / _RIB_PITCH_MM
    height = (phase - np.rint(phase)) * _RIB_PITCH_MM
    outward = cage.reshape(-1)[shell] - 5.5
    distance = 4.0 * (np.hypot(height / 6.2, outward / 4.0) - 1.0)
    distance = np.maximum(distance, 21.0 - side.reshape(-1)[plane])
    distance = np.where((facing.reshape(-1)[plane] < -0.3) & (frame.z[z] < -95), 9.0, distance)
    bone = coverage(np.asarray(distance, np.float32), frame.edge_mm)
    marrow = coverage(np.asarray(distance + 1.5, np.float32), frame.edge_mm)
    cartilage = facing.reshape(-1)[plane] < -0.72
    values = np.where(cartilage, CARTILAGE_HU, CORTEX_HU + marrow * (MARROW_HU - CORTEX_HU))
    flat = hu.reshape(-1)
    flat[shell] += bone * (values.astype(np.float32) - flat[shell])


def _facing(frame: Frame) -> tuple[Array, Array]:
    """Return, for every (y, x), the cosine of the angle from the back, and the distance from the midline (mm)."""
    y, x = frame.y[:, None] + 4.0, frame.x[None, :]
    across, depth = x / 125.0, y / 88.0
    facing = depth / np.maximum(np.hypot(across, depth), 1e-3)
    return np.asarray(facing, np.float32), np.broadcast_to(np.abs(x), facing.shape).astype(np.float32)


def _paint_scapulae(hu: Array, frame: Frame, cage: Array, skin: Array) -> None:
    facing, _ = _facing(frame)
    z = frame.z[:, None, None]
    angle = np.arccos(np.clip(facing, -1.0, 1.0))
    lower = np.clip((z + 75.0) / 110.0, 0.0, 1.0)
    blade = 100.0 * np.maximum(np.abs(angle - 1.05) - 0.08 - 0.42 * lower, -0.5)
    thickness = 1.3 + 9.0 * (angle - 1.05) ** 2
    distance = np.maximum(np.abs(cage - 20.0) - thickness, np.maximum(blade, np.maximum(-75.0 - z, z - 68.0)))
    distance = np.maximum(distance, skin + 6.0)
    blend(hu, coverage(distance.astype(np.float32), frame.edge_mm), CORTEX_HU - 150.0)


def _paint_sternum(hu: Array, frame: Frame) -> None:
    z, y, x = _window(frame, (-100.0, 60.0), (-125.0, 10.0), 26.0)
    if 0 in (len(frame.z[z]), len(frame.y[y]), len(frame.x[x])):
        return
    level = frame.z[z][:, None, None]
    depth = np.abs(frame.y[y][None, :, None] - (cage_front(level) - 5.0)) - 5.0
    half_width = np.interp(level, (-95.0, -70.0, 10.0, 30.0, 52.0), (7.0, 15.0, 14.0, 24.0, 22.0))
    across = np.abs(frame.x[x][None, None, :]) - half_width
    ends = np.maximum(level - 50.0, -95.0 - level)
    plate = np.hypot(np.maximum(depth + 3.0, 0.0), np.maximum(across + 3.0, 0.0)) - 3.0
    _paint_bone(hu[z, y, x], np.maximum(plate, ends), frame.edge_mm, 1.6)


def _window(frame: Frame, z: tuple[float, float], y: tuple[float, float], half_x: float) -> tuple[slice, slice, slice]:
    bounds = ((frame.z, z), (frame.y, y), (frame.x, (-half_x, half_x)))
    starts = [(int(np.searchsorted(axis, low)), int(np.searchsorted(axis, high))) for axis, (low, high) in bounds]
    return slice(*starts[0]), slice(*starts[1]), slice(*starts[2])


def _paint_bone(hu: Array, distance: NDArray[np.floating], edge_mm: float, cortex_mm: float) -> None:
    """Paint a cortex over marrow inside a signed distance; hu is a view and changes in place."""
    marrow = coverage(np.asarray(distance + cortex_mm, np.float32), edge_mm)
    inside = coverage(np.asarray(distance, np.float32), edge_mm)
    blend(hu, inside, CORTEX_HU + marrow * (MARROW_HU - CORTEX_HU))


def clavicles() -> Tubes:
    """Return both clavicles as tubes, from the sternum out to the shoulders."""
    outer = [(52.0, -40.0, 22.0), (60.0, -46.0, 60.0), (74.0, -24.0, 110.0), (84.0, -4.0, 150.0)]
    sides = [[(z, y, side * x) for z, y, x in outer] for side in (-1.0, 1.0)]
    return join([polyline(points, [8.0, 6.0, 5.5, 6.5]) for points in sides])


def _paint_clavicles(hu: Array, frame: Frame) -> None:
    if frame.z[-1] < 35.0:
        return
    outside = clavicles()
    cortex, marrow = tube_coverage(frame, outside), tube_coverage(frame, outside.widened(-1.8))
    blend(hu, cortex, CORTEX_HU + marrow * (MARROW_HU - CORTEX_HU))


def _paint_spine(hu: Array, frame: Frame) -> None:
    centre = spine_centre(frame.z)
    y_range = (float(centre.min()) - 20.0, float(centre.max()) + 68.0)
    _, y, x = _window(frame, (0.0, 0.0), y_range, 46.0)
    if 0 in (len(frame.y[y]), len(frame.x[x])):
        return
    view = hu[:, y, x]
    across = frame.x[x][None, None, :]
    depth = frame.y[y][None, :, None] - centre[:, None, None]
    phase = frame.z / _VERTEBRA_PITCH_MM
    height = ((phase - np.rint(phase)) * _VERTEBRA_PITCH_MM)[:, None, None]
    _paint_vertebral_bodies(view, across, depth, height, frame.edge_mm)
    _paint_bone(view, _neural_arch(across, depth, height), frame.edge_mm, 1.8)
    _paint_canal(view, across, depth, frame.edge_mm)


def _paint_vertebral_bodies(hu: Array, across: Array, depth: Array, height: Array, edge_mm: float) -> None:
    waist = 1.0 - 0.10 * np.cos(height * (2.0 * np.pi / _VERTEBRA_PITCH_MM))
    outline = 15.0 * (np.hypot(across / (18.0 * waist), depth / (15.0 * waist)) - 1.0)
    endplate = np.abs(height) - (_VERTEBRA_PITCH_MM - _DISC_MM) / 2.0
    blend(hu, coverage(np.asarray(outline, np.float32), edge_mm), DISC_HU)
    _paint_bone(hu, np.maximum(outline, endplate), edge_mm, 1.5)


def _neural_arch(across: Array, depth: Array, height: Array) -> Array:
    """Return the distance to pedicles, laminae, transverse and spinous processes, around the canal."""
    behind = depth - 23.0
    ring = np.abs(np.hypot(across, behind) - 11.5) - 3.0
    pedicles = np.maximum(ring, np.where(behind < 0.0, np.abs(height - 3.0) - 5.5, np.abs(height) - 10.0))
    along = np.clip((np.abs(across) - 12.0) / 22.0, 0.0, 1.0)
    transverse = np.hypot(np.abs(across) - 12.0 - 22.0 * along, depth - 24.0 - 9.0 * along) - 5.0
    transverse = np.maximum(transverse, np.abs(height - 2.0) - 5.0)
    spinous = np.maximum(np.abs(across) - 3.0, np.maximum(34.0 - depth, depth - 60.0))
    spinous = np.maximum(spinous, np.abs(height + 4.0) - 9.0)
    return np.asarray(np.minimum(np.minimum(pedicles, transverse), spinous), np.float32)


def _paint_canal(hu: Array, across: Array, depth: Array, edge_mm: float) -> None:
    radius = np.hypot(across, depth - 23.0)
    blend(hu, coverage(np.asarray(radius - 8.5, np.float32), edge_mm), -5.0)
    blend(hu, coverage(np.asarray(radius - 5.0, np.float32), edge_mm), 38.0)
