from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch

from xlt.data.feature_cache import cached
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


def _of_lengths(name: str, lengths: list[int], upsample: int = 1) -> LoadedSource:
    rows = [{"id": f"{name}{number}", "input_ids": [0] * length} for number, length in enumerate(lengths)]
    return LoadedSource(name, "eng", rows, upsample)


def _drawn_lengths(count: int) -> list[int]:
    return torch.randint(1, 100, (count,), generator=torch.Generator().manual_seed(0)).tolist()


@pytest.mark.parametrize("sampling", [None, Sampling(0.5, None)])
def test_grouped_by_length_every_example_still_comes_once_an_epoch(sampling: Sampling | None) -> None:
    mix = Mix([_of_lengths("a", _drawn_lengths(451), 2)], 4, 1, "p", sampling, group_by_length=True)
    for number in range(2):
        found = epoch(mix, number)
        assert Counter(name for _, ids in found for name in ids) == {f"a{n}": 2 for n in range(451)}
        sizes = [len(ids) for _, ids in found]
        assert sorted(sizes) == [2] + [4] * 225
    assert epoch(mix, 0) != epoch(mix, 1)


def test_grouped_by_length_a_batch_is_of_neighbours_among_fifty() -> None:
    """Batches of four of 200 examples of lengths 0 to 199, each once: 0-3, 4-7, ..., in an order that is drawn."""
    mix = Mix([_of_lengths("a", list(range(200)))], 4, 1, "p", group_by_length=True)
    found = [sorted(int(name[1:]) for name in ids) for _, ids in epoch(mix)]
    assert sorted(found) == [list(range(at, at + 4)) for at in range(0, 200, 4)]
    assert found != sorted(found)


def test_grouped_by_length_little_is_padded() -> None:
    def padded(grouped: bool) -> float:
        """Tokens with padding for a token without."""
        mix = Mix([_of_lengths("a", _drawn_lengths(1000))], 8, 1, "p", group_by_length=grouped)
        lengths = [[len(row["input_ids"]) for row in mix.batch(step).features] for step in range(mix.steps_per_epoch)]
        return sum(max(batch) * len(batch) for batch in lengths) / sum(map(sum, lengths))

    assert padded(True) < 1.05 < 1.5 < padded(False)


def test_grouped_by_length_which_examples_meet_differs_from_epoch_to_epoch() -> None:
    mix = Mix([_of_lengths("a", [5] * 1000)], 4, 1, "p", group_by_length=True)
    together = [{frozenset(ids) for _, ids in epoch(mix, number)} for number in range(2)]
    assert not together[0] & together[1]


def test_lengths_of_features_on_disk_are_those_of_their_rows(tmp_path: Path) -> None:
    rows = [{"input_ids": [7] * length, "label": length} for length in (3, 0, 5)]
    assert LoadedSource("a", "eng", cached(tmp_path / "a.arrow", rows)).lengths.tolist() == [3, 0, 5]
