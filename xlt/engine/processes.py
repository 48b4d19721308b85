"""One process or several: what the loop needs of `torch.distributed`, and nothing where it is not there."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")

_LONGEST_WAIT = timedelta(days=7)  # torch's minutes are too few where the leader evaluates, or waits for a run's lock


@dataclass(frozen=True)
class Processes:
    """This process among those that share a run.

    Attributes:
        rank: of this process, from 0; rank 0 writes, reports and evaluates.
        count: how many there are.
    """

    rank: int = 0
    count: int = 1

    @classmethod
    def join(cls) -> Processes:
        """Joins the group that `torchrun` announces in the environment; alone where there is none."""
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            return cls()
        if not dist.is_initialized():
            backend = "nccl" if torch.cuda.is_available() else "gloo"
            if backend == "nccl":
                torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
            dist.init_process_group(backend, timeout=_LONGEST_WAIT)
        _meeting()  # made by all at once, while none of them can have failed
        return cls(dist.get_rank(), dist.get_world_size())

    @property
    def leads(self) -> bool:
        return self.rank == 0

    def share(self, rows: int) -> range:
        """This process's part of a step's examples; may be empty where there are few."""
        each = -(-rows // self.count)
        return range(min(self.rank * each, rows), min((self.rank + 1) * each, rows))

    def sum(self, value: float) -> float:
        """The sum of a number over all processes."""
        if self.count == 1:
            return value
        total = torch.tensor([value], dtype=torch.float64, device=self._device())
        dist.all_reduce(total)
        return float(total.item())

    def sum_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Adds every gradient over all processes; one that a process lacks counts as zero."""
        if self.count == 1:
            return
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            dist.all_reduce(parameter.grad)

    def sum_tensors(self, tensors: Iterable[Tensor]) -> None:
        """Adds every tensor over all processes, in place; all processes must have the same ones."""
        if self.count > 1:
            for tensor in tensors:
                dist.all_reduce(tensor)

    def from_leader(self, values: T) -> T:
        """The leader's numbers, tensors or other values, in every process."""
        if self.count == 1:
            return values
        box: list[Any] = [values]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def gather(self, value: T, patience: timedelta | None = None) -> list[T]:
        """Every process's value, by rank.

        Apart from the other exchanges: one that meets nobody here spoils none in which the others wait.

        Args:
            patience: how long the others are waited for; None: as long as they take.
        Raises:
            RuntimeError: one did not come in that time, or has ended.
        """
        if self.count == 1:
            return [value]
        options = dist.BarrierOptions()
        options.timeout = patience or _LONGEST_WAIT
        _meeting().barrier(options).wait()
        found: list[Any] = [None] * self.count
        dist.all_gather_object(found, value, group=_meeting())
        return found

    def same_weights(self, tensors: Iterable[Tensor]) -> None:
        """Copies the leader's tensors into those of every process."""
        if self.count > 1:
            for tensor in tensors:
                dist.broadcast(tensor.data, src=0)

    def wait(self) -> None:
        if self.count > 1:
            dist.barrier()

    @staticmethod
    def _device() -> str:
        return "cuda" if dist.get_backend() == "nccl" else "cpu"


@functools.cache
def _meeting() -> dist.ProcessGroup:
    """All processes, joined by gloo: of the backends the one that can give up waiting."""
    return dist.new_group(backend="gloo", timeout=_LONGEST_WAIT)
