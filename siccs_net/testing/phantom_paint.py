"""From a phantom's shapes to Hounsfield units: one slab of slices at a time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from siccs_net.testing.phantom_body import Body, spine_centre
from siccs_net.testing.phantom_grid import Array, Frame, blend, coverage
from siccs_net.testing.phantom_lesions import (
    FIBROSIS_RAMP,
    GROUND_GLASS_RAMP,
    Disease,
    dilated_airways,
    fibrosis_hu,
    parenchyma_coverage,
)
from siccs_net.testing.phantom_lungs import LungTrees, fissure_distances
from siccs_net.testing.phantom_skeleton import paint_skeleton
from siccs_net.testing.phantom_tubes import polyline, tube_coverage

AIR_HU = -1000.0
_FAT_HU, _SKIN_HU, _MUSCLE_HU, _BLOOD_HU, _LIVER_HU, _SPLEEN_HU = -102.0, -5.0, 52.0, 42.0, 58.0, 48.0
_VESSEL_HU, _AIRWAY_WALL_HU, _LUMEN_HU, _FISSURE_HU = 40.0, 10.0, -985.0, -250.0


@dataclass(frozen=True)
class Phantom:
    """All shapes of one patient, ready to be sampled."""

    body: Body
    trees: LungTrees
    disease: Disease
    table_mm: float


@dataclass(frozen=True)
class Painted:
    """One slab [z, y, x]: HU, the fraction of lung parenchyma, and both lesion scores (positive inside)."""

    hu: Array
    parenchyma: Array
    fibrosis: Array
    ground_glass: Array


def paint(phantom: Phantom, frame: Frame) -> Painted:
    """Sample a phantom on a frame."""
    hu = np.full(frame.shape, AIR_HU, np.float32)
    body = phantom.body
    cage, skin = body.cage.on(frame), body.skin.on(frame)
    mottle = body.mottle.on(frame)
    _paint_table(hu, frame, phantom.table_mm)
    _paint_wall(hu, frame, cage, skin, mottle, body)
    _paint_inside(hu, frame, cage, mottle, body)
    paint_skeleton(hu, frame, cage, skin)
    lung = body.lung.on(frame)
    fibrosis, ground_glass = phantom.disease.fibrosis.on(frame), phantom.disease.ground_glass.on(frame)
    _paint_parenchyma(hu, frame, lung, mottle, fibrosis, ground_glass, phantom)
    _paint_fissures(hu, frame, lung)
    blend(hu, tube_coverage(frame, phantom.trees.vessels), _VESSEL_HU)
    _paint_airways(hu, frame, phantom)
    return Painted(hu, parenchyma_coverage(frame, lung, phantom.trees), fibrosis, ground_glass)


def table_top(body: Body) -> float:
    """Return y (mm) of the lowest point of the back, where the table begins."""
    y_inside = np.flatnonzero((body.skin.values < 0).any(axis=(0, 2)))
    return body.skin.origin[1] + body.skin.step * float(y_inside[-1] + 0.5)


def _paint_table(hu: Array, frame: Frame, top_mm: float) -> None:
    y, x = frame.y[:, None], frame.x[None, :]
    below = y - (top_mm + 3.0 - (np.minimum(np.abs(x), 215.0) / 60.0) ** 2)
    foam = np.maximum(np.abs(below - 9.0) - 7.0, np.abs(x) - 205.0)
    shell = np.maximum(np.abs(np.abs(below - 16.0) - 14.0) - 1.0, np.abs(x) - 215.0)
    plane = np.full(below.shape, AIR_HU, np.float32)
    blend(plane, coverage(foam.astype(np.float32), frame.edge_mm), -930.0)
    blend(plane, coverage(shell.astype(np.float32), frame.edge_mm), -250.0)
    hu[:] = plane


def _paint_wall(hu: Array, frame: Frame, cage: Array, skin: Array, mottle: Array, body: Body) -> None:
    """Paint skin, fat and the layers of muscle around the rib cage."""
    z, y, x = frame.mesh()
    edge, physique = frame.edge_mm, body.physique
    blend(hu, coverage(skin, edge), _SKIN_HU)
    blend(hu, coverage(skin + 2.0, edge), _FAT_HU)
    front = np.clip(-y / 90.0, 0.0, 1.0) * np.clip((z + 60.0) / 60.0, 0.0, 1.0)
    midline = np.clip((np.abs(x) - 8.0) / 25.0, 0.0, 1.0)
    thickness = physique.muscle_mm * (0.55 + 0.9 * front * midline + 1.6 * np.clip((z - 15.0) / 60.0, 0.0, 1.0))
    outer = np.maximum(np.maximum(cage - 13.0 - thickness - 2.5 * mottle, 11.5 - cage + 1.2 * mottle), skin + 5.0)
    streaks = 70.0 * np.exp(-60.0 * mottle**2)
    blend(hu, coverage(outer.astype(np.float32), edge), _MUSCLE_HU - streaks)
    behind = y - (spine_centre(frame.z)[:, None, None] + 48.0)
    paraspinal = 18.0 * (np.hypot((np.abs(x) - 29.0) / 27.0, behind / 19.0) - 1.0)
    blend(hu, coverage(np.maximum(paraspinal, skin + 4.0).astype(np.float32), edge), _MUSCLE_HU)
    intercostal = np.maximum(cage - 10.5, skin + 4.0)
    blend(hu, coverage(intercostal, edge), _MUSCLE_HU - 12.0)


def _paint_inside(hu: Array, frame: Frame, cage: Array, mottle: Array, body: Body) -> None:
    """Paint mediastinum, heart, vessels, oesophagus and the upper abdomen into the rib cage."""
    edge = frame.edge_mm
    blend(hu, coverage(cage + 0.5, edge), _FAT_HU + 10.0 + 6.0 * mottle)
    abdomen = body.abdomen.on(frame)
    blend(hu, coverage(np.abs(abdomen + 1.5) - 1.5, edge), _MUSCLE_HU)
    blend(hu, coverage(body.liver.on(frame), edge), _LIVER_HU + 3.0 * mottle)
    blend(hu, coverage(body.spleen.on(frame), edge), _SPLEEN_HU)
    _paint_stomach(hu, frame, body.stomach.on(frame))
    blend(hu, coverage(body.blood.on(frame), edge), _BLOOD_HU + 3.0 * mottle)
    oesophagus = polyline([(110, 20, 4), (20, 30, 6), (-60, 30, 8), (-120, 12, 18)], [6.0, 7.0, 7.5, 7.5], 2.0)
    blend(hu, tube_coverage(frame, oesophagus), 36.0)


def _paint_stomach(hu: Array, frame: Frame, stomach: Array) -> None:
    """Paint a stomach with fluid below and a bubble of air in front (the patient lies on the back)."""
    blend(hu, coverage(stomach, frame.edge_mm), 38.0)
    blend(hu, coverage(stomach + 4.0, frame.edge_mm), 12.0)
    bubble = np.maximum(stomach + 4.0, frame.mesh()[1] + 38.0)
    blend(hu, coverage(bubble, frame.edge_mm), -960.0)


def _paint_parenchyma(
    hu: Array, frame: Frame, lung: Array, mottle: Array, fibrosis: Array, ground_glass: Array, phantom: Phantom
) -> None:
    inside = np.flatnonzero(lung < frame.edge_mm / 2)
    z, y, x = np.unravel_index(inside, frame.shape)
    texture = phantom.disease.texture.on(frame).reshape(-1)[inside]
    patches = mottle.reshape(-1)[inside]
    posterior = (frame.y[y] + 80.0) / 165.0 - 0.5
    values = phantom.body.physique.lung_hu + 62.0 * posterior + 9.0 * patches + 13.0 * texture
    glass = np.clip(0.5 + ground_glass.reshape(-1)[inside] / GROUND_GLASS_RAMP, 0.0, 1.0)
    lines = np.exp(-8.0 * texture**2)
    values += glass * (235.0 + 28.0 * patches + 30.0 * texture + 70.0 * lines)
    scarred = np.clip(0.5 + fibrosis.reshape(-1)[inside] / FIBROSIS_RAMP, 0.0, 1.0)
    dense = np.flatnonzero(scarred > 0)
    points = np.stack([frame.z[z[dense]], frame.y[y[dense]], frame.x[x[dense]]], axis=-1)
    honeycomb = phantom.disease.honeycomb.on(frame).reshape(-1)[inside[dense]]
    pattern = fibrosis_hu(points, honeycomb, phantom.disease, frame.edge_mm)
    values[dense] += scarred[dense] * (pattern + 25.0 * texture[dense] - values[dense])
    covered = coverage(lung.reshape(-1)[inside], frame.edge_mm)
    flat = hu.reshape(-1)
    flat[inside] += covered * (values.astype(np.float32) - flat[inside])


def _paint_fissures(hu: Array, frame: Frame, lung: Array) -> None:
    """Paint the fissures as sheets 0.6 mm thick; the horizontal one lies in front of the oblique one, on the right."""
    z, y, x = frame.mesh()
    oblique, horizontal = fissure_distances(z, y, x)
    horizontal = np.where((x < 0) & (oblique > 0), np.abs(horizontal), np.float32(99.0))
    sheet = np.minimum(np.abs(oblique), horizontal)
    width = max(frame.edge_mm, 0.6)
    share = np.clip(1.0 - sheet / width, 0.0, 1.0) * (0.6 / width) * coverage(lung, frame.edge_mm)
    blend(hu, share.astype(np.float32), _FISSURE_HU)


def _paint_airways(hu: Array, frame: Frame, phantom: Phantom) -> None:
    lumen, wall_mm = dilated_airways(phantom.disease, phantom.trees)
    inside = tube_coverage(frame, lumen)
    blend(hu, np.maximum(tube_coverage(frame, lumen.widened(wall_mm)), inside), _AIRWAY_WALL_HU)
    blend(hu, inside, _LUMEN_HU)
