"""Says whether a run with debug=overfit has learned its batch by heart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

OVERFIT = "overfit"
_LAST_STEPS = 5
_SHARE = 0.05


def learned_line(records: Sequence[Mapping[str, Any]]) -> str:
    """Returns a line for the user about the last phase of a run.

    A batch counts as learned if the mean loss of the last five steps is at most 5% of the first step's.

    Args:
        records: of `metrics.jsonl`.
    """
    phase = records[-1]["phase"] if records else None
    losses = [one["loss"] for one in records if one["phase"] == phase and one.get("loss") is not None]
    if len(losses) < 2:
        return "debug=overfit: there are no losses of two steps, so nothing can be said"
    first, last = losses[0], sum(losses[-_LAST_STEPS:]) / len(losses[-_LAST_STEPS:])
    numbers = f"loss {first:.4g} -> {last:.4g} in {len(losses)} steps"
    if last <= _SHARE * first:
        return f"debug=overfit: the batch is learned by heart: {numbers}"
    return (
        f"debug=overfit: the batch is NOT learned by heart: {numbers}, which is {last / first:.0%} of the first, "
        f"and not {_SHARE:.0%} or less: a rate that is far off (train.learning_rate), too few trained weights or steps "
        "(train.max_steps), or a fault in data, model or method"
    )
