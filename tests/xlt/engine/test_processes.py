"""One process or several."""

from __future__ import annotations

import multiprocessing
import os
import socket
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn

from xlt.engine import processes as processes_module
from xlt.engine.processes import Processes
from xlt.engine.training import Interrupted
from xlt.engine.watching import Silence
from xlt.errors import UsageError


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


HERE = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}


@pytest.fixture
def announced(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """`announced(RANK="0", ...)`: the environment announces a group in these variables and no others."""

    def announce(**variables: str) -> None:
        for name in (*HERE, "TORCHELASTIC_USE_AGENT_STORE", "TORCHELASTIC_RESTART_COUNT"):
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return announce


@pytest.fixture
def free_port() -> str:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return str(found.getsockname()[1])


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"WORLD_SIZE": "2"}, ["WORLD_SIZE=2", "RANK, MASTER_ADDR, MASTER_PORT are not set", "unset WORLD_SIZE"]),
        ({**HERE, "RANK": ""}, ["WORLD_SIZE=2", "RANK is not set"]),
        ({**HERE, "MASTER_ADDR": ""}, ["WORLD_SIZE=2", "MASTER_ADDR is not set"]),
        ({"WORLD_SIZE": "two"}, ["WORLD_SIZE=two", "a number from 1"]),
        ({"WORLD_SIZE": "0"}, ["WORLD_SIZE=0", "a number from 1"]),
        ({"WORLD_SIZE": ""}, ["WORLD_SIZE=", "a number from 1"]),
        ({**HERE, "RANK": "2"}, ["RANK=2", "from 0 to 1"]),
        ({**HERE, "RANK": "-1"}, ["RANK=-1", "from 0 to 1"]),
        ({**HERE, "MASTER_PORT": "70000"}, ["MASTER_PORT=70000", "from 0 to 65535"]),
    ],
)
def test_a_group_that_is_half_announced_is_one_line_at_once(
    variables: dict[str, str], said: list[str], announced: Callable[..., None]
) -> None:
    announced(**variables)
    with pytest.raises(UsageError) as error:
        Processes.join()
    (line,) = error.value.lines
    assert all(part in line for part in said), line


@pytest.mark.parametrize(("rank", "other"), [("0", "1"), ("1", "0")])
def test_who_waits_for_processes_that_do_not_come_says_so_and_gives_up(
    rank: str,
    other: str,
    announced: Callable[..., None],
    free_port: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    announced(**HERE | {"RANK": rank, "MASTER_PORT": free_port})
    monkeypatch.setattr(processes_module, "_MAX_WAIT_TO_MEET", timedelta(seconds=1))
    monkeypatch.setattr(processes_module, "_SECONDS_OF_SILENCE", 0.1)
    began = time.monotonic()
    with pytest.raises(UsageError) as error:
        Processes.join()
    assert time.monotonic() - began < 20
    (line,) = error.value.lines
    facts = [f"process {rank}", f"127.0.0.1:{free_port}", "WORLD_SIZE=2"]
    assert all(part in line for part in [*facts, f"did not meet {other} ", "unset WORLD_SIZE"]), line
    (said,) = capfd.readouterr().err.splitlines()
    assert said.startswith("xlt: ") and all(part in said for part in [*facts, "waits at most", f"for {other} at"]), said


def test_an_unknown_address_is_one_line(announced: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    announced(**HERE | {"RANK": "1", "MASTER_ADDR": "nowhere.invalid"})
    monkeypatch.setattr(processes_module, "_MAX_WAIT_TO_MEET", timedelta(seconds=0.5))
    with pytest.raises(UsageError, match=r"nowhere\.invalid:1 "):
        Processes.join()


def test_announced_processes_meet_whoever_comes_first(
    announced: Callable[..., None], free_port: str, tmp_path: Path
) -> None:
    def child(rank: int) -> None:
        announced(**HERE | {"RANK": str(rank), "MASTER_PORT": free_port})
        if rank == 0:
            time.sleep(0.5)  # the other one comes first, to nobody
        joined = Processes.join()
        (tmp_path / str(rank)).write_text(f"{joined.rank} {joined.count} {joined.sum(rank + 1)}")
        sys.stdout.flush()
        os._exit(0)

    context = multiprocessing.get_context("fork")
    children = [context.Process(target=child, args=(rank,), daemon=True) for rank in (0, 1)]
    for process in children:
        process.start()
    for process in children:
        process.join(60)
        process.kill()
    assert [(tmp_path / str(rank)).read_text() for rank in (0, 1)] == ["0 2 3.0", "1 2 3.0"]


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
