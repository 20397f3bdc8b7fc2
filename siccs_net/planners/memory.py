"""How much memory training and prediction take, in bytes, counted from a network's description.

Training holds the parameters, their gradients, the optimizer's state, what the forward pass keeps for the backward
pass (the activations) and the largest gradients that exist at one time (the workspace). The driver's context,
cuDNN's workspaces and gaps between tensors come on top and are not counted. The tests compare the activations with
what autograd saves for the networks that are built.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from siccs_net.planners.activations import forward_bytes, kept_bytes, loss_bytes, widest_bytes
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
    kept = kept_bytes(spec, patch_size, activation_bytes, checkpointing=checkpointing)
    kept += loss_bytes(spec, patch_size, activation_bytes)
    return MemoryEstimate(
        parameters=parameters,
        parameter_bytes=_parameter_bytes(parameters, activation_bytes),
        gradient_bytes=parameters * FLOAT,
        optimizer_bytes=parameters * FLOAT * OPTIMIZER_TENSORS,
        activation_bytes=batch_size * kept,
        workspace_bytes=batch_size * widest_bytes(spec, patch_size, activation_bytes),
    )


def inference_memory(spec: NetworkSpec, patch_size: Sequence[int], *, activation_bytes: int = 2) -> MemoryEstimate:
    """Return the memory of predicting one patch: the weights, the features of all levels, the largest layer at work.

    The arrays that collect a whole scan's tiles are the sliding window's and not counted.
    """
    parameters = parameter_count(spec)
    features, at_work = forward_bytes(spec, patch_size, activation_bytes)
    return MemoryEstimate(
        parameters=parameters,
        parameter_bytes=_parameter_bytes(parameters, activation_bytes),
        gradient_bytes=0,
        optimizer_bytes=0,
        activation_bytes=features,
        workspace_bytes=at_work,
    )


def _parameter_bytes(parameters: int, activation_bytes: int) -> int:
    """Weights in float32, and autocast's copy of them."""
    return parameters * (FLOAT if activation_bytes == FLOAT else FLOAT + activation_bytes)
