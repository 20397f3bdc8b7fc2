"""How much memory training and prediction take, in bytes, counted from a network's description.

Training holds the parameters, their gradients, the optimizer's state, what the forward pass keeps for the backward
pass (the activations) and the largest gradients that exist at one time (the workspace). The driver's context,
cuDNN's workspaces and gaps between tensors come on top and are not counted. The tests compare the activations with
what autograd saves for the networks that are built.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from siccs_net.planners.activations import kept_bytes, loss_bytes, widest_bytes
from siccs_net.planners.parameters import parameter_count
from siccs_net.records.network import NetworkSpec

FLOAT = 4
# AdamW keeps a mean and a mean square a parameter; AMSGrad keeps the largest mean square too.
OPTIMIZER_TENSORS = 3


@dataclass(frozen=True)
class MemoryEstimate:
    """Expected memory by what takes it; all but `parameters` (a count) in bytes."""

    parameters: int
    parameter_bytes: int
    gradient_bytes: int
    optimizer_bytes: int
    activation_bytes: int
    workspace_bytes: int

    @property
    def total_bytes(self) -> int:
        """The sum of all parts."""
        fixed = self.parameter_bytes + self.gradient_bytes + self.optimizer_bytes
        return fixed + self.activation_bytes + self.workspace_bytes


def training_memory(
    spec: NetworkSpec, patch_size: Sequence[int], batch_size: int, *, activation_bytes: int, checkpointing: bool
) -> MemoryEstimate:
    """Return the memory of one training step with AdamW and AMSGrad.

    `activation_bytes` is the size of one activation: 2 under bfloat16 or float16 autocast (which also keeps a copy
    of the weights in that type), 4 in float32. With `checkpointing` a block keeps its input alone and is computed
    again in the backward pass, one block at a time.
    """
    parameters = parameter_count(spec)
    copies = parameters * activation_bytes if activation_bytes < FLOAT else 0
    kept = kept_bytes(spec, patch_size, activation_bytes, checkpointing=checkpointing)
    kept += loss_bytes(spec, patch_size, activation_bytes)
    return MemoryEstimate(
        parameters=parameters,
        parameter_bytes=parameters * FLOAT + copies,
        gradient_bytes=parameters * FLOAT,
        optimizer_bytes=parameters * FLOAT * OPTIMIZER_TENSORS,
        activation_bytes=batch_size * kept,
        workspace_bytes=batch_size * widest_bytes(spec, patch_size, activation_bytes),
    )
