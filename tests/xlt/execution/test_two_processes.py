"""Two processes that carry out one plan together."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from xlt.engine.processes import Processes
from xlt.engine.training import Interrupted, Trainer
from xlt.engine.watching import Silence
from xlt.errors import UsageError
from xlt.execution import execution
from xlt.execution.execution import carry_out
from xlt.plan.planner import Plan, Run
from xlt.plan.store import RunStore


def silent(run: Run, store: RunStore) -> Silence:
    return Silence()


@dataclass
class TwoProcesses:
    """Two processes that carry out one plan together.

    Attributes:
        plan: the plan.
        add: adds a run with further overrides to the plan and returns it.
        carry_out: returns for each process its reports, and its failures or the text of its error. A report is (event,
            seed of the run, `observe(event, run)`).
    """

    plan: Plan
    add: Callable[..., Run]
    carry_out: Callable[..., list[Any]]


@pytest.fixture
def two_processes(
    plan: Plan,
    planned: Callable[..., Run],
    words: tuple[str, ...],
    in_two_processes: Callable[..., list[Any]],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> TwoProcesses:
    monkeypatch.setenv("WORLD_SIZE", "2")

    def carry_out_together(observe: Callable[[str, Run], Any] = lambda *_: None) -> list[Any]:
        def work(processes: Processes) -> Any:
            reports: list[Any] = []

            def report(event: str, run: Run, message: str) -> None:
                reports.append((event, run.config.seed, observe(event, run)))

            try:
                return reports, carry_out(plan, None, silent, report).failures
            except RuntimeError as error:
                return reports, str(error)

        return in_two_processes(work, tmp_path / "processes")

    return TwoProcesses(plan, lambda *changes: planned(*words, *changes), carry_out_together)


def test_a_method_that_several_processes_cannot_share_is_refused_before_anything_is_loaded(
    plan: Plan, planned: Callable[..., Run], words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    method = ["method=spiel_ag", "method.candidates_from=micro_batch", "train.micro_batch_size=1"]
    planned(*words, *method, "method.update_interval=1", "method.estimation_steps=1")
    plan.preflight()
    monkeypatch.setattr("xlt.plan.runs.Processes.join", lambda: Processes(0, 2))
    with pytest.raises(UsageError) as error:
        plan.preflight()
    (line,) = error.value.lines
    assert line.startswith("method.candidates_from=micro_batch: with 2 processes") and "=step" in line


def test_other_processes_wait_until_the_leader_has_evaluated(two_processes: TwoProcesses) -> None:
    two_processes.add()
    store = two_processes.plan.store
    outcomes = two_processes.carry_out(lambda event, run: event == "done" and len(store.evaluations(run.fingerprint)))
    expected = [("start", 1, False), ("done", 1, 0), ("start", 1, False), ("done", 1, 2)]
    assert outcomes == [(expected, {}), (expected, {})]


def test_what_fails_in_the_leader_alone_while_the_others_wait_has_failed_for_all(
    two_processes: TwoProcesses, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = two_processes.add()
    monkeypatch.setattr(execution, "evaluate_compositions", lambda *_: 1 / 0)
    reasons = [failures[run.fingerprint] for _, failures in two_processes.carry_out()]
    assert reasons[0] == reasons[1] and "ZeroDivisionError: division by zero" in reasons[0]


def test_a_process_that_fails_alone_in_training_ends_and_does_not_begin_the_next_run(
    two_processes: TwoProcesses, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in (1, 2):
        two_processes.add(f"seed={seed}")
    step = Trainer._forward_backward

    def instead(self: Trainer, *others: Any) -> Any:
        if self.processes.rank == 1:
            raise RuntimeError("out of memory")
        return step(self, *others)

    monkeypatch.setattr(Trainer, "_forward_backward", instead)
    monkeypatch.setattr(execution, "_PATIENCE", timedelta(seconds=1))
    (reports, _), (other_reports, error) = two_processes.carry_out()
    assert reports == other_reports == [("start", 1, None)]
    assert error.startswith("process 1: ") and "RuntimeError: out of memory" in error


def test_processes_that_fail_alike_go_on_together(two_processes: TwoProcesses, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = (two_processes.add(f"seed={seed}").fingerprint for seed in (1, 2))
    step = Trainer._forward_backward

    def instead(self: Trainer, *others: Any) -> Any:
        if self.seed == 1:
            raise UsageError("wrong")
        return step(self, *others)

    monkeypatch.setattr(Trainer, "_forward_backward", instead)
    assert [failures for _, failures in two_processes.carry_out()] == [{first: "wrong"}] * 2
    store = two_processes.plan.store
    assert store.is_trained(second) and len(store.evaluations(second)) == 2


def test_processes_that_fail_differently_do_not_go_on(
    two_processes: TwoProcesses, monkeypatch: pytest.MonkeyPatch
) -> None:
    two_processes.add()

    def instead(*_: Any) -> None:
        raise RuntimeError(f"in {Processes.join().rank}")

    monkeypatch.setattr(execution, "_train", instead)
    for _, error in two_processes.carry_out():
        assert error.startswith("processes failed differently: process 0: ")
        assert "RuntimeError: in 0" in error and "process 1: " in error and "RuntimeError: in 1" in error


@pytest.mark.parametrize(
    ("holder", "steps_left"), [("was stopped", [("dense", 1), ("sparse", 0), ("sparse", 1)]), ("finished the run", [])]
)
def test_all_processes_go_on_from_what_the_lock_s_holder_left_while_the_leader_waited(
    holder: str,
    steps_left: list[tuple[str, int]],
    two_processes: TwoProcesses,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    plan = two_processes.plan
    folder, aside = plan.store.folder(two_processes.add().fingerprint), tmp_path / "aside"
    with monkeypatch.context() as alone:
        alone.delenv("WORLD_SIZE")
        if holder == "was stopped":
            alone.setattr(Trainer, "_stop_asked", lambda self: int(signal.SIGTERM))
            with pytest.raises(Interrupted):
                carry_out(plan, None, silent)
        else:
            carry_out(plan, None, silent)
    folder.rename(aside)
    lock, step = RunStore.lock, Trainer._forward_backward
    done: list[tuple[str, int]] = []

    @contextmanager
    def after_a_while(store: RunStore, fingerprint: str) -> Iterator[None]:
        with lock(store, fingerprint):
            if aside.exists():
                time.sleep(1)  # in which the other process could begin, if it did not wait
                aside.rename(folder)
            yield

    def noted(self: Trainer, phase: Any, number: int, mix: Any) -> Any:
        done.append((phase.name, number))
        return step(self, phase, number, mix)

    monkeypatch.setattr(RunStore, "lock", after_a_while)
    monkeypatch.setattr(Trainer, "_forward_backward", noted)
    outcomes = two_processes.carry_out(lambda *_: list(done))
    assert [(reports[1], failures) for reports, failures in outcomes] == [(("done", 1, steps_left), {})] * 2
