"""The lines of a plan that is carried out: runs are counted, each once; what is left is estimated by runs like it."""

from __future__ import annotations

import io
import re
import signal
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from xlt.console import Terminal
from xlt.engine.training import Interrupted
from xlt.tracking import job_report
from xlt.tracking.job_report import JobReport


class _Clock:
    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> _Clock:
    monkeypatch.setattr(job_report, "time", clock := _Clock())
    return clock


def _run(name: str, experiment: str = "language", method: str = "bitfit", progress: bool = True) -> Any:
    config = SimpleNamespace(experiment_name=experiment, tracker=SimpleNamespace(progress=progress))
    return SimpleNamespace(fingerprint=name, label=name, kind=f"{experiment}/{method}", config=config, job=None)


@pytest.fixture
def begin(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[JobReport, io.StringIO]]:
    """`begin(trained, evaluated, past)`: a report on a plan that trains and evaluates these runs."""

    def make(
        trained: list[Any], evaluated: Sequence[Any] = (), past: dict[str, float] | None = None
    ) -> tuple[JobReport, io.StringIO]:
        runs = {run.fingerprint: run for run in [*trained, *evaluated]}
        store = SimpleNamespace(seconds_of_kinds=lambda: past or {}, seconds_of_evaluations=lambda: {})
        plan: Any = SimpleNamespace(
            runs=runs, store=store, to_train=lambda: trained, to_evaluate=lambda: evaluated, missing_evaluations=list
        )
        monkeypatch.setattr(job_report, "names_of", lambda runs: {run.fingerprint: run.label for run in runs})
        console = Terminal(stderr=True)
        console.file = said = io.StringIO()
        return JobReport(console, plan), said

    return make


def test_a_run_counts_once_when_all_that_is_wanted_of_it_is_done(begin: Callable[..., Any], clock: _Clock) -> None:
    first, second = _run("first"), _run("second")
    report, said = begin([first], [first, second])
    with report:
        for run, action in ((first, "train"), (first, "evaluate"), (second, "evaluate")):
            report("start", run, action)
            clock.now += 10
            report("done", run, action)
    assert said.getvalue().splitlines() == [
        "[0/2 runs] first begins",
        "[1/2 runs, 20 s, about 10 s left] first: trained and evaluated",
        "[2/2 runs, 30 s] second: evaluated",
    ]


def test_the_time_left_is_that_of_runs_alike_and_unknown_before_there_are_any(
    begin: Callable[..., Any], clock: _Clock
) -> None:
    base = _run("base", "pretrain")
    others = [_run(f"l{number}", method=method) for number, method in enumerate(("bitfit", "bitfit", "lt_sft"))]
    report, said = begin([base, *others])
    with report:
        for run, seconds in zip((base, *others), (600, 10, 20, 30), strict=True):
            report("start", run, "train")
            clock.now += seconds
            report("done", run, "train")
    left = [re.search(r"about (.*) left", line) for line in said.getvalue().splitlines()[1:]]
    # Nothing is known of languages after the base; then 10 s each; then BitFit's mean, 15 s, stands for LT-SFT.
    assert [one and one[1] for one in left] == [None, "20 s", "15 s", None]


def test_past_runs_of_the_kind_are_known_from_the_beginning(begin: Callable[..., Any], clock: _Clock) -> None:
    base, other = _run("base", "pretrain"), _run("other")
    report, said = begin([base, other], past={"language/bitfit": 50.0})
    with report:
        report("start", base, "train")
        clock.now += 7
        report("done", base, "train")
    assert said.getvalue().splitlines()[-1] == "[1/2 runs, 7 s, about 50 s left] base: trained"


def test_two_at_once_take_half_the_time(begin: Callable[..., Any], clock: _Clock) -> None:
    runs = [_run(str(number)) for number in range(6)]
    report, said = begin(runs)
    with report:
        for run in runs[:2]:
            report("start", run, "train")
        clock.now += 20
        for run in runs[:2]:
            report("done", run, "train")
    assert said.getvalue().splitlines()[-1] == "[2/6 runs, 20 s, about 40 s left] 1: trained"


def test_what_stands_on_a_failed_run_is_one_line(begin: Callable[..., Any], clock: _Clock) -> None:
    base, *others, last = runs = [_run(name) for name in ("base", "a", "b", "c", "last")]
    report, said = begin(runs, [base])
    with report:
        report("start", base, "train")
        report("failed", base, "out of memory")
        report("skipped", base, "out of memory")  # its evaluation
        for run in others:
            report("skipped", run, "stands on base, which failed: out of memory")
        report("start", last, "train")
        report("done", last, "train")
    assert said.getvalue().splitlines() == [
        "[0/5 runs] base begins",
        "[1/5 runs, 0 s] base: out of memory",
        "[4/5 runs] 3 runs that need a failed run: not tried",
        "[5/5 runs, 0 s] last: trained",
    ]


def test_an_interruption_says_what_is_kept_and_how_to_go_on(begin: Callable[..., Any], clock: _Clock) -> None:
    runs = [_run(name) for name in "abc"]
    report, said = begin(runs, runs)
    with pytest.raises(Interrupted) as stop, report:
        for action in ("train", "evaluate"):
            report("start", runs[0], action)
            report("done", runs[0], action)
        report("start", runs[1], "train")
        raise Interrupted(signal.SIGINT)
    assert stop.value.signal == signal.SIGINT
    assert str(stop.value) == (
        "stopped by SIGINT; 1 of 3 runs finished, 1 begun; all that was done is saved, "
        "and the same command goes on from there"
    )
    assert len(said.getvalue().splitlines()) == 2


def test_runs_with_a_display_of_their_own_are_not_shown_twice(begin: Callable[..., Any], clock: _Clock) -> None:
    loud, silent = _run("loud"), _run("silent", progress=False)
    report, _ = begin([loud, silent])
    with report:
        for run in (loud, silent):
            report("start", run, "train")
        assert [*report._at_work._rows] == ["silent"]
