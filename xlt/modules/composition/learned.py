"""The weighted sum of modules whose weights are found on a few labelled examples, without gradients: LoraHub."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from xlt.config.schema import optional
from xlt.modules.composition.expression import LINEAR, Operation, OperatorConfig

_DIGITS = 4  # of weights, which are written into records
_AT_RANDOM = 4  # every fourth of the weights that are tried


@dataclass
class LearnedConfig(OperatorConfig):
    """Schema of the operator `learned`.

    The defaults are those of LoraHub (Huang et al., 2024): 40 steps, weights of at most 1.5, and a penalty of 0.05.
    """

    takes = LINEAR

    operator: str = "learned"
    tries: int = optional("how many weights are tried in each search", 40, low=1)
    bound: float = optional("largest weight, and largest size of a negative one", 1.5, above=0)
    penalty: float = optional("added to the loss: this times the mean size of the weights", 0.05, low=0)
    seed: int = optional("seed of the weights that are drawn at random", 0, low=0)


SCHEMA = LearnedConfig


@dataclass(frozen=True)
class FoundWeights:
    """The result of a search.

    Attributes:
        weights: one for each module.
        loss: with these weights, with the penalty.
        tried: how many weights were tried.
    """

    weights: list[float]
    loss: float
    tried: int


class _Enough(Exception):
    """All tries are used."""


def learn(
    loss: Callable[[Sequence[float]], float],
    count: int,
    averages: bool,
    tries: int,
    bound: float,
    penalty: float,
    random: Callable[..., torch.Generator],
) -> FoundWeights:
    """Searches for the weights with the least loss.

    First the sum, the mean and each module alone are tried, so that the result is none worse than these on the data of
    the search; then weights at random; then Nelder and Mead's method searches around the best of them. LoraHub has a
    composite of other gradient-free methods in its place, and begins with weights of zero.

    Args:
        loss: of the model with these weights, without the penalty; it is called once for each weights.
        count: of modules.
        averages: whether the weights must add up to 1, as those of adapters.
        tries: most calls of `loss`.
        bound: largest size of a weight; with `averages`, before all are moved by the same amount to add up to 1.
        penalty: times the mean size of the weights; it is added to the loss.
        random: returns the generator of a named stream.
    Returns:
        The weights, rounded to four digits after the point. Of equal losses the first counts.
    Raises:
        ValueError: no loss is a number.
    """
    from scipy.optimize import minimize  # not imported by those who only read the schema

    found: dict[tuple[float, ...], float] = {}

    def objective(weights: Sequence[float]) -> float:
        moved = (1 - sum(weights)) / count if averages else 0.0
        own = tuple(round(float(weight) + moved, _DIGITS) + 0.0 for weight in weights)
        if not any(own):
            return math.inf  # nothing would be left
        if own not in found:
            if len(found) >= tries:
                raise _Enough
            value = loss(own) + penalty * sum(map(abs, own)) / count
            found[own] = value if math.isfinite(value) else math.inf
        return found[own]

    try:
        for weights in itertools.chain(_first(count, bound), _drawn(count, bound, tries // _AT_RANDOM, random)):
            objective(weights)
        begin = min(found, key=lambda one: found[one])
        simplex = [list(begin)]
        for number, weight in enumerate(begin):
            step = bound / 2 if weight + bound / 2 <= bound else -bound / 2
            simplex.append([other + step * (at == number) for at, other in enumerate(begin)])
        minimize(
            objective,
            begin,
            method="Nelder-Mead",
            bounds=None if averages else [(-bound, bound)] * count,
            options={"initial_simplex": simplex, "maxfev": 10 * tries, "xatol": 1e-3, "fatol": 1e-4},
        )
    except _Enough:
        pass
    best = min(found, key=lambda one: found[one])
    if math.isinf(found[best]):
        raise ValueError(f"none of {len(found)} weights has a loss that is a number")
    return FoundWeights(list(best), found[best], len(found))


def resolved(operation: Operation, weights: Sequence[float]) -> Operation:
    """Returns the operation that stands for a learned one whose weights are found: their sum."""
    return Operation("sum", operation.parts, {"weights": list(weights)})


def _first(count: int, bound: float) -> Iterator[list[float]]:
    one = min(1.0, bound)
    yield [one] * count
    yield [one / count] * count
    yield from ([one * (at == number) for at in range(count)] for number in range(count))


def _drawn(count: int, bound: float, many: int, random: Callable[..., torch.Generator]) -> Iterator[list[float]]:
    generator = random("learned")
    for _ in range(many):
        drawn: list[float] = (torch.rand(count, generator=generator, dtype=torch.float64) * 2 - 1).tolist()
        yield [bound * one for one in drawn]
