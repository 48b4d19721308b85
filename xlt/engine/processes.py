"""Communication between the processes that share a run, by `torch.distributed`; a single process needs none of it."""

from __future__ import annotations

import functools
import os
import socket
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from xlt.errors import UsageError
from xlt.escapes import say

T = TypeVar("T")

# torch's default of minutes is too short while the leader evaluates or waits for a run's lock.
_MAX_WAIT = timedelta(days=7)
# The processes of one run are started together, so that one which is not there soon will not come.
_MAX_WAIT_TO_MEET = timedelta(minutes=10)
_SECONDS_OF_SILENCE = 5.0
_SECONDS_BETWEEN_ATTEMPTS = 0.2
_NEEDED = ("RANK", "MASTER_ADDR", "MASTER_PORT")


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
        """Joins the group that `torchrun` announces in the environment; without one the process is alone.

        It waits at most ten minutes for the other processes. If they are not there after a few seconds, it prints a
        line that says what it waits for.

        Raises:
            UsageError: the environment announces a group but lacks what is needed to find it, or the other processes
                do not come. Both happen if a variable is left over from another command.
        """
        if os.environ.get("WORLD_SIZE", "1").strip() == "1":
            return cls()
        if not dist.is_initialized():
            rank, count = _announced_place()
            backend = "nccl" if torch.cuda.is_available() else "gloo"
            if backend == "nccl":
                torch.cuda.set_device(_number("LOCAL_RANK", torch.cuda.device_count(), default="0"))
            store = _meet(rank, count)
            dist.init_process_group(backend, store=store, rank=rank, world_size=count, timeout=_MAX_WAIT)
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


def _announced_place() -> tuple[int, int]:
    """Returns rank and number of processes as the environment announces them.

    Raises:
        UsageError: a variable is missing, or has no possible value.
    """
    count = _number("WORLD_SIZE", None)
    missing = [name for name in _NEEDED if not os.environ.get(name)]
    if missing:
        verb = "is" if len(missing) == 1 else "are"
        raise UsageError(
            f"WORLD_SIZE={count}: several processes are announced, but {', '.join(missing)} {verb} not set; start them "
            "with torchrun, or unset WORLD_SIZE to run alone"
        )
    _number("MASTER_PORT", 2**16)
    return _number("RANK", count), count


def _number(name: str, limit: int | None, default: str = "") -> int:
    """Returns the number in an environment variable.

    Args:
        name: of the variable.
        limit: the number must be below it; None: any number from 1.
        default: text to use if the variable is not set.
    Raises:
        UsageError: it is no such number.
    """
    text = os.environ.get(name, default).strip()
    low, high = (1, float("inf")) if limit is None else (0, limit - 1)
    if not text.isdecimal() or not low <= int(text) <= high:
        allowed = "from 1" if limit is None else f"from 0 to {limit - 1}"
        raise UsageError(f"{name}={text}: must be a number {allowed}; unset WORLD_SIZE to run alone")
    return int(text)


def _meet(rank: int, count: int) -> dist.Store:
    """Waits until all announced processes are there.

    Returns:
        The store through which they exchange addresses.
    Raises:
        UsageError: a process does not come in time, or the address cannot be used.
    """
    place = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    minutes = f"{round(_MAX_WAIT_TO_MEET.total_seconds() / 60, 1):g} minutes"
    others = ", ".join(str(other) for other in range(count) if other != rank)
    waits = f"process {rank} of {count} waits at most {minutes} for {others} at {place} (WORLD_SIZE={count})"
    with _said_after(_SECONDS_OF_SILENCE, f"xlt: {waits}"):
        try:
            if rank > 0 or os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
                _wait_for_server()
            store, _, _ = next(dist.rendezvous("env://", timeout=_MAX_WAIT_TO_MEET))
            # Under torchrun the store belongs to torchrun, so that being connected to it says nothing of the others.
            arrivals = dist.PrefixStore(f"xlt/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
            arrivals.set(str(rank), "here")
            arrivals.wait([str(other) for other in range(count)], _MAX_WAIT_TO_MEET)
        except (dist.DistError, OSError, ValueError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
            raise UsageError(
                f"WORLD_SIZE={count}: process {rank} did not meet {others} at {place} within {minutes} ({reason}); "
                "start all processes, or unset WORLD_SIZE if it is left over from another command"
            ) from error
    store.set_timeout(_MAX_WAIT)
    return store


def _wait_for_server() -> None:
    """Waits until somebody listens at the announced address; torch's own client reports each attempt in many lines.

    Raises:
        OSError: nobody listens there in time, or the address is unknown.
    """
    address = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    deadline = time.monotonic() + _MAX_WAIT_TO_MEET.total_seconds()
    while True:
        try:
            with socket.create_connection(address, timeout=max(deadline - time.monotonic(), 0.1)):
                return
        except OSError:
            if time.monotonic() >= deadline:
                raise
            time.sleep(_SECONDS_BETWEEN_ATTEMPTS)


@contextmanager
def _said_after(seconds: float, line: str) -> Iterator[None]:
    """Prints a line on standard error if the block takes longer than this."""
    timer = threading.Timer(seconds, lambda: say(line))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
