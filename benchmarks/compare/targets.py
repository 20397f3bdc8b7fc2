"""What each stage must reach, and whether a row does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Target:
    """What a stage is in words, the least ratio of times and of memories, the most memory, and the agreement asked for.

    `mib` limits our own peak above the start; `aim` is the ratio of times that is hoped for beyond the least. `note`
    says what limits the stage and what was tried; the page shows it where the stage falls short.
    """

    what: str
    times: float | None
    agreement: str
    memory: float | None = None
    mib: float | None = None
    aim: float | None = None
    note: str = ""


EXPORTED_MASK_MIB = 184 * 366 * 512 / 2**20
TARGETS = {
    "resample_image": Target("image to 1 mm, order 3", 30, "≤ 2e-3 HU", memory=5),
    "resample_labels": Target("labels to 1 mm", 10, "but for ties and nnU-Net's holes where classes meet"),
    "export": Target(
        "4 classes to the scan's grid, mask only",
        40,
        "≥ 99.999 %",
        mib=2 * EXPORTED_MASK_MIB + 64,
        note="Gathers of the corners of mixed cells limit it: sixteen a voxel. Whole planes in a call, two threads, a "
        "box round the mixed cells and class numbers by arithmetic were added.",
    ),
    "clahe": Target(
        "CLAHE of 320×320×40",
        7,
        "≤ 1 level of 2^14",
        note="Equal to the bit, so products are taken in float64 in scikit-image's order; two threads of short numpy "
        "calls gain a tenth to two fifths, as the system places them. Larger blocks and more threads were tried.",
    ),
    "read": Target("read a .nii.gz of 40 MB, checked", 1.5, "every voxel"),
    "surface": Target("NSD and HD95, 5 classes, 160×320×400", 5, "1e-9", memory=8),
    "preprocess": Target("one CT from file to stored case at 1 mm", 15, "as image and labels", memory=4),
    "predict": Target(
        "one CT from file to mask, 2 folds, the same network",
        3,
        "≥ 99.99 %",
        memory=3,
        note="The network, which both sides share, takes most of our time; what is saved is what lies around it. The "
        "two folds run side by side, a core each. Every tile touches the lungs, so none is skipped. Narrow channels at "
        "full resolution (the last convolution and its norm) limit the network.",
    ),
    "predict_plain": Target("the same, its network in plain PyTorch modules", None, "≥ 99.99 %"),
    "loader": Target("patches read and augmented", 2.2, "distributions"),
    "forward": Target("forward pass of the paper's network, 96³", 3.5, "≤ 1e-4", aim=5),
    "forward_320x320x40": Target("the same, 320×320×40", 4.5, "≤ 1e-4", memory=2),
    "training_step": Target(
        "forward and backward, 64³",
        4.5,
        "≤ 1e-5 of the gradient's norm",
        memory=3,
        aim=8,
        note="Nine matrix products a block, two of them to compute the expansion again, which keeps the memory.",
    ),
    "training_step_channels_last": Target("the same", 2.5, "≤ 1e-5 of the gradient's norm"),
    "plan_and_preprocess": Target("`siccs_plan_and_preprocess`, Dataset501 2d", 8, "as many cases"),
    "help": Target("`siccs_train --help`", 20, "", aim=40),
}


def verdict(target: Target, row: dict[str, Any], *, agrees: bool) -> str:
    """Return "met", or what falls short and by how much."""
    short = []
    if target.times is not None and row["ratio"] < target.times:
        short.append(f"time {row['ratio']:.1f}× of {target.times:g}×")
    if target.memory is not None and memory_ratio(row) < target.memory:
        short.append(f"memory {memory_ratio(row):.1f}× of {target.memory:g}×")
    if target.mib is not None and row["ours_mib"] > target.mib:
        short.append(f"memory {row['ours_mib']:.0f} MiB, at most {target.mib:.0f}")
    if not agrees:
        short.append("agreement")
    if short:
        return "**short**: " + ", ".join(short)
    if target.times is None and target.memory is None and target.mib is None:
        return "no target"
    return "met" if target.aim is None or row["ratio"] >= target.aim else f"met (aim {target.aim:g}× not)"


def memory_ratio(row: dict[str, Any]) -> float:
    """Return how many times as much memory the peer takes; ours counts as 1 MiB at least."""
    return float(row["peer_mib"]) / max(float(row["ours_mib"]), 1.0)
