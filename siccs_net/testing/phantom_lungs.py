"""The inside of the lungs: fissures, lobes, bronchi and vessels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from siccs_net.testing.phantom_body import Body
from siccs_net.testing.phantom_grid import Array, lattice
from siccs_net.testing.phantom_tubes import Tree, Tubes, grow_tree, join, polyline, tubes_of

LARGE_AIRWAY_RADIUS_MM = 1.3
"""Bronchi with a wider lumen than this are no lung parenchyma and outside of the lung label."""
LARGE_VESSEL_RADIUS_MM = 2.6
"""Vessels thicker than this (those of the hila) are outside of the lung label."""

_TARGET_PITCH_MM = 12.0
_ARTERY_TIP_MM, _VEIN_TIP_MM = 0.56, 0.60
_SMALLEST_AIRWAY_MM = 0.9
# Where the artery and the vein of each lobe enter it (z, y, x), and the direction from the artery to its bronchus.
_LOBE_GATES = {
    "right upper": ((2.0, 4.0, -46.0), (-6.0, -10.0, -46.0), (0.3, 0.9, 0.3)),
    "right middle": ((-34.0, -14.0, -48.0), (-36.0, -22.0, -44.0), (0.4, 0.6, 0.7)),
    "right lower": ((-40.0, 18.0, -46.0), (-46.0, 14.0, -36.0), (0.1, 0.5, 0.9)),
    "left upper": ((6.0, 2.0, 46.0), (-8.0, -12.0, 46.0), (-0.2, 0.9, -0.4)),
    "left lower": ((-30.0, 22.0, 46.0), (-42.0, 16.0, 38.0), (0.1, -0.5, -0.9)),
}


@dataclass(frozen=True)
class LungTrees:
    """Airways (lumen radii) and vessels of both lungs; `airway_wall_mm` is the wall of each airway bead."""

    airways: Tubes
    airway_wall_mm: Array
    vessels: Tubes


def fissure_distances(z: Array, y: Array, x: Array) -> tuple[Array, Array]:
    """Return signed distances (mm, positive above) to the oblique and to the right horizontal fissure."""
    bulge = 4.0 * np.sin(y / 30.0 + x / 38.0) + 4.0 * np.cos(x / 30.0) - 3.0 * (x > 0)
    oblique = (z - (-45.0 + 0.93 * y + bulge)) * np.float32(0.73)
    horizontal = z - (-38.0 - 0.10 * y + 0.12 * (x + 60.0) + 0.003 * ((x + 75.0) ** 2 + (y + 30.0) ** 2) - 6.0)
    return np.asarray(oblique, np.float32), np.asarray(horizontal, np.float32)


def grow_lung_trees(body: Body, rng: np.random.Generator) -> LungTrees:
    """Grow bronchi with their arteries, and veins between them, lobe by lobe."""
    artery_targets, vein_targets = _targets(body, rng), _targets(body, rng)
    vessels, airways, walls = [_central_arteries()], [], []
    for lobe, (artery_gate, vein_gate, to_bronchus) in _LOBE_GATES.items():
        artery = _grow(artery_gate, artery_targets[lobe], _ARTERY_TIP_MM)
        vein = _grow(vein_gate, vein_targets[lobe], _VEIN_TIP_MM)
        vessels += [tubes_of(artery), tubes_of(vein)]
        airways.append(_bronchi(artery, np.array(to_bronchus, np.float32)))
    airways += _central_airways()
    walls = [0.35 + 0.16 * part.radius for part in airways]
    return LungTrees(join(airways), np.concatenate(walls).astype(np.float32), join(vessels))


def _targets(body: Body, rng: np.random.Generator) -> dict[str, Array]:
    """Scatter end points over the lungs, away from pleura and fissures, and sort them by lobe."""
    box = lattice((-165.0, -100.0, -135.0), (95.0, 95.0, 135.0), _TARGET_PITCH_MM)
    grid = np.stack(np.broadcast_arrays(*box.mesh()), axis=-1).reshape(-1, 3)
    points = (grid + rng.uniform(-0.5, 0.5, grid.shape) * _TARGET_PITCH_MM).astype(np.float32)
    points = points[body.lung.at(points) < -3.5]
    oblique, horizontal = fissure_distances(points[:, 0], points[:, 1], points[:, 2])
    right = points[:, 2] < 0
    clear = (np.abs(oblique) > 3.0) & ~(right & (oblique > 0) & (np.abs(horizontal) < 3.0))
    lobes: dict[str, NDArray[np.bool_]] = {
        "right upper": right & (oblique > 0) & (horizontal > 0),
        "right middle": right & (oblique > 0) & (horizontal <= 0),
        "right lower": right & (oblique <= 0),
        "left upper": ~right & (oblique > 0),
        "left lower": ~right & (oblique <= 0),
    }
    return {lobe: points[member & clear] for lobe, member in lobes.items()}


def _grow(gate: tuple[float, float, float], targets: Array, tip_radius_mm: float) -> Tree:
    return grow_tree(np.array(gate, np.float32), targets, tip_radius_mm=tip_radius_mm)


def _bronchi(artery: Tree, to_bronchus: Array) -> Tubes:
    """Return the bronchi that run beside the branches of an artery, a little narrower than it."""
    beside = (1.9 * artery.radius + 0.8)[:, None] * to_bronchus / np.linalg.norm(to_bronchus)
    bronchi = tubes_of(Tree(artery.nodes + beside, artery.parent, np.float32(0.85) * artery.radius))
    return bronchi.select(bronchi.radius > _SMALLEST_AIRWAY_MM)


def _central_airways() -> list[Tubes]:
    """Return trachea, main, intermediate and lobar bronchi up to the gates of the lobes."""
    return [
        polyline([(110, -2, -2), (60, 6, -3), (20, 13, -2), (2, 16, -1)], [8.2, 8.4, 8.4, 8.0]),
        polyline([(2, 16, -1), (-8, 15, -14), (-13, 12, -27)], [7.5, 7.0, 6.0]),
        polyline([(-13, 12, -27), (-8, 12, -37), (2, 10, -44)], [5.2, 4.4, 3.8]),
        polyline([(-13, 12, -27), (-28, 11, -34), (-38, 12, -38)], [5.6, 5.2, 4.6]),
        polyline([(-38, 12, -38), (-37, 0, -44), (-34, -8, -47)], [3.8, 3.2, 2.8]),
        polyline([(-38, 12, -38), (-42, 22, -42)], [4.4, 3.8]),
        polyline([(2, 16, -1), (-8, 17, 14), (-16, 17, 30)], [7.2, 6.4, 5.8]),
        polyline([(-16, 17, 30), (-9, 12, 38), (4, 8, 45)], [5.0, 4.4, 3.8]),
        polyline([(-16, 17, 30), (-24, 20, 37), (-31, 22, 41)], [5.0, 4.4, 4.0]),
    ]


def _central_arteries() -> Tubes:
    """Return the stems that join the main pulmonary arteries and the left atrium to the gates of the lobes."""
    artery = [
        polyline([(-18, 4, -38), (-8, 4, -43), (2, 4, -46)], [7.0, 5.0, 4.2]),
        polyline([(-18, 4, -38), (-30, 10, -46), (-40, 18, -46)], [8.0, 7.0, 5.0]),
        polyline([(-22, 2, -42), (-34, -14, -48)], [5.0, 3.4]),
        polyline([(-4, 10, 36), (4, 6, 42), (6, 2, 46)], [7.5, 5.0, 4.2]),
        polyline([(-4, 10, 36), (-16, 22, 44), (-30, 22, 46)], [8.0, 6.5, 5.0]),
    ]
    vein = [
        polyline([(-34, 2, -24), (-18, -8, -38), (-6, -10, -46)], [6.5, 5.5, 4.4]),
        polyline([(-36, 2, -26), (-36, -22, -44)], [5.0, 3.2]),
        polyline([(-42, 10, -24), (-46, 14, -36)], [6.5, 5.0]),
        polyline([(-34, 4, 32), (-20, -8, 40), (-8, -12, 46)], [6.5, 5.5, 4.4]),
        polyline([(-40, 12, 30), (-42, 16, 38)], [6.5, 5.0]),
    ]
    return join(artery + vein)
