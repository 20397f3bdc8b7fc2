"""Disease of the lungs of a phantom: where fibrosis and ground-glass opacity are, and what they look like.

Each lesion is a smooth score (position prior plus random field) above a threshold. The threshold is the quantile of
the score over the lung that gives the drawn percentage, so the known truth is reached and not only aimed at.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from siccs_net.testing.phantom_body import BOTTOM_MM, TOP_MM, Body
from siccs_net.testing.phantom_cohort import PatientRecord
from siccs_net.testing.phantom_grid import Array, Field, Frame, coverage, field_of, lattice, smooth_noise
from siccs_net.testing.phantom_lungs import (
    LARGE_AIRWAY_RADIUS_MM,
    LARGE_VESSEL_RADIUS_MM,
    LungTrees,
)
from siccs_net.testing.phantom_tubes import Tubes, tube_coverage

FIBROSIS_RAMP = 0.16
GROUND_GLASS_RAMP = 0.5
_TEXTURE_STEP_MM = 2.5
_CYST_PITCH_MM = 5.2
_CYST_AIR_HU, _CYST_WALL_HU = -935.0, -20.0
_MESH_GAP_HU, _MESH_LINE_HU = -690.0, -170.0


@dataclass(frozen=True)
class Disease:
    """Scores of both lesions (positive inside), and the textures of lung and fibrosis."""

    fibrosis: Field
    ground_glass: Field
    honeycomb: Field
    texture: Field
    cysts: cKDTree


def build_disease(record: PatientRecord, body: Body, trees: LungTrees, rng: np.random.Generator) -> Disease:
    """Place the lesions of one patient so that they fill the record's percentages of the lung."""
    frame = _lattice_of(body.lung)
    parenchyma = parenchyma_coverage(frame, body.lung.values, trees) >= 0.5
    fibrosis, ground_glass = _scores(frame, body, rng)
    fibrosis -= _threshold(fibrosis[parenchyma], record.ef_percent / 100.0)
    spared = parenchyma & (fibrosis <= 0)
    share = record.ggo_percent / 100.0 * parenchyma.sum() / max(spared.sum(), 1)
    ground_glass -= _threshold(ground_glass[spared], share)
    honeycomb = rng.uniform(0.1, 1.2) + smooth_noise(rng, frame, 22.0) - _depth(body) / 9.0
    fine = lattice((BOTTOM_MM, -104.0, -140.0), (TOP_MM, 96.0, 140.0), _TEXTURE_STEP_MM)
    return Disease(
        fibrosis=field_of(fibrosis, frame),
        ground_glass=field_of(ground_glass, frame),
        honeycomb=field_of(honeycomb, frame),
        texture=field_of(smooth_noise(rng, fine, 4.5), fine),
        cysts=cKDTree(_cyst_centres(rng)),
    )


def _lattice_of(field: Field) -> Frame:
    axes = [
        (start + field.step * np.arange(n)).astype(np.float32)
        for start, n in zip(field.origin, field.values.shape, strict=True)
    ]
    return Frame(axes[0], axes[1], axes[2], field.step)


def parenchyma_coverage(frame: Frame, lung: Array, trees: LungTrees) -> Array:
    """Return the fraction of each voxel that is lung tissue: the lungs without large airways and hilar vessels."""
    airway = large_airways(trees)
    vessel = trees.vessels.select(trees.vessels.radius > LARGE_VESSEL_RADIUS_MM)
    inside = coverage(lung, frame.edge_mm)
    inside *= 1.0 - np.maximum(tube_coverage(frame, airway), tube_coverage(frame, vessel))
    return inside


def large_airways(trees: LungTrees) -> Tubes:
    """Return the outer surface of the airways that do not belong to the parenchyma."""
    chosen = trees.airways.radius > LARGE_AIRWAY_RADIUS_MM
    return trees.airways.select(chosen).widened(trees.airway_wall_mm[chosen])


def _scores(frame: Frame, body: Body, rng: np.random.Generator) -> tuple[Array, Array]:
    """Return scores of fibrosis and ground glass: basal, posterior, and near the pleura (fibrosis more so)."""
    z, y, _ = frame.mesh()
    basal, posterior, depth = (80.0 - z) / 240.0, (y + 80.0) / 165.0, _depth(body)
    basal_pull, posterior_pull = rng.uniform(2.6, 4.0), rng.uniform(2.2, 3.4)
    position = basal_pull * basal * (0.6 + 0.4 * basal) + posterior_pull * posterior
    shared = smooth_noise(rng, frame, 26.0)
    fibrosis = position - depth / rng.uniform(9.0, 16.0) + 0.45 * shared
    fibrosis = fibrosis + 0.55 * smooth_noise(rng, frame, 14.0)
    ground_glass = 0.85 * position - depth / rng.uniform(28.0, 60.0) + 0.5 * shared
    ground_glass = ground_glass + 0.5 * smooth_noise(rng, frame, 40.0) + 0.28 * smooth_noise(rng, frame, 14.0)
    return fibrosis.astype(np.float32), ground_glass.astype(np.float32)


def _depth(body: Body) -> Array:
    """Return the distance (mm) to the pleura of ribs and diaphragm; the mediastinal pleura does not count."""
    return np.asarray(np.maximum(np.minimum(-body.cage.values, body.diaphragm.values + 12.0) - 2.0, 0.0), np.float32)


def _threshold(scores: Array, share: float) -> float:
    if share <= 0.0 or not len(scores):
        return 1e3
    return float(np.quantile(scores, 1.0 - min(share, 1.0)))


def _cyst_centres(rng: np.random.Generator) -> NDArray[np.float64]:
    """Scatter the centres of honeycomb cysts: a jittered lattice with gaps, so that sizes differ (3 to 10 mm)."""
    box = lattice((BOTTOM_MM, -104.0, -140.0), (TOP_MM, 96.0, 140.0), _CYST_PITCH_MM)
    grid = np.stack(np.broadcast_arrays(*box.mesh()), axis=-1).reshape(-1, 3).astype(np.float64)
    grid = grid[rng.random(len(grid)) > 0.3]
    return grid + rng.uniform(-0.5, 0.5, grid.shape) * _CYST_PITCH_MM


def fibrosis_hu(points: Array, honeycomb: Array, disease: Disease, edge_mm: float) -> Array:
    """Return HU of fibrosis at points [n, (z, y, x)] in mm: cysts of air with walls, or a mesh of dense lines.

    A wall is where the nearest centre is hardly nearer than the next ones (Worley, A cellular texture basis function,
    SIGGRAPH 1996); the three next ones together, not the second alone, round the corners of the cysts.
    """
    nearest = np.asarray(disease.cysts.query(points, k=4)[0])
    lead = np.maximum(nearest[:, 1:] - nearest[:, :1], 1e-3)
    to_wall = 0.5 / np.sqrt((lead**-2.0).sum(axis=1)).astype(np.float32)
    cystic = np.clip(honeycomb + 0.5, 0.0, 1.0)
    thickness = 0.26 + 0.26 * cystic
    wall = coverage(to_wall - thickness, max(edge_mm, 0.8))
    gap = _MESH_GAP_HU + cystic * (_CYST_AIR_HU - _MESH_GAP_HU)
    line = _MESH_LINE_HU + cystic * (_CYST_WALL_HU - _MESH_LINE_HU)
    return np.asarray(gap + wall * (line - gap), np.float32)


def dilated_airways(disease: Disease, trees: LungTrees) -> tuple[Tubes, Array]:
    """Return all airways and their walls (mm); inside of fibrosis they are pulled open (traction bronchiectasis)."""
    pull = np.clip(0.5 + disease.fibrosis.at(trees.airways.points) / 0.4, 0.0, 1.0)
    return trees.airways.widened(0.9 * pull * np.sqrt(trees.airways.radius)), trees.airway_wall_mm + 0.3 * pull
