"""The large anatomy of a phantom: thorax, lungs, mediastinum, heart, diaphragm and upper abdomen.

Coordinates are template millimetres, LPS: x grows to the left, y to the posterior, z to the superior side, with the
carina near the origin. Every shape is a signed distance in millimetres, negative inside.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.interpolate import PchipInterpolator

from siccs_net.testing.phantom_grid import (
    Array,
    Field,
    Frame,
    Point,
    field_of,
    lattice,
    smooth_noise,
    smooth_union,
)
from siccs_net.testing.phantom_tubes import Tubes, join, polyline

LATTICE_STEP_MM = 4.0
BOTTOM_MM, TOP_MM = -172.0, 103.0
_LOW, _HIGH = (-180.0, -164.0, -200.0), (112.0, 148.0, 200.0)

# Profiles along z: half width and front wall of the rib cage, centre of the vertebral bodies, half width of the body.
_PROFILE_Z = (-190.0, -150.0, -100.0, -50.0, 0.0, 30.0, 60.0, 80.0, 104.0)
_HALF_WIDTH = (128.0, 131.0, 132.0, 129.0, 121.0, 113.0, 96.0, 76.0, 50.0)
_FRONT = (-96.0, -99.0, -98.0, -91.0, -76.0, -60.0, -36.0, -16.0, -4.0)
_SPINE = (40.0, 45.0, 51.0, 55.0, 55.0, 51.0, 45.0, 39.0, 31.0)
_BODY_HALF_WIDTH = (152.0, 154.0, 155.0, 154.0, 156.0, 162.0, 172.0, 178.0, 182.0)
# Lungs reach this far behind the centre of the vertebral bodies, in the gutters beside the spine.
_GUTTER_MM = 32.0


@dataclass(frozen=True)
class Physique:
    """What differs between bodies. Lengths in millimetres; `stature` and `girth` scale z and x, y."""

    female: bool
    stature: float
    girth: float
    fat_mm: float
    muscle_mm: float
    right_dome_mm: float
    left_dome_mm: float
    heart_scale: float
    lung_hu: float


@dataclass(frozen=True)
class Body:
    """Signed distances and great vessels of one phantom."""

    physique: Physique
    skin: Field
    cage: Field
    lung: Field
    diaphragm: Field
    abdomen: Field
    liver: Field
    spleen: Field
    stomach: Field
    blood: Field
    mottle: Field


def draw_physique(rng: np.random.Generator, *, female: bool, burden_percent: float) -> Physique:
    """Draw a body. Fibrotic lungs are small: the diaphragm stands higher with a larger burden."""
    lift = 0.25 * burden_percent
    return Physique(
        female=female,
        stature=float(rng.uniform(0.90, 1.02) if female else rng.uniform(0.98, 1.10)),
        girth=float(rng.uniform(0.90, 1.0) if female else rng.uniform(0.97, 1.06)),
        fat_mm=float(rng.uniform(7.0, 20.0)),
        muscle_mm=float(rng.uniform(7.0, 13.0)),
        right_dome_mm=float(rng.uniform(-92.0, -82.0)) + lift,
        left_dome_mm=float(rng.uniform(-114.0, -104.0)) + lift,
        heart_scale=float(rng.uniform(0.92, 1.08)),
        lung_hu=float(rng.normal(-858.0, 14.0)),
    )


def spine_centre(z: Array) -> Array:
    """Return y of the centre of the vertebral bodies at these z (mm)."""
    return _profile(_SPINE, z)


def cage_front(z: Array) -> Array:
    """Return y of the front wall of the rib cage at these z (mm)."""
    return _profile(_FRONT, z)


def cage_half_width(z: Array) -> Array:
    """Return the half width of the rib cage at these z (mm)."""
    return _profile(_HALF_WIDTH, z)


def _profile(values: tuple[float, ...], z: Array) -> Array:
    clipped = np.clip(z, _PROFILE_Z[0], _PROFILE_Z[-1])
    return np.asarray(PchipInterpolator(_PROFILE_Z, values)(clipped), np.float32)


def build_body(physique: Physique, rng: np.random.Generator) -> Body:
    """Build the shapes of one body on a lattice of `LATTICE_STEP_MM`."""
    frame = lattice(_LOW, _HIGH, LATTICE_STEP_MM)
    where = _warped_mesh(frame, rng)
    cage = _cage(where)
    diaphragm = _diaphragm(where, physique)
    heart = np.maximum(_heart(where, physique), 2.0 - diaphragm)
    blood = np.minimum(heart, _swept(frame, great_vessels()))
    mediastinum = _mediastinum(where, blood, rng, frame)
    lung = np.max([cage + 2.0, 0.5 - diaphragm, -mediastinum, _apex(where)], axis=0)
    abdomen = np.maximum(cage + 2.0, diaphragm)
    liver, spleen, stomach = (np.maximum(organ, abdomen + 3.0) for organ in _organs(where, physique))
    shapes = {
        "skin": _skin(where, physique, cage),
        "cage": cage,
        "lung": lung,
        "diaphragm": diaphragm,
        "abdomen": abdomen,
        "liver": liver,
        "spleen": np.maximum(spleen, 2.0 - liver),
        "stomach": np.maximum(stomach, 2.0 - liver),
        "blood": blood,
        "mottle": smooth_noise(rng, frame, 14.0),
    }
    return Body(physique, **{name: field_of(values, frame) for name, values in shapes.items()})


def _warped_mesh(frame: Frame, rng: np.random.Generator) -> tuple[Array, Array, Array]:
    """Return z, y, x of a lattice, bent by a smooth random displacement: no two sides or bodies are alike."""
    bends = [smooth_noise(rng, frame, 60.0) for _ in range(3)]
    z, y, x = (axis + 3.0 * bend for axis, bend in zip(frame.mesh(), bends, strict=True))
    return z, y, x


def _cage(where: tuple[Array, Array, Array]) -> Array:
    z, y, x = where
    level = z.mean(axis=(1, 2), keepdims=True)
    front, back = cage_front(level), spine_centre(level) + _GUTTER_MM
    half_depth, middle = (back - front) / 2, (back + front) / 2
    v = (y - middle) / half_depth
    half_width = cage_half_width(level) * (1.0 + 0.07 * np.clip(v, -1.2, 1.2))
    # Behind, each half has a centre of its own: the ribs bend forward again to reach the spine.
    shift = 0.48 * half_width * np.clip(0.7 * v + 0.3, 0.0, 1.0) ** 2
    across = np.hypot(np.abs(x) - shift, 6.0)
    scaled = np.maximum(((across / (half_width - shift)) ** 2.3 + np.abs(v) ** 2.3) ** (1 / 2.3), 1e-3)
    return np.asarray((1.0 - 1.0 / scaled) * np.hypot(across, y - middle), np.float32)


def _ellipsoid(where: tuple[Array, Array, Array], centre: Point, half: Point) -> Array:
    offset = [axis - c for axis, c in zip(where, centre, strict=True)]
    scaled = np.sqrt(sum((o / h) ** 2 for o, h in zip(offset, half, strict=True)))
    slope = np.sqrt(sum((o / h**2) ** 2 for o, h in zip(offset, half, strict=True)))
    return np.asarray(scaled * (scaled - 1.0) / np.maximum(slope, 1e-4), np.float32)


def _turned(where: tuple[Array, Array, Array], centre: Point, yaw: float, pitch: float) -> tuple[Array, Array, Array]:
    """Return z, y, x about a centre, turned so that x runs to the left, forward (yaw) and down (pitch, radians)."""
    z, y, x = (axis - c for axis, c in zip(where, centre, strict=True))
    along, across = x * np.cos(yaw) - y * np.sin(yaw), x * np.sin(yaw) + y * np.cos(yaw)
    return z * np.cos(pitch) + along * np.sin(pitch), across, along * np.cos(pitch) - z * np.sin(pitch)


def _apex(where: tuple[Array, Array, Array]) -> Array:
    """Return the distance to the domes that close the two lungs at the top."""
    z, y, x = where
    above = np.maximum(z - 12.0, 0.0)
    right, left = (
        (above / height) ** 1.35 + np.hypot((x - centre) / 90.0, (y - 16.0) / 100.0)
        for centre, height in ((-45.0, 81.0), (45.0, 80.0))
    )
    return np.asarray(65.0 * (np.minimum(right, left) - 1.0), np.float32)


def _diaphragm(where: tuple[Array, Array, Array], physique: Physique) -> Array:
    """Return the distance to the diaphragm, negative below it."""
    z, y, x = where
    right = _dome(x, y, (-20.0, -62.0), physique.right_dome_mm)
    left = _dome(x, y, (-12.0, 66.0), physique.left_dome_mm)
    centre = _dome(x, y, (-25.0, 5.0), physique.left_dome_mm - 8.0)
    domes = -smooth_union(-right, -left, 14.0)
    height = np.maximum(-smooth_union(-domes, -centre, 12.0), BOTTOM_MM + 12.0)
    slope = np.gradient(height, LATTICE_STEP_MM, axis=(1, 2))
    return np.asarray((z - height) / np.sqrt(1.0 + slope[0] ** 2 + slope[1] ** 2), np.float32)


def _dome(x: Array, y: Array, centre: tuple[float, float], top_mm: float) -> Array:
    depth = np.where(y > centre[0], 112.0, 92.0)
    radius = ((x - centre[1]) / 82.0) ** 2 + ((y - centre[0]) / depth) ** 2
    return np.asarray(top_mm - 74.0 * radius**1.25, np.float32)


def _heart(where: tuple[Array, Array, Array], physique: Physique) -> Array:
    scale = physique.heart_scale
    low = (physique.left_dome_mm + 109.0) * 0.5
    left = _turned(where, (-78.0 + low, -30.0, 38.0), 0.7, 0.45)
    left_ventricle = _ellipsoid(left, (0.0, 0.0, 0.0), (39 * scale, 38 * scale, 55 * scale))
    right = _turned(where, (-70.0 + low, -40.0, -6.0), 0.3, 0.35)
    right_heart = _ellipsoid(right, (0.0, 0.0, 0.0), (45 * scale, 36 * scale, 46 * scale))
    atrium = _ellipsoid(where, (-40.0 + low, 8.0, 4.0), (20.0, 18.0, 36.0))
    return smooth_union(smooth_union(left_ventricle, right_heart, 3.0), atrium, 4.0)


def _mediastinum(where: tuple[Array, Array, Array], blood: Array, rng: np.random.Generator, frame: Frame) -> Array:
    """Return what keeps the lungs apart: spine, fat column and the fatty hulls of heart, vessels and hila."""
    z, y, x = where
    level = z.mean(axis=(1, 2), keepdims=True)
    front, spine = cage_front(level), spine_centre(level)
    half_width = np.interp(level, (-90.0, -40.0, 0.0, 60.0, 100.0), (10.0, 14.0, 25.0, 29.0, 32.0)).astype(np.float32)
    middle, half_depth = np.float32(0.5) * (front + spine), np.float32(0.5) * (spine - front)
    column = _flat_ellipse(x - 3.0, y - middle, half_width, half_depth)
    vertebrae = _flat_ellipse(x, y - (spine + 20.0), 22.0, 42.0)
    hull = blood - (4.0 + 1.5 * smooth_noise(rng, frame, 30.0))
    hila = np.minimum(
        _ellipsoid(where, (-18.0, 8.0, -36.0), (24.0, 17.0, 15.0)),
        _ellipsoid(where, (-10.0, 10.0, 36.0), (24.0, 17.0, 15.0)),
    )
    return smooth_union(smooth_union(np.minimum(column, vertebrae), hull, 8.0), hila, 8.0)


def _flat_ellipse(x: Array, y: Array, half_x: Array | float, half_y: Array | float) -> Array:
    scaled = np.hypot(x / half_x, y / half_y)
    slope = np.hypot(x / half_x**2, y / half_y**2)
    return np.asarray(scaled * (scaled - 1.0) / np.maximum(slope, 1e-4), np.float32)


def _organs(where: tuple[Array, Array, Array], physique: Physique) -> tuple[Array, Array, Array]:
    """Return liver, spleen and stomach, before they are cut by the diaphragm."""
    right, left = physique.right_dome_mm, physique.left_dome_mm
    lobe = _ellipsoid(where, (right - 62.0, -5.0, -62.0), (80.0, 105.0, 84.0))
    left_lobe = _ellipsoid(where, (left - 30.0, -45.0, 8.0), (32.0, 40.0, 58.0))
    spleen = _ellipsoid(where, (left - 38.0, 42.0, 92.0), (44.0, 42.0, 26.0))
    stomach = _ellipsoid(where, (left - 42.0, -16.0, 62.0), (50.0, 62.0, 54.0))
    return smooth_union(lobe, left_lobe, 14.0), spleen, stomach


def _skin(where: tuple[Array, Array, Array], physique: Physique, cage: Array) -> Array:
    """Return the distance to the skin: an oval trunk, broader at the shoulders, with breasts in women."""
    z, y, x = where
    level = z.mean(axis=(1, 2), keepdims=True)
    wall = 8.0 + physique.fat_mm + 4.0
    front = cage_front(np.minimum(level, 70.0)) - 6.0 - wall
    back = spine_centre(level) + _GUTTER_MM + 28.0 + 0.5 * physique.fat_mm
    half_width = _profile(_BODY_HALF_WIDTH, level) + 0.8 * (physique.fat_mm - 14.0)
    half_depth, middle = (back - front) / 2, (back + front) / 2
    scaled = (np.abs(x / half_width) ** 2.5 + np.abs((y - middle) / half_depth) ** 2.5) ** (1 / 2.5)
    oval = (1.0 - 1.0 / np.maximum(scaled, 1e-3)) * np.hypot(x, y - middle)
    trunk = smooth_union(np.asarray(oval, np.float32), cage - wall - physique.muscle_mm, 10.0)
    if not physique.female:
        return trunk
    size = 12.0 + 0.8 * physique.fat_mm
    for side in (-1.0, 1.0):
        breast = _ellipsoid(where, (-58.0, -92.0, side * 72.0), (50.0, 12.0 + size, 56.0))
        trunk = smooth_union(trunk, breast, 14.0)
    return trunk


def great_vessels() -> Tubes:
    """Return aorta, its branches, pulmonary arteries, both venae cavae and the neck vessels."""
    step = 3.0
    return join(
        [
            polyline([(-45, -18, 2), (-18, -28, -16), (14, -24, -18), (33, -8, -8)], [15, 16, 16, 15], step),
            polyline([(33, -8, -8), (38, 12, 10), (28, 34, 22), (0, 42, 25)], [15, 14, 13, 13], step),
            polyline([(0, 42, 25), (-60, 44, 22), (-120, 34, 15), (-178, 28, 6)], [13, 12, 12, 11], step),
            polyline([(-40, -45, 14), (-18, -35, 20), (-4, -8, 26), (-4, 10, 38)], [14, 14, 12, 10], step),
            polyline([(-12, -18, 18), (-14, -3, -6), (-16, 2, -26), (-18, 4, -40)], [12, 11, 10, 9], step),
            polyline([(60, -18, -20), (25, -16, -27), (-15, -12, -29), (-45, -14, -28)], [8, 9, 10, 11], step),
            polyline([(-80, -8, -24), (-120, 4, -22), (-178, 12, -20)], [11, 11, 11], step),
            polyline([(38, -4, -8), (60, -4, -14), (96, 4, -34)], [7, 6, 6], step),
            polyline([(38, 6, 2), (62, 4, 14), (96, 6, 24)], [5, 4, 4], step),
            polyline([(36, 16, 14), (64, 16, 26), (88, 8, 52)], [6, 5, 5], step),
            polyline([(58, -18, -22), (76, -14, -34), (96, -8, -52)], [7, 7, 6], step),
            polyline([(50, -20, -20), (62, -22, 10), (78, -16, 34), (92, -8, 56)], [7, 7, 7, 6], step),
        ]
    )


def _swept(frame: Frame, tubes: Tubes, reach_mm: float = 20.0) -> Array:
    """Return the distance to tubes on a lattice; `reach_mm` where farther than that."""
    distance = np.full(frame.shape, reach_mm, np.float32)
    for point, radius in zip(tubes.points, tubes.radius, strict=True):
        low = np.maximum(((point - radius - reach_mm - frame.origin) / frame.step).astype(np.intp), 0)
        high = ((point + radius + reach_mm - frame.origin) / frame.step).astype(np.intp) + 1
        box = tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
        z, y, x = frame.z[box[0]], frame.y[box[1]], frame.x[box[2]]
        squares = (z - point[0])[:, None, None] ** 2 + (y - point[1])[None, :, None] ** 2 + (x - point[2]) ** 2
        distance[box] = np.minimum(distance[box], np.sqrt(squares) - radius)
    return distance
