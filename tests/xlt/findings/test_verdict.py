"""Paired tests: a hand-worked example, and scipy's results beside written-out enumeration."""

from __future__ import annotations

import dataclasses
import itertools
import statistics
from collections.abc import Mapping, Sequence

import pytest

from xlt.findings.verdict import CLOSE, FAILS, HOLDS, TOO_FEW, UNTESTED, Trial, holm, judge, judge_counted, judge_groups

TRIAL = Trial(level=0.05, confidence=0.95, resamples=9999, enough_languages=5)


def by_language(values: Sequence[float]) -> dict[tuple[str, int], float]:
    return {(f"l{number}", 1): value for number, value in enumerate(values)}


def sign_flips(values: Sequence[float]) -> float:
    """Share of all assignments of signs whose mean is at least the one observed."""
    flipped = [
        statistics.fmean(s * abs(v) for s, v in zip(signs, values, strict=True))
        for signs in itertools.product((1, -1), repeat=len(values))
    ]
    return sum(mean >= statistics.fmean(values) - 1e-12 for mean in flipped) / len(flipped)


def regroupings(first: Sequence[float], second: Sequence[float]) -> float:
    """Share of all divisions into two groups of these sizes whose difference of means is at least the observed."""
    pool = [*first, *second]
    observed = statistics.fmean(first) - statistics.fmean(second)
    found = []
    for chosen in itertools.combinations(range(len(pool)), len(first)):
        one = [pool[place] for place in chosen]
        other = [value for place, value in enumerate(pool) if place not in chosen]
        found.append(statistics.fmean(one) - statistics.fmean(other) >= observed - 1e-12)
    return sum(found) / len(found)


def test_three_differences_worked_by_hand() -> None:
    # 1, 2 and -1: of the eight sums over signs (4 2 2 0 0 -2 -2 -4) three are at least the observed 2.
    found = judge(by_language([1.0, 2.0, -1.0]), TRIAL)
    assert found.p == 3 / 8
    assert found.mean == pytest.approx(2 / 3)
    assert (found.units, found.unit, found.word) == (3, "languages x seeds", TOO_FEW)


@pytest.mark.parametrize(
    "values",
    [[0.5, 1.5, 2.5, -0.5], [3.0, 1.0, 4.0, 1.0, 5.0], [0.0, 0.0, 1.0, -1.0, 2.0, 2.0], [-1.0, -2.0, -3.0, 0.25, -4.0]],
)
def test_the_p_value_is_that_of_all_signs_written_out(values: list[float]) -> None:
    assert judge(by_language(values), TRIAL).p == pytest.approx(sign_flips(values), abs=1e-12)


def test_two_groups_are_divided_in_every_way() -> None:
    first, second = [3.0, 4.0, 2.5], [1.0, 3.5]
    found = judge_groups(by_language(first), {("x", 1): 1.0, ("y", 1): 3.5}, TRIAL)
    assert found.p == pytest.approx(regroupings(first, second), abs=1e-12)
    assert found.mean == pytest.approx(statistics.fmean(first) - statistics.fmean(second))
    assert found.units == 5


def seeds(values: Mapping[str, float], count: int) -> dict[tuple[str, int], float]:
    """`count` seeds of each language, a little apart, whose mean is the value."""
    return {(name, seed): value + 0.01 * (seed - (count + 1) / 2) for name, value in values.items()
            for seed in range(1, count + 1)}  # fmt: skip


def test_two_groups_have_units_of_one_kind() -> None:
    # Six languages would be enough by themselves, two would not: both are counted by language, and 1 of the 28
    # divisions into six and two is as extreme. Six means among six raw values would be 1 of 924.
    first = {f"a{n}": 5.0 + n for n in range(6)}
    found = judge_groups(seeds(first, 3), seeds({"x": 0.0, "y": 1.0}, 3), TRIAL)
    assert (found.units, found.unit, found.word) == (8, "languages", HOLDS)
    assert found.p == pytest.approx(1 / 28)


def test_two_groups_of_too_few_languages_count_seeds_in_both() -> None:
    # Three and two languages cannot get below 1/10; with two seeds it is one of 210 divisions into six and four.
    found = judge_groups(seeds({"a": 5.0, "b": 6.0, "c": 7.0}, 2), seeds({"x": 0.0, "y": 1.0}, 2), TRIAL)
    assert (found.units, found.unit, found.word) == (10, "languages x seeds", HOLDS)
    assert found.p == pytest.approx(1 / 210)


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ([1.0, 2.0, 1.5, 0.5, 1.0], HOLDS),  # 1 of 32 assignments of signs
        ([-1.0, -2.0, -1.5, -0.5, -1.0], FAILS),
        ([1.0, 2.0, 1.5, 0.5], TOO_FEW),  # as clear, but four pairs cannot get below 1/16
        ([1.0, 2.0, -1.5, 0.5], TOO_FEW),
        ([1.0, -1.0, 1.5, -0.5, 0.2], CLOSE),
        ([0.0] * 6, CLOSE),
        ([5.0], TOO_FEW),
        ([], UNTESTED),
    ],
)
def test_words(values: list[float], word: str) -> None:
    assert judge(by_language(values), TRIAL).word == word


def test_too_few_is_by_the_level() -> None:
    four, five = by_language([1.0, 2.0, 1.5, 0.5]), by_language([1.0, 2.0, 1.5, 0.5, 1.0])
    assert judge(four, dataclasses.replace(TRIAL, level=0.07)).word == HOLDS
    assert judge(five, dataclasses.replace(TRIAL, level=0.03)).word == TOO_FEW


@pytest.mark.parametrize(("first", "second"), [([5.0, 6.0], [1.0, 2.0, 3.0]), ([5.0, 6.0, 7.0, 8.0, 9.0], [1.0])])
def test_two_groups_can_be_too_few(first: list[float], second: list[float]) -> None:
    # Two and three units can be divided in 10 ways; of a group of one there is no interval.
    assert judge_groups(by_language(first), by_language(second), TRIAL).word == TOO_FEW


@pytest.mark.parametrize(
    ("values", "word"),
    [([0.1, 0.2], HOLDS), ([-0.1, -0.2], FAILS), ([0.1, -0.2], CLOSE), ([0.3], HOLDS), ([], UNTESTED)],
)
def test_what_is_counted_is_compared_directly(values: list[float], word: str) -> None:
    copies = {(f"l{n}", seed): value for n, value in enumerate(values) for seed in (1, 2, 3)}
    found = judge_counted(copies, TRIAL)
    assert (found.word, found.units, found.p) == (word, len(values), None)


def test_what_is_counted_but_differs_by_seed_is_tested_by_language() -> None:
    found = judge_counted(seeds({"a": 1.0, "b": 2.0}, 3), TRIAL)
    assert (found.word, found.units, found.unit, found.p) == (TOO_FEW, 2, "languages", 1 / 4)


def test_seeds_of_a_language_are_averaged_where_there_are_enough_languages() -> None:
    differences = {(f"l{n}", seed): n + 0.1 * seed for n in range(5) for seed in (1, 2)}
    found = judge(differences, TRIAL)
    assert (found.units, found.unit) == (5, "languages")
    assert found.mean == pytest.approx(2.15)
    few = judge({key: value for key, value in differences.items() if key[0] in ("l1", "l2")}, TRIAL)
    assert (few.units, few.unit, few.p) == (4, "languages x seeds", 1 / 16)


def test_the_interval_holds_the_mean_and_widens_with_the_spread() -> None:
    def width(values: Sequence[float]) -> float:
        found = judge(by_language(values), TRIAL)
        assert found.low is not None and found.high is not None and found.mean is not None
        assert min(values) <= found.low <= found.mean <= found.high <= max(values)
        return found.high - found.low

    assert 0 < width([1.0, 1.1, 0.9, 1.0, 1.2]) < width([1.0, 4.0, -2.0, 0.0, 3.0])
    same = judge(by_language([2.0] * 5), TRIAL)
    assert (same.low, same.high) == (2.0, 2.0)


def test_the_same_numbers_give_the_same_verdict() -> None:
    values: Mapping[tuple[str, int], float] = by_language([1.0, -0.3, 0.7, 0.2, 2.0, 0.1])
    assert judge(values, TRIAL) == judge(values, TRIAL)


def test_holm_by_hand() -> None:
    # Sorted 0.01, 0.02, 0.03, 0.04: times 4, 3, 2, 1, never falling.
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []
