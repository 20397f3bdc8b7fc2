"""The default trainer of self-configured plans."""

from __future__ import annotations

from siccs_net.trainers.base import Trainer


class SiccsTrainer(Trainer):
    """Deep supervision, cross-entropy and Dice, AdamW with AMSGrad, cosine with warm-up: the base's defaults.

    Chosen by learning in equal minutes on 2 cores (docs/decisions/0015-default-training.md).
    """
