"""Batches with examples of several languages."""

from __future__ import annotations

from collections import Counter

import pytest

from xlt.data.mix import LoadedSource, Sampling
from xlt.data.mixed_batches import MixedBatches


def source(name: str, language: str, count: int, upsample: int = 1, **named: str) -> LoadedSource:
    rows = [{"id": f"{name}{number}", "input_ids": [0] * (number % 7 + 1)} for number in range(count)]
    return LoadedSource(name, language, rows, upsample, named)


SOURCES = [
    source("a", "eng", 7, task="pos"),
    source("b", "fao", 5, upsample=3, task="pos"),
    source("c", "eng", 4, task="pos", domain="news"),
]


def ids(mix: MixedBatches, steps: range) -> list[list[str]]:
    return [[row["id"] for row in mix.batch(step).features] for step in steps]


@pytest.mark.parametrize("grouped", [False, True])
def test_an_epoch_has_each_example_as_often_as_it_is_upsampled_in_full_batches(grouped: bool) -> None:
    mix = MixedBatches(SOURCES, 4, seed=1, phase="p", group_by_length=grouped)
    assert mix.steps_per_epoch == 7  # 26 examples
    for epoch in range(2):
        batches = ids(mix, range(epoch * 7, (epoch + 1) * 7))
        assert [len(batch) for batch in batches] == [4] * 6 + [2]
        counts = Counter(name for batch in batches for name in batch)
        expected = {f"{s.name}{n}": s.upsample for s in SOURCES for n in range(len(s.features))}
        assert counts == expected
    assert any(len({name[0] for name in batch}) > 1 for batch in batches)


def test_each_example_of_a_batch_has_the_features_of_its_own_source() -> None:
    mix = MixedBatches(SOURCES, 4, seed=1, phase="p")
    of = {one.name: one for one in SOURCES}
    seen = set()
    for step in range(30):
        batch = mix.batch(step)
        expected = [dict(of[row["id"][0]].described) for row in batch.features]
        if len(batch.described) == 1:
            assert all(one == batch.described[0] for one in expected)
        else:
            assert [dict(one) for one in batch.described] == expected
        languages = {of[row["id"][0]].language for row in batch.features}
        assert batch.language == (languages.pop() if len(languages) == 1 else None)
        seen.add((batch.language is None, len(batch.described) == 1))
    assert (True, False) in seen and (False, False) in seen  # eng with and without a domain is one language


def test_by_size_each_example_draws_its_source_and_a_source_gives_each_example_once_before_it_repeats_one() -> None:
    sources = [source("a", "eng", 90), source("b", "fao", 10)]
    mix = MixedBatches(sources, 20, seed=1, phase="p", sampling=Sampling(0.5, None))
    drawn = [name for batch in ids(mix, range(200)) for name in batch]
    share = sum(name[0] == "a" for name in drawn) / len(drawn)
    assert abs(share - 0.75) < 0.03  # 4,000 draws: four deviations are 0.027
    for name, size in (("a", 90), ("b", 10)):
        own = [one for one in drawn if one[0] == name]
        for start in range(0, len(own) - size, size):
            assert len(set(own[start : start + size])) == size


@pytest.mark.parametrize("sampling", [None, Sampling(0.3, 8)])
@pytest.mark.parametrize("grouped", [False, True])
def test_the_batch_of_a_step_does_not_depend_on_the_steps_before(sampling: Sampling | None, grouped: bool) -> None:
    def mix() -> MixedBatches:
        return MixedBatches(SOURCES, 3, seed=4, phase="p", sampling=sampling, group_by_length=grouped)

    whole = ids(mix(), range(170))
    for step in (169, 120, 49, 50, 0):
        assert ids(mix(), range(step, step + 1)) == [whole[step]]
    back_and_forth = mix()
    for step in (160, 3, 101, 51, 99):
        assert ids(back_and_forth, range(step, step + 1)) == [whole[step]]
    other = MixedBatches(SOURCES, 3, seed=5, phase="p", sampling=sampling, group_by_length=grouped)
    assert ids(other, range(170)) != whole


@pytest.mark.parametrize("sampling", [None, Sampling(1.0, None)])
def test_grouped_by_length_a_batch_has_examples_of_similar_length(sampling: Sampling | None) -> None:
    def spread(grouped: bool) -> float:
        mix = MixedBatches(SOURCES, 3, seed=4, phase="p", sampling=sampling, group_by_length=grouped)
        lengths = [[len(row["input_ids"]) for row in mix.batch(step).features] for step in range(50)]
        return sum(max(one) - min(one) for one in lengths)

    assert spread(True) < 0.5 * spread(False)
