"""Training: one base loop with small methods to override, and the trainers that come with it."""

from siccs_net.trainers.base import Trainer
from siccs_net.trainers.nnunet import NnUNetResEncTrainer, NnUNetTrainer
from siccs_net.trainers.siccs import SiccsTrainer
from siccs_net.trainers.vahdani2026 import Vahdani2026Trainer

__all__ = ["NnUNetResEncTrainer", "NnUNetTrainer", "SiccsTrainer", "Trainer", "Vahdani2026Trainer"]
