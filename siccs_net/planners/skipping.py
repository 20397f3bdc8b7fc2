"""Whether prediction may skip what lies outside the lungs: decided by where the training cases' foreground is."""

from __future__ import annotations

from typing import Literal

from siccs_net.preprocessing.lung_box import LUNG_MARGIN_MM
from siccs_net.records.fingerprint import Fingerprint
from siccs_net.records.plan import Configuration, Plan

MOST_BEYOND_MM = LUNG_MARGIN_MM / 2
"""Foreground may reach so far beyond the lungs; the rest of the margin is for another spacing and for new scans."""


def decide_skipping(fingerprint: Fingerprint) -> Literal["lung"] | None:
    """Return "lung" when lungs were found in every case and hold all labelled foreground, else None."""
    beyond = [case.beyond_lungs_mm for case in fingerprint.cases]
    inside = all(distance is not None and distance <= MOST_BEYOND_MM for distance in beyond)
    return "lung" if beyond and inside else None


def with_skipping(plan: Plan, fingerprint: Fingerprint) -> Plan:
    """Return a plan with `inference.skip_outside` decided for each configuration; null where tiles are not in HU."""
    decided = decide_skipping(fingerprint)

    def skipping(item: Configuration) -> Configuration:
        skip = decided if item.tiles_hold_hu else None
        return item.model_copy(update={"inference": item.inference.model_copy(update={"skip_outside": skip})})

    configurations = {name: skipping(item) for name, item in plan.configurations.items()}
    paths = {name: f"configurations.{name}.inference.skip_outside" for name in configurations}
    provenance = {path: origin for path, origin in plan.provenance.items() if path not in paths.values()}
    measured = {paths[name]: "measured" for name, item in configurations.items() if item.inference.skip_outside}
    return plan.model_copy(update={"configurations": configurations, "provenance": {**provenance, **measured}})
