"""Contenders that take turns."""

from __future__ import annotations

import itertools
from functools import partial

import pytest
from benchmark import rounds
from benchmark.rounds import in_turn, ratios, repeat, spread


def test_the_order_rotates_and_warm_up_rounds_are_not_timed() -> None:
    calls: list[str] = []
    contenders = {name: partial(calls.append, name) for name in "abc"}
    seconds = in_turn(contenders, 3, warm_up=1)
    assert "".join(calls) == "abc" + "bca" + "cab" + "abc"
    assert {name: len(times) for name, times in seconds.items()} == {"a": 3, "b": 3, "c": 3}


def test_seconds_are_those_between_a_call_and_its_return(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.accumulate(itertools.cycle([0.0, 0.5]))
    monkeypatch.setattr(rounds.time, "perf_counter", lambda: next(clock))
    assert in_turn({"a": lambda: None, "b": lambda: None}, 2, warm_up=0) == {"a": [0.5, 0.5], "b": [0.5, 0.5]}
    assert repeat(lambda: None, 3, warm_up=2) == [0.5] * 3


def test_ratios_are_taken_within_a_round() -> None:
    assert ratios({"a": [1.0, 8.0], "b": [2.0, 4.0]}, "a", "b") == [0.5, 2.0]


def test_spread_is_the_median_between_the_quartiles() -> None:
    assert spread([1.0, 2.0, 3.0, 4.0, 10.0]) == {"median": 3.0, "low": 2.0, "high": 4.0}
    assert spread([2.0]) == {"median": 2.0, "low": 2.0, "high": 2.0}
