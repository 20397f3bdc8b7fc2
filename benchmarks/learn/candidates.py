"""The candidates: one way each to train a self-configured plan, and why it was worth a test."""

from __future__ import annotations

from dataclasses import dataclass

NNUNET = "nnunet"


@dataclass(frozen=True)
class Candidate:
    """A plan's settings and a training's, as after `--set`, and the trainer's name (None: the plan's)."""

    name: str
    why: str
    plan: tuple[str, ...] = ()
    training: tuple[str, ...] = ()
    trainer: str | None = None


CANDIDATES = {
    one.name: one
    for one in (
        Candidate(NNUNET, "the peer: nnU-Net 2.8.1's own plan and trainer, its schedule stretched over the budget"),
        Candidate("default", "what siccs_plan_and_preprocess and siccs_train do when nobody says anything"),
        Candidate(
            "ema",
            "an average of the weights over about 100 steps is smoother than the last ones",
            training=("ema_decay=0.99",),
        ),
        Candidate(
            "half_resolution",
            "four times as many images a minute; lesions are large beside a voxel",
            plan=("spacing_mm=[1,2,2]",),
        ),
        Candidate(
            "half_resolution_ema",
            "both of them, and a rate that goes further in few steps",
            plan=("spacing_mm=[1,2,2]",),
            training=("ema_decay=0.99", "learning_rate=4e-3"),
        ),
        Candidate("rate_4e-3", "in few steps a higher rate goes further", training=("learning_rate=4e-3",)),
        Candidate("rate_1e-3", "a lower rate is steadier", training=("learning_rate=1e-3",)),
        Candidate("plain_adamw", "AMSGrad never lets a step grow again", training=("amsgrad=false",)),
        Candidate(
            "more_augmentation",
            "few cases: every image is seen dozens of times",
            training=(
                "augmentation.rotation_probability=0.5",
                "augmentation.scaling_probability=0.5",
                "augmentation.scale=[0.6,1.6]",
            ),
        ),
    )
}
