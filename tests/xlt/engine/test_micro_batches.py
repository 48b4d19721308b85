"""How a step is divided: against all divisions of small batches, and what the training loop makes of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from xlt.engine.micro_batches import micro_batches, micro_batches_by_length, rows_of
from xlt.engine.watching import Silence


def test_a_division_that_can_be_checked_on_paper() -> None:
    """One long row and three short ones: together 4 x 10 + 5 = 45 tokens, apart 10 + 5 + 3 x 2 + 5 = 26."""
    assert micro_batches_by_length([2, 10, 2, 2], cost=5) == [[1], [0, 2, 3]]
    assert micro_batches_by_length([2, 10, 2, 2], cost=30) == [[0, 1, 2, 3]]
    assert micro_batches_by_length([2, 10, 3, 3], cost=0) == [[1], [2, 3], [0]]
    assert micro_batches_by_length([], cost=5) == []
    assert micro_batches(range(2, 9), 3) == [range(2, 5), range(5, 8), range(8, 9)]


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("cost", [0, 3, 10, 40])
def test_no_other_division_computes_less(seed: int, cost: int) -> None:
    drawn = torch.randint(1, 30, (7,), generator=torch.Generator().manual_seed(seed)).tolist()

    def computed(parts: list[list[int]]) -> int:
        return sum(len(part) * max(drawn[row] for row in part) + cost for part in parts)

    found = micro_batches_by_length(drawn, cost)
    assert sorted(row for part in found for row in part) == list(range(7))
    assert computed(found) == min(computed(parts) for parts in _all_divisions(list(range(7))))


def _all_divisions(rows: list[int]) -> Iterator[list[list[int]]]:
    """All ways to divide rows into sets."""
    if not rows:
        yield []
        return
    for rest in _all_divisions(rows[1:]):
        yield [[rows[0]], *rest]
        for number, part in enumerate(rest):
            yield [*rest[:number], [rows[0], *part], *rest[number + 1 :]]


def test_rows_lose_the_padding_of_others_and_nothing_else() -> None:
    lengths = [3, 6, 2, 3]
    mask = torch.tensor([[1] * length + [0] * (6 - length) for length in lengths])
    ids = mask * torch.arange(1, 25).view(4, 6)
    batch = {"input_ids": ids, "attention_mask": mask, "labels": torch.arange(4)}
    part = rows_of(batch, [0, 3], has_targets=False)
    assert {name: tuple(tensor.shape) for name, tensor in part.items()} == {
        "input_ids": (2, 3),
        "attention_mask": (2, 3),
        "labels": (2,),
    }
    assert torch.equal(part["input_ids"], ids[[0, 3], :3]) and part["labels"].tolist() == [0, 3]
    assert bool(part["attention_mask"].all())


@pytest.mark.parametrize(
    ("method", "size", "divided"),
    [("full", None, True), ("lt_sft", None, True), ("full", 14, False), ("spiel_ag", None, False)],
)
def test_a_step_is_divided_by_length_unless_a_size_is_given_or_the_method_wants_it_whole(
    method: str, size: int | None, divided: bool, make_method, make_trainer, tmp_path: Path
) -> None:
    trainer = make_trainer(make_method(method), batch_size=14, micro_batch_size=size)
    trainer._cost = 0
    padded: list[bool] = []

    def look(_: object, arguments: object, named: dict[str, torch.Tensor]) -> None:
        if trainer.model.training:
            padded.append(not bool(named["attention_mask"].all()))

    trainer.model.backbone.register_forward_pre_hook(look, with_kwargs=True)
    trainer.train(tmp_path, Silence())
    steps = sum(phase.steps for phase in trainer.phases)
    assert (len(padded) > steps, any(padded)) == (divided, not divided)


def test_a_resumed_run_divides_its_steps_as_before(make_method, make_trainer, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr("xlt.engine.training._COST_OF_SUMS", 4)
    monkeypatch.setattr("xlt.engine.training._COST_OF_CALLS", 0)
    whole = make_trainer(make_method("full"), dropout=0.1)
    whole.train(tmp_path / "whole", Silence())
    cut = make_trainer(make_method("full"), dropout=0.1, save_every_seconds=0)

    class Killed(Exception):
        pass

    class Kill(Silence):
        def metrics(self, phase: str, step: int, values) -> None:
            if step == 3 and "loss" in values:
                raise Killed

    with pytest.raises(Killed):
        cut.train(tmp_path / "cut", Kill())
    again = make_trainer(make_method("full"), dropout=0.1, save_every_seconds=0)
    again.train(tmp_path / "cut", Silence())
    for name, parameter in whole.model.named_parameters():
        assert torch.equal(parameter, again.model.get_parameter(name)), name
