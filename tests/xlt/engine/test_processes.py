"""One process or several."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn

from xlt.engine.processes import Processes
from xlt.engine.training import Interrupted
from xlt.engine.watching import Silence


@pytest.mark.parametrize(
    ("count", "rows", "shares"),
    [
        (1, 5, [[0, 1, 2, 3, 4]]),
        (2, 5, [[0, 1, 2], [3, 4]]),
        (3, 4, [[0, 1], [2, 3], []]),
        (4, 1, [[0], [], [], []]),
        (2, 0, [[], []]),
    ],
)
def test_the_examples_of_a_step_are_shared_out_once_each(count: int, rows: int, shares: list[list[int]]) -> None:
    assert [list(Processes(rank, count).share(rows)) for rank in range(count)] == shares


def test_alone_nothing_is_exchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    alone = Processes.join()
    assert (alone.rank, alone.count, alone.leads) == (0, 1, True)
    weight = nn.Parameter(torch.ones(2))
    alone.sum_gradients([weight])
    alone.same_weights([weight])
    alone.wait()
    assert weight.grad is None
    assert (alone.sum(3.5), alone.from_leader([1.0]), alone.gather("a")) == (3.5, [1.0], ["a"])
    assert not dist.is_initialized()


def test_sums_and_the_leaders_values_reach_every_process(in_two_processes, tmp_path: Path) -> None:
    def work(processes: Processes) -> Any:
        rank = processes.rank
        both, one = nn.Parameter(torch.full((2,), float(rank))), nn.Parameter(torch.full((2,), float(rank)))
        both.grad = torch.full((2,), 1.0 + rank)
        if rank == 1:
            one.grad = torch.full((2,), 7.0)  # the other process saw no example that needs it
        processes.sum_gradients([both, one])
        processes.same_weights([both, one])
        return {
            "leads": processes.leads,
            "sum": processes.sum(10.0**16 + rank) - 2 * 10.0**16,
            "leader": processes.from_leader([0.5, float(rank)]),
            "gathered": processes.gather(rank),
            "gradients": [both.grad.tolist(), one.grad.tolist()],
            "weights": [both.tolist(), one.tolist()],
        }

    found = in_two_processes(work, tmp_path)
    assert [one.pop("leads") for one in found] == [True, False]
    expected = {
        "sum": 0.0,
        "leader": [0.5, 0.0],
        "gathered": [0, 1],
        "gradients": [[3.0, 3.0], [7.0, 7.0]],
        "weights": [[0.0, 0.0], [0.0, 0.0]],
    }
    assert found == [expected, expected]


def test_who_waits_for_another_with_limited_patience_is_told_that_it_does_not_come(
    in_two_processes, tmp_path: Path
) -> None:
    def work(processes: Processes) -> Any:
        processes.gather("both are there")
        if processes.rank == 0:
            with pytest.raises(RuntimeError):  # the other has ended
                processes.wait()
            return None
        with pytest.raises(RuntimeError):  # the other is waiting elsewhere
            processes.gather("alone", timedelta(seconds=1))
        return None

    in_two_processes(work, tmp_path)


def test_processes_end_in_the_same_bits_although_each_draws_its_own_dropout(
    make_trainer, make_method, in_two_processes, tmp_path: Path, bits
) -> None:
    def work(processes: Processes) -> Any:
        trainer = make_trainer(make_method("lt_sft"), dropout=0.3, processes=processes, micro_batch_size=1)
        trainer.train(tmp_path / "run", Silence())
        return bits(trainer.model.state_dict())

    found = in_two_processes(work, tmp_path)
    assert found[0] == found[1]


def test_a_signal_to_one_process_stops_both_with_one_state(
    make_trainer, make_method, records, in_two_processes, tmp_path: Path, bits
) -> None:
    def work(processes: Processes) -> Any:
        trainer = make_trainer(make_method("lt_sft"), processes=processes)

        def stop(phase: str, step: int) -> None:
            if processes.rank == 1 and (phase, step) == ("sparse", 2):
                trainer._stop.number = 15

        try:
            trainer.train(tmp_path / "run", records(at=stop))
        except Interrupted as stopped:
            dist.barrier()
            saved = trainer._state.load()
            assert saved is not None
            again = make_trainer(make_method("lt_sft"), processes=processes)
            again.train(tmp_path / "run", Silence())
            return stopped.signal, saved[0].phase, saved[0].step, bits(again.model.state_dict())
        raise AssertionError("it was not stopped")

    def whole(processes: Processes) -> Any:
        trainer = make_trainer(make_method("lt_sft"), processes=processes)
        trainer.train(tmp_path / "whole", Silence())
        return bits(trainer.model.state_dict())

    stopped, uninterrupted = in_two_processes(work, tmp_path / "a"), in_two_processes(whole, tmp_path / "b")
    assert [part[:3] for part in stopped] == [(15, 1, 2)] * 2
    assert stopped[0][3] == stopped[1][3] == uninterrupted[0]
