"""A team of processes that train together, as ``torchrun`` starts them.

A wrapper around each network averages its gradients over the team. The first process alone writes
and reports. A process that was not started by ``torchrun`` is a team of one.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Team:
    """The processes of one training."""

    rank: int = 0  # number of this process, from 0
    size: int = 1  # number of processes

    @property
    def leads(self) -> bool:
        """Whether this process is the one that writes and reports."""
        return self.rank == 0

    def wrap(self, network: torch.nn.Module) -> Any:
        """Return a network whose gradients are averaged over the team."""
        if self.size == 1:
            return network
        from torch.nn.parallel import DistributedDataParallel

        parameter = next(network.parameters())
        devices = [parameter.device] if parameter.device.type == "cuda" else None
        return DistributedDataParallel(network, device_ids=devices)

    def mean(self, value: float) -> float:
        """Return the mean of a number over the team."""
        return float(sum(self.gather(value)) / self.size)

    def gather(self, value: Any) -> list[Any]:
        """Return the values of all processes, in the order of ranks."""
        if self.size == 1:
            return [value]
        from torch import distributed

        values: list[Any] = [None] * self.size
        distributed.all_gather_object(values, value)
        return values

    def from_leader(self, value: Any) -> Any:
        """Return the value of the first process, in every process."""
        return self.gather(value)[0]


def leads() -> bool:
    """Whether this process writes and reports for its team, before the team is joined."""
    return os.environ.get("RANK", "0") == "0"


def local_device(device: torch.device) -> torch.device:
    """Return the device of this process; processes of one machine are spread over its GPUs."""
    import torch

    rank = os.environ.get("LOCAL_RANK", "")
    if device.type != "cuda" or str(device) != "cuda" or not rank.isdigit():
        return device
    return torch.device("cuda", int(rank) % max(torch.cuda.device_count(), 1))


@contextmanager
def team(device: torch.device) -> Iterator[Team]:
    """Join the processes that ``torchrun`` started; yield a team of one if it started none."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1 or "MASTER_ADDR" not in os.environ:
        yield Team()
        return
    from torch import distributed

    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Team(distributed.get_rank(), size)
    finally:
        distributed.destroy_process_group()


ALONE = Team()
"""The team of a process that works alone."""


def weights_digest(network: torch.nn.Module) -> str:
    """Return the SHA-256 of parameters; normalisation statistics may differ and are left out."""
    digest = hashlib.sha256()
    for value in network.parameters():
        digest.update(value.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()
