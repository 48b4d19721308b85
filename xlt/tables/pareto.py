"""The settings of a search that no other setting beats: those that remain if columns must not be traded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

LOWER_IS_BETTER = ("loss", "perplexity")
"""Metrics of which a lower value is better."""


def pareto_set(scores: Mapping[str, Sequence[float]], *, greater_is_better: bool = True) -> list[str]:
    """Returns the names that are not dominated, in their order.

    One dominates another if it is at least as good in every column and better in one. Of equal ones all remain.

    Args:
        scores: name -> a score for each column, as many for each name.
        greater_is_better: whether greater scores are better.
    """
    sign = 1.0 if greater_is_better else -1.0
    signed = {name: [sign * score for score in row] for name, row in scores.items()}
    return [name for name, row in signed.items() if not any(_dominates(other, row) for other in signed.values())]


def _dominates(one: Sequence[float], other: Sequence[float]) -> bool:
    pairs = list(zip(one, other, strict=True))
    return all(mine >= its for mine, its in pairs) and any(mine > its for mine, its in pairs)
