"""The schedule of SpIEL's replacements: when entries are replaced, and how many (thesis §7.3.1, Eq. 7.6; §E.2)."""

from __future__ import annotations

import math


def replacements(
    step: int, steps: int, interval: int, rate: float, schedule: str, entries: int, first: str = "all"
) -> int:
    """Returns k(i, t), the number of a tensor's entries that are replaced after a step.

    Thesis §7.3.1, Eq. 7.6, and Eq. E.1. Entries are replaced after every `interval` steps. The first time all are
    replaced, because they were drawn at random; Eq. E.1 does not say so (`first`). Later the share is
    xi (T - t) / T (linear) or xi / 2 (1 + cos(pi t / T)) (cosine); the number is rounded to the nearest.

    Args:
        step: t, from 1.
        steps: T, number of steps of the phase.
        interval: S, steps between replacements.
        rate: xi, the initial replacement rate, in [0, 1].
        schedule: "linear" or "cosine".
        entries: number of tuned entries of the tensor.
        first: how many are replaced the first time: "all", or as many as the "schedule" says.
    """
    if step % interval or step >= steps:
        return 0
    if step == interval and first == "all":
        return entries
    share = (steps - step) / steps if schedule == "linear" else (1 + math.cos(math.pi * step / steps)) / 2
    return round(rate * share * entries)
