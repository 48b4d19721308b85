"""The search for the weights of a sum: it finds the least loss, the same one for the same seed."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import pytest

from xlt.data.streams import stream
from xlt.modules.composition.expression import Operation, operation, searches, with_weights
from xlt.modules.composition.learned import FoundWeights, learn

BEST = (0.7, -0.4)


class Bowl:
    """A loss that is least at `BEST`; it counts its calls."""

    def __init__(self) -> None:
        self.calls: list[tuple[float, ...]] = []

    def __call__(self, weights: Sequence[float]) -> float:
        self.calls.append(tuple(weights))
        return sum((one - best) ** 2 for one, best in zip(weights, BEST, strict=True)) + 0.3 * weights[0] * weights[1]


def search(loss: Bowl, *, averages: bool = False, seed: int = 0, **changes: float) -> FoundWeights:
    settings = {"tries": 60, "bound": 1.5, "penalty": 0.0} | changes
    return learn(loss, 2, averages, random=functools.partial(stream, seed), **settings)  # type: ignore[arg-type]


def test_the_least_loss_is_found_within_the_tries_and_again_for_the_seed() -> None:
    bowl = Bowl()
    found = search(bowl)
    assert found.weights == pytest.approx([0.7775, -0.5166], abs=0.02)  # where both derivatives are 0
    assert found.loss == min(map(Bowl(), bowl.calls))
    assert found.tried == len(bowl.calls) == len(set(bowl.calls)) <= 60
    again, other = Bowl(), Bowl()
    assert search(again) == found and again.calls == bowl.calls
    search(other, seed=1)
    assert other.calls[:4] == bowl.calls[:4] and other.calls[4] != bowl.calls[4]


def test_the_sum_the_mean_and_each_module_alone_are_tried_first() -> None:
    bowl = Bowl()
    assert search(bowl, tries=4).tried == 4
    assert bowl.calls == [(1, 1), (0.5, 0.5), (1, 0), (0, 1)]
    assert search(Bowl(), tries=1).weights == [1, 1]


def test_weights_stay_within_the_bound_and_the_penalty_makes_them_smaller() -> None:
    narrow = Bowl()
    assert search(narrow, bound=0.25).weights == pytest.approx([0.25, -0.25], abs=0.02)
    assert all(abs(weight) <= 0.25 for weights in narrow.calls for weight in weights)
    free, pressed = search(Bowl()), search(Bowl(), penalty=0.6)
    assert sum(map(abs, pressed.weights)) < sum(map(abs, free.weights)) - 0.2
    weights = pressed.weights
    assert pressed.loss == pytest.approx(Bowl()(weights) + 0.6 * sum(map(abs, weights)) / 2)


def test_weights_of_adapters_add_up_to_one() -> None:
    bowl = Bowl()
    found = search(bowl, averages=True)
    assert all(sum(weights) == pytest.approx(1, abs=2e-4) for weights in bowl.calls)
    losses = {step / 1000: Bowl()((step / 1000, 1 - step / 1000)) for step in range(-2000, 3000)}
    assert found.weights[0] == pytest.approx(min(losses, key=lambda one: losses[one]), abs=0.03)


def test_no_loss_that_is_a_number_is_an_error_and_some_without_are_passed_over() -> None:
    with pytest.raises(ValueError, match="none of 40 weights has a loss that is a number"):
        learn(lambda _: math.nan, 2, False, 40, 1.5, 0.0, functools.partial(stream, 0))
    found = learn(lambda weights: math.nan if weights[0] > 0.4 else -weights[0], 2, False, 40, 1.5, 0.0,
                  functools.partial(stream, 0))  # fmt: skip
    assert 0.2 < found.weights[0] <= 0.4


def test_found_weights_are_those_of_a_sum_wherever_the_operation_stands() -> None:
    learned = {"operator": "learned", "of": ["language", "task"]}
    whole = operation({"operator": "ties", "of": [learned, "x"], "density": 0.5}, "x")
    assert str(whole) == "ties(learned(language, task), x; density=0.5)"
    assert [str(one) for one in searches(whole)] == ["learned(language, task)"]
    known = with_weights(whole, [1.0, 0.25])
    assert isinstance(known, Operation) and searches(known) == []
    assert str(known) == "ties(sum(language, task; weights=[1.0, 0.25]), x; density=0.5)"
