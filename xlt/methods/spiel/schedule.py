"""How many entries are replaced, and when (thesis §7.3.1, Eq. 7.6; §E.2, Eq. E.1)."""

from __future__ import annotations

import math


def replacements(step: int, steps: int, interval: int, rate: float, schedule: str, entries: int) -> int:
    """k(i, t): how many of a tensor's entries are replaced after a step.

    Entries are replaced after every `interval` steps. The first time all are, under either schedule: they were drawn at
    random. Then xi (T - t) / T of them (linear) or xi / 2 (1 + cos(pi t / T)) (cosine), rounded to nearest.

    Args:
        step: t, from 1.
        steps: T, of the phase.
        interval: S.
        rate: xi, the initial replacement rate, in [0, 1].
        schedule: "linear" or "cosine".
        entries: tuned entries of the tensor.
    """
    if step % interval or step >= steps:
        return 0
    if step == interval:
        return entries
    share = (steps - step) / steps if schedule == "linear" else (1 + math.cos(math.pi * step / steps)) / 2
    return round(rate * share * entries)
