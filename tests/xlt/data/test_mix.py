from __future__ import annotations

from collections import Counter

import pytest

from xlt.data.mix import LoadedSource, Mix


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
