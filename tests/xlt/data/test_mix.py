from __future__ import annotations

from collections import Counter

import pytest

from xlt.data.mix import LoadedSource, Mix, Sampling


def source(name: str, language: str, count: int, upsample: int = 1) -> LoadedSource:
    return LoadedSource(name, language, [{"id": f"{name}{number}"} for number in range(count)], upsample)


def epoch(mix: Mix, number: int = 0) -> list[tuple[str, tuple[str, ...]]]:
    steps = range(number * mix.steps_per_epoch, (number + 1) * mix.steps_per_epoch)
    return [(b.language, tuple(f["id"] for f in b.features)) for b in map(mix.batch, steps)]


@pytest.fixture
def mix() -> Mix:
    sources = [source("a", "eng", 7), source("b", "fao", 5, upsample=3), source("c", "eng", 4)]
    return Mix(sources, 4, seed=1, phase="dense")


def test_every_batch_is_of_one_source_and_its_language(mix: Mix) -> None:
    of = {"a": "eng", "b": "fao", "c": "eng"}
    for language, ids in epoch(mix):
        assert len({name[0] for name in ids}) == 1
        assert language == of[ids[0][0]]
    assert mix.languages == ["eng", "fao"]


def test_an_epoch_has_each_example_exactly_as_often_as_it_is_upsampled(mix: Mix) -> None:
    for number in range(3):
        counts = Counter(name for _, ids in epoch(mix, number) for name in ids)
        assert counts == {
            **{f"a{n}": 1 for n in range(7)},
            **{f"b{n}": 3 for n in range(5)},
            **{f"c{n}": 1 for n in range(4)},
        }


def test_batches_are_full_but_the_last_of_each_source(mix: Mix) -> None:
    sizes: dict[str, list[int]] = {}
    for _, ids in epoch(mix):
        sizes.setdefault(ids[0][0], []).append(len(ids))
    assert {name: sorted(found) for name, found in sizes.items()} == {"a": [3, 4], "b": [3, 4, 4, 4], "c": [4]}
    assert mix.steps_per_epoch == 7


def test_batches_of_the_sources_are_shuffled_together(mix: Mix) -> None:
    orders = [[ids[0][0] for _, ids in epoch(mix, number)] for number in range(5)]
    assert len({tuple(order) for order in orders}) == 5
    assert any(order != sorted(order) for order in orders)


def test_the_order_is_a_function_of_seed_phase_and_epoch(mix: Mix) -> None:
    again = Mix(mix.sources, 4, seed=1, phase="dense")
    assert [epoch(mix, number) for number in (0, 1)] == [epoch(again, number) for number in (0, 1)]
    assert epoch(mix, 0) != epoch(mix, 1)
    assert epoch(mix) != epoch(Mix(mix.sources, 4, seed=2, phase="dense"))
    assert epoch(mix) != epoch(Mix(mix.sources, 4, seed=1, phase="sparse"))


def test_any_step_can_be_asked_for_without_those_before_it(mix: Mix) -> None:
    whole = [batch for number in range(3) for batch in epoch(mix, number)]
    for step in (20, 3, 11, 0, 13):
        batch = Mix(mix.sources, 4, seed=1, phase="dense").batch(step)
        assert (batch.language, tuple(f["id"] for f in batch.features)) == whole[step]


def test_a_sources_order_does_not_depend_on_the_other_sources(mix: Mix) -> None:
    def order_of_a(other: Mix) -> set[tuple[str, ...]]:
        return {ids for _, ids in epoch(other) if ids[0][0] == "a"}

    alone = Mix([mix.sources[0]], 4, seed=1, phase="dense")
    assert order_of_a(alone) == order_of_a(mix)


def test_drawn_by_size_sources_come_as_often_as_the_smoothed_sizes_say() -> None:
    # min(n, 9) ** 0.5 = 1, 2, 3: a sixth, a third and a half of the steps (thesis §3.4.3).
    sources = [source("a", "eng", 1), source("b", "fao", 4), source("c", "deu", 900)]
    mix = Mix(sources, 4, seed=1, phase="p", sampling=Sampling(0.5, 9))
    steps = 6000
    drawn = Counter(mix.batch(step).language for step in range(steps))
    for language, share in (("eng", 1 / 6), ("fao", 1 / 3), ("deu", 1 / 2)):
        # Four standard deviations of a binomial share.
        assert abs(drawn[language] / steps - share) < 4 * (share * (1 - share) / steps) ** 0.5


def test_drawn_by_size_a_source_still_shows_all_its_examples_before_any_again() -> None:
    mix = Mix([source("a", "eng", 10), source("b", "fao", 3)], 4, seed=1, phase="p", sampling=Sampling(1.0, None))
    seen = [f["id"] for step in range(60) for f in mix.batch(step).features if f["id"].startswith("a")]
    for at in range(0, len(seen) - 10, 10):
        assert len(set(seen[at : at + 10])) == 10


def test_drawn_by_size_any_step_can_be_asked_for_without_those_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xlt.data.mix._BLOCK", 8)

    def made() -> Mix:
        sources = [source("a", "eng", 10), source("b", "fao", 3, upsample=2)]
        return Mix(sources, 4, seed=1, phase="p", sampling=Sampling(0.3, None))

    mix = made()
    whole = [[f["id"] for f in mix.batch(step).features] for step in range(30)]
    assert len({tuple(ids) for ids in whole}) > 8
    for step in (29, 3, 17, 8, 0, 16):
        assert [f["id"] for f in made().batch(step).features] == whole[step]
