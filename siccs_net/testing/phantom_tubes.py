"""Branching trees and tubes: growing bronchi and vessels, and drawing them on a grid."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from siccs_net.testing.phantom_grid import Array, Frame

_STEP_MM = 0.7
_LARGEST_BLOCK = 2_000_000


@dataclass(frozen=True)
class Tubes:
    """Tubes as beads on strings: points [n, (z, y, x)] and radii [n], both in millimetres."""

    points: Array
    radius: Array

    def select(self, chosen: NDArray[np.bool_]) -> Tubes:
        """Return the chosen beads."""
        return Tubes(self.points[chosen], self.radius[chosen])

    def widened(self, extra: Array | float) -> Tubes:
        """Return the same tubes with other radii, `extra` millimetres larger."""
        return Tubes(self.points, np.asarray(self.radius + extra, np.float32))


@dataclass(frozen=True)
class Tree:
    """A tree of nodes [n, (z, y, x)] in mm. Node 0 is the root; a parent comes before its children."""

    nodes: Array
    parent: NDArray[np.intp]
    radius: Array


def join(parts: list[Tubes]) -> Tubes:
    """Put several sets of tubes together."""
    return Tubes(np.concatenate([p.points for p in parts]), np.concatenate([p.radius for p in parts]))


def polyline(points: list[tuple[float, float, float]], radius: list[float], step_mm: float = _STEP_MM) -> Tubes:
    """Return a smooth tube through the points (z, y, x in mm) with these radii (Catmull-Rom between the points)."""
    knots = np.array([(*p, r) for p, r in zip(points, radius, strict=True)])
    before, after = 2 * knots[:1] - knots[1:2], 2 * knots[-1:] - knots[-2:-1]
    padded = np.concatenate([before, knots, after])
    beads = [_spline_piece(padded[i : i + 4], step_mm) for i in range(len(knots) - 1)]
    beads.append(knots[-1:])
    path = np.concatenate(beads).astype(np.float32)
    return Tubes(path[:, :3], path[:, 3])


def _spline_piece(p: NDArray[np.float64], step_mm: float) -> NDArray[np.float64]:
    count = max(int(np.ceil(np.linalg.norm(p[2, :3] - p[1, :3]) / step_mm)), 1)
    t = (np.arange(count) / count)[:, None]
    slope_in, slope_out = (p[2] - p[0]) / 2, (p[3] - p[1]) / 2
    cubic = 2 * p[1] - 2 * p[2] + slope_in + slope_out
    square = -3 * p[1] + 3 * p[2] - 2 * slope_in - slope_out
    return np.asarray(p[1] + slope_in * t + square * t**2 + cubic * t**3)


def grow_tree(root: Array, targets: Array, *, tip_radius_mm: float, balance: float = 0.6) -> Tree:
    """Grow a tree from the root (z, y, x) through all targets [n, (z, y, x)].

    Each step adds the target that is cheapest to reach: distance to the tree plus `balance` times the path to the
    root (Cuntz et al., One rule to grow them all, PLoS Comput Biol 2010). Radii follow Murray's law upward from
    the tips, with exponent 2.7.
    """
    nodes = np.concatenate([root[None], targets]).astype(np.float32)
    parent, order = _attach(nodes, balance)
    rank = np.argsort(order)
    parent = np.where(parent < 0, -1, rank[parent])[order]
    nodes = _relax(nodes[order], parent)
    return Tree(nodes, parent, _murray(parent, tip_radius_mm))


def _attach(nodes: Array, balance: float) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    path = np.zeros(len(nodes), np.float32)
    parent = np.full(len(nodes), -1)
    length = np.linalg.norm(nodes - nodes[0], axis=1)
    cost = (1.0 + balance) * length
    cost[0] = np.inf
    candidate = np.zeros(len(nodes), np.intp)
    order = [0]
    for _ in range(len(nodes) - 1):
        new = int(np.argmin(cost))
        parent[new] = candidate[new]
        path[new] = path[parent[new]] + length[new]
        distance = np.sqrt(((nodes - nodes[new]) ** 2).sum(axis=1))
        offer = (1.0 + balance) * distance + balance * path[new]
        cheaper = (offer < cost) & (cost < np.inf)
        cost[cheaper], candidate[cheaper], length[cheaper] = offer[cheaper], new, distance[cheaper]
        cost[new] = np.inf
        order.append(new)
    return parent, np.array(order)


def _relax(nodes: Array, parent: NDArray[np.intp]) -> Array:
    """Straighten inner nodes towards their neighbours, so that branches are curves and not zigzags."""
    children = np.bincount(parent[1:], minlength=len(nodes))
    inner = children > 0
    inner[0] = False
    for _ in range(2):
        below = np.zeros_like(nodes)
        np.add.at(below, parent[1:], nodes[1:])
        goal = 0.5 * nodes[parent] + 0.5 * below / np.maximum(children, 1)[:, None]
        nodes = np.where(inner[:, None], 0.4 * nodes + 0.6 * goal, nodes).astype(np.float32)
    return nodes


def _murray(parent: NDArray[np.intp], tip_radius_mm: float, exponent: float = 2.7) -> Array:
    flow = np.zeros(len(parent))
    for node in range(len(parent) - 1, 0, -1):
        flow[node] = max(flow[node], 1.0)
        flow[parent[node]] += flow[node]
    return np.asarray(tip_radius_mm * np.maximum(flow, 1.0) ** (1.0 / exponent), np.float32)


def tubes_of(tree: Tree) -> Tubes:
    """Turn every branch of a tree into beads, tapering from its parent's end to its own."""
    child = np.arange(1, len(tree.nodes))
    start, end = tree.nodes[tree.parent[child]], tree.nodes[child]
    count = np.maximum(np.ceil(np.linalg.norm(end - start, axis=1) / _STEP_MM), 1).astype(np.intp)
    branch = np.repeat(np.arange(len(child)), count)
    t = (np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count) + 1) / count[branch]
    tip = tree.radius[child][branch]
    base = np.minimum(tree.radius[tree.parent[child]][branch], 1.3 * tip)
    points = start[branch] + (end - start)[branch] * t[:, None]
    return Tubes(points.astype(np.float32), (base + (tip - base) * t).astype(np.float32))


def tube_coverage(frame: Frame, tubes: Tubes) -> Array:
    """Return the fraction [z, y, x] of every voxel inside the tubes.

    A tube thinner than a voxel is drawn one voxel wide and as faint as its share of the voxel's area.
    """
    covered = np.zeros(frame.shape, np.float32)
    drawn = np.maximum(tubes.radius, frame.edge_mm / 2)
    reach = drawn + frame.edge_mm / 2
    near = (tubes.points[:, 0] > frame.z[0] - reach) & (tubes.points[:, 0] < frame.z[-1] + reach)
    level = np.ceil(np.log2(reach / frame.edge_mm) * 2).astype(np.intp)
    for chosen in np.unique(level[near]):
        members = np.flatnonzero(near & (level == chosen))
        _draw_beads(covered, frame, tubes, members)
    return covered


def _draw_beads(covered: Array, frame: Frame, tubes: Tubes, members: NDArray[np.intp]) -> None:
    largest = float(np.maximum(tubes.radius[members], frame.edge_mm / 2).max()) + frame.edge_mm / 2
    half = [int(np.ceil(largest / step)) for step in frame.step]
    half[0] = min(half[0], len(frame.z))
    block = int(np.prod([2 * h + 1 for h in half]))
    per_pass = max(_LARGEST_BLOCK // block, 1)
    for first in range(0, len(members), per_pass):
        chosen = members[first : first + per_pass]
        _draw_block(covered, frame, tubes.points[chosen], tubes.radius[chosen], half)


def _draw_block(covered: Array, frame: Frame, points: Array, radius: Array, half: list[int]) -> None:
    centre = np.rint((points - frame.origin) / frame.step).astype(np.intp)
    centre[:, 0] = np.clip(centre[:, 0], 0, frame.shape[0] - 1)  # a wide bead may lie outside of this slab
    flat = np.zeros((len(points), 1, 1, 1), np.intp)
    squared = np.zeros((len(points), 1, 1, 1), np.float32)
    inside = np.ones((len(points), 1, 1, 1), np.bool_)
    for axis, reach in enumerate(half):
        shape = [len(points), 1, 1, 1]
        shape[axis + 1] = 2 * reach + 1
        index = centre[:, axis, None] + np.arange(-reach, reach + 1)
        offset = index * frame.step[axis] + frame.origin[axis] - points[:, axis, None]
        flat = flat * frame.shape[axis] + index.reshape(shape)
        squared = squared + (offset**2).astype(np.float32).reshape(shape)
        inside = inside & ((index >= 0) & (index < frame.shape[axis])).reshape(shape)
    drawn = np.maximum(radius, frame.edge_mm / 2)[:, None, None, None]
    strength = np.minimum((radius[:, None, None, None] / drawn) ** 2, 1.0)
    share = np.clip((drawn - np.sqrt(squared)) / frame.edge_mm + 0.5, 0.0, 1.0) * strength
    keep = inside & (share > 0)
    np.maximum.at(covered.reshape(-1), flat[keep], share[keep])
