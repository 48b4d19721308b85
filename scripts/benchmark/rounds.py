"""Times of contenders that take turns, so that a slow moment of the machine affects all of them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch


def in_turn(
    contenders: Mapping[str, Callable[[], Any]],
    rounds: int,
    *,
    warm_up: int = 1,
    device: torch.device | str = "cpu",
    clock: Callable[[], float] | None = None,
) -> dict[str, list[float]]:
    """Calls every contender once a round, in an order that rotates: A B C, B C A, C A B, ...

    Args:
        warm_up: rounds before the timed ones, for caches and lazily made state.
        device: on a GPU each call is timed until its kernels have ended.
        clock: `time.process_time` counts the seconds of the CPU, for a machine on which other programs run; None: those
            of the wall.
    Returns:
        contender -> seconds of each of the `rounds` calls.
    """
    names = list(contenders)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(warm_up + rounds):
        first = number % len(names)
        for name in (*names[first:], *names[:first]):
            seconds[name].append(seconds_of(contenders[name], device, clock))
    return {name: times[warm_up:] for name, times in seconds.items()}


def repeat(call: Callable[[], Any], repeats: int, *, warm_up: int = 0) -> list[float]:
    """Seconds of each of `repeats` calls of one function on the CPU."""
    return in_turn({"": call}, repeats, warm_up=warm_up)[""]


def seconds_of(
    call: Callable[[], Any], device: torch.device | str = "cpu", clock: Callable[[], float] | None = None
) -> float:
    """Seconds of one call."""
    clock = clock or time.perf_counter
    on_gpu = torch.device(device).type == "cuda"
    if on_gpu:
        torch.cuda.synchronize(device)
    started = clock()
    call()
    if on_gpu:
        torch.cuda.synchronize(device)
    return clock() - started


def ratios(seconds: Mapping[str, Sequence[float]], contender: str, reference: str) -> list[float]:
    """The contender's seconds divided by the reference's, round by round."""
    return [a / b for a, b in zip(seconds[contender], seconds[reference], strict=True)]


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median and quartiles (`low`, `high`)."""
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else [values[0]] * 3
    return {"median": middle, "low": low, "high": high}
