"""Communication between the processes that share a run, by `torch.distributed`; a single process needs none of it."""

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

# torch's default of minutes is too short while the leader evaluates or waits for a run's lock.
_MAX_WAIT = timedelta(days=7)


@dataclass(frozen=True)
class Processes:
    """The place of this process among those that share a run.

    Attributes:
        rank: of this process, from 0; rank 0 is the leader, which writes, reports and evaluates.
        count: number of processes.
    """

    rank: int = 0
    count: int = 1

    @classmethod
    def join(cls) -> Processes:
        """Joins the group that `torchrun` announces in the environment; without one the process is alone."""
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            return cls()
        if not dist.is_initialized():
            backend = "nccl" if torch.cuda.is_available() else "gloo"
            if backend == "nccl":
                torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
            dist.init_process_group(backend, timeout=_MAX_WAIT)
        _gloo_group()  # all processes must create it together, which they do here, before one can have failed
        return cls(dist.get_rank(), dist.get_world_size())

    @property
    def leads(self) -> bool:
        return self.rank == 0

    def share(self, rows: int) -> range:
        """Returns this process's part of a step's examples; it can be empty if there are few."""
        each = -(-rows // self.count)
        return range(min(self.rank * each, rows), min((self.rank + 1) * each, rows))

    def sum(self, value: float) -> float:
        """Returns the sum of a number over all processes."""
        if self.count == 1:
            return value
        total = torch.tensor([value], dtype=torch.float64, device=self._device())
        dist.all_reduce(total)
        return float(total.item())

    def sum_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Sums every gradient over all processes, in place; a missing gradient counts as zero."""
        if self.count == 1:
            return
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            dist.all_reduce(parameter.grad)

    def sum_tensors(self, tensors: Iterable[Tensor]) -> None:
        """Sums every tensor over all processes, in place; all processes must pass tensors of equal shapes."""
        if self.count > 1:
            for tensor in tensors:
                dist.all_reduce(tensor)

    def from_leader(self, values: T) -> T:
        """Returns in every process the value that the leader passed."""
        if self.count == 1:
            return values
        box: list[Any] = [values]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def gather(self, value: T, patience: timedelta | None = None) -> list[T]:
        """Returns the values of all processes, in the order of ranks.

        It uses a process group of its own, so that a timeout here cannot corrupt another pending collective.

        Args:
            value: of this process.
            patience: maximum time to wait for the other processes; None means seven days.
        Raises:
            RuntimeError: a process did not call this in time, or has ended.
        """
        if self.count == 1:
            return [value]
        options = dist.BarrierOptions()
        options.timeout = patience or _MAX_WAIT
        _gloo_group().barrier(options).wait()
        values: list[Any] = [None] * self.count
        dist.all_gather_object(values, value, group=_gloo_group())
        return values

    def same_weights(self, tensors: Iterable[Tensor]) -> None:
        """Copies the leader's tensors into those of every other process."""
        if self.count > 1:
            for tensor in tensors:
                dist.broadcast(tensor.data, src=0)

    def wait(self) -> None:
        """Waits until all processes have called this."""
        if self.count > 1:
            dist.barrier()

    @staticmethod
    def _device() -> str:
        return "cuda" if dist.get_backend() == "nccl" else "cpu"


@functools.cache
def _gloo_group() -> dist.ProcessGroup:
    """Returns a group of all processes with gloo, whose barrier can raise an error after a time limit."""
    return dist.new_group(backend="gloo", timeout=_MAX_WAIT)
