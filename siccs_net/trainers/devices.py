"""One training on several devices: a process each, started by torchrun or by `siccs_train --num-gpus`.

Each process makes and learns from its part of every batch; gradients are averaged, so all have the same weights. The
first process writes and reports. Without such processes everything here does nothing.
"""

from __future__ import annotations

import contextlib
import datetime
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from siccs_net.errors import EnvironmentProblem, UsageError
from siccs_net.networks.numerics import choose_device

# While the first process validates whole scans the others wait; one that dies ends them all, whatever the limit.
_PATIENCE = datetime.timedelta(days=7)


@dataclass(frozen=True)
class Devices:
    """This process's place among those of a training."""

    number: int = 0
    count: int = 1
    control: Any = None

    @property
    def leads(self) -> bool:
        """Whether this process writes and reports."""
        return self.number == 0

    def share(self, batch_size: int) -> range:
        """Return the numbers of a batch's samples that are this process's."""
        part = batch_size // self.count
        return range(self.number * part, (self.number + 1) * part)

    def wait(self) -> None:
        """Wait until all processes are here."""
        if self.count > 1:
            distributed.barrier(group=self.control)

    def gather(self, value: Any) -> list[Any]:
        """Return every process's value, in order."""
        found: list[Any] = [value]
        if self.count > 1:
            found = [None] * self.count
            distributed.all_gather_object(found, value, group=self.control)
        return found

    def largest(self, number: int) -> int:
        """Return the largest of all processes' numbers: for decisions that all must take alike."""
        if self.count == 1:
            return number
        told = torch.tensor([number])
        distributed.all_reduce(told, distributed.ReduceOp.MAX, group=self.control)
        return int(told)

    def mean(self, values: Mapping[str, float | torch.Tensor]) -> dict[str, float]:
        """Return the mean of each value over all processes."""
        every = self.gather({name: float(value) for name, value in values.items()})
        return {name: sum(one[name] for one in every) / self.count for name in every[0]}

    def spread(self, network: nn.Module, *, unused: bool) -> nn.Module:
        """Return the network as all processes train it together; `unused` when some weights get no gradient."""
        if self.count == 1:
            return network
        device = next(network.parameters()).device
        if device.type == "cuda":
            network = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
        return DistributedDataParallel(
            network,
            device_ids=[device] if device.type == "cuda" else None,
            find_unused_parameters=unused,
        )


def started_processes() -> int:
    """Return how many processes share this training, from what torchrun puts into the environment."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def process_number() -> int:
    """Return this process's number among them."""
    return int(os.environ.get("RANK", "0"))


def this_process() -> Devices:
    """Return this process's place; that of a training on one device unless `joined` is entered."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return Devices()
    return Devices(distributed.get_rank(), distributed.get_world_size(), _GROUPS[-1])


_GROUPS: list[Any] = []


@contextlib.contextmanager
def joined(device: str) -> Iterator[str]:
    """Join the processes of a training on several devices, and yield the name of this process's device.

    They talk by gloo on a CPU and by nccl between GPUs. Raises UsageError for a device that cannot be shared,
    EnvironmentProblem when there are fewer GPUs than processes or they cannot meet.
    """
    if started_processes() == 1:
        yield device
        return
    mine = _own_device(device, int(os.environ.get("LOCAL_RANK", "0")))
    on_gpu = mine.startswith("cuda")
    if on_gpu:
        torch.cuda.set_device(mine)
    try:
        distributed.init_process_group("nccl" if on_gpu else "gloo", timeout=_PATIENCE)
        _GROUPS.append(distributed.new_group(backend="gloo", timeout=_PATIENCE) if on_gpu else None)
    except (RuntimeError, ValueError) as error:
        raise EnvironmentProblem(
            "the processes of this training cannot meet", found=str(error).splitlines()[0], hint="See siccs_doctor"
        ) from error
    try:
        yield mine
    finally:
        _GROUPS.pop()
        distributed.destroy_process_group()


def _own_device(device: str, number: int) -> str:
    chosen = choose_device(device)
    if chosen.type == "cpu":
        return "cpu"
    if chosen.type == "mps" or chosen.index is not None:
        raise UsageError(
            f"{device!r} is one device, which several processes cannot share", expected="cpu, cuda or auto"
        )
    there = torch.cuda.device_count()
    if number >= there:
        raise EnvironmentProblem(
            "there are fewer GPUs than processes", found=f"{there} GPUs", hint=f"Use --num-gpus {there}"
        )
    return f"cuda:{number}"


def without_sync(network: nn.Module, part: int, parts: int) -> contextlib.AbstractContextManager[None]:
    """Return the context of one part of a batch: gradients are averaged over the devices after the last one only."""
    if isinstance(network, DistributedDataParallel) and part + 1 < parts:
        return network.no_sync()
    return contextlib.nullcontext()
