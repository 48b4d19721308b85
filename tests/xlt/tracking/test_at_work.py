"""What is shown of runs at work: their steps, the time that is left, and their lines, from files that they write."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from xlt.console import Terminal
from xlt.plan.planner import Run
from xlt.plan.store import RunStore
from xlt.tracking import at_work
from xlt.tracking.at_work import Relay, RunsAtWork
from xlt.tracking.progress import ProgressBar
from xlt.tracking.watch import watch


@pytest.fixture
def console(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    monkeypatch.setenv("COLUMNS", "60")
    console = Terminal(stderr=True)
    console.file = io.StringIO()
    return console


@pytest.fixture
def shown(console: Terminal, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunsAtWork]:
    """A display that looks only when it is told to; a file is written at every step."""
    monkeypatch.setattr(RunsAtWork, "_poll_often", lambda self: None)
    monkeypatch.setattr(at_work, "_SECONDS_BETWEEN_WRITES", 0.0)
    display = RunsAtWork(console)
    yield display
    display.close()


def _said(console: Terminal) -> list[str]:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def test_a_line_every_half_minute_says_step_and_time_left(shown: RunsAtWork, console: Terminal) -> None:
    now = time.monotonic()
    shown.begin("f" * 8, "pretrain [eng]", "prepares training")
    relay = Relay(shown.folder, "f" * 8, notes=False)
    shown.poll(now + 31)
    relay.begin_phase("train", 0, 100)
    shown.poll(now + 40)
    relay.metrics("train", 20, {"loss": 1.0})
    shown.poll(now + 50)
    shown.poll(now + 65)  # 20 steps took 10 s, and 15 s have passed since
    shown.poll(now + 66)
    relay.metrics("train", 100, {"loss": 1.0})
    shown.poll(now + 99)
    said = _said(console)
    assert [line.partition(": ")[2] for line in said] == [
        "prepares training, 31 s",
        "train: step 20/100, about 25 s left",
        "prepares training, 99 s",
    ]
    assert all(line.startswith("  pretrain [eng]: ") for line in said)


def test_a_resumed_phase_counts_its_own_steps(shown: RunsAtWork, console: Terminal) -> None:
    now = time.monotonic()
    shown.begin("f", "run", "prepares training")
    relay = Relay(shown.folder, "f", notes=False)
    relay.begin_phase("dense", 0, 100)
    relay.metrics("dense", 90, {})
    shown.poll(now)
    relay.begin_phase("sparse", 50, 100)
    shown.poll(now + 1)
    relay.metrics("sparse", 60, {})
    shown.poll(now + 31)
    assert _said(console)[-1] == "  run: sparse: step 60/100, about 2 min left"


def test_lines_of_a_run_have_its_name_and_come_once(shown: RunsAtWork, console: Terminal) -> None:
    shown.begin("f", "run [1]", "prepares training")
    relay = Relay(shown.folder, "f", notes=True)
    relay.note("first\nof two lines")
    shown.poll(time.monotonic())
    shown.poll(time.monotonic())
    relay.metrics("train", 8, {"validation/accuracy": 50.0})
    shown.end("f")
    assert _said(console) == ["  run [1]: first", "of two lines", "  run [1]: step 8: validation accuracy 50"]
    shown.begin("f", "run [1]", "evaluates")
    Relay(shown.folder, "f", notes=False).note("of a silent run")
    shown.end("f")
    assert len(_said(console)) == 3 and len(shown) == 0


def test_a_line_about_settings_comes_from_one_run(shown: RunsAtWork, console: Terminal) -> None:
    for name in ("cym", "fao"):
        shown.begin(name, name, "prepares training")
        Relay(shown.folder, name, notes=True).note("train.batch_size=32: the largest source has 30 examples")
        shown.end(name)
    assert _said(console) == ["  cym: train.batch_size=32: the largest source has 30 examples"]


def test_a_file_that_is_written_at_this_moment_changes_nothing(shown: RunsAtWork, console: Terminal) -> None:
    now = time.monotonic()
    shown.begin("f", "run", "prepares training")
    Relay(shown.folder, "f", notes=False).begin_phase("train", 0, 10)
    shown.poll(now)
    (shown.folder / "f").write_text('["train", 3', encoding="utf-8")
    shown.poll(now + 31)
    assert _said(console) == ["  run: train: step 0/10"]


def test_in_a_terminal_the_runs_stand_in_one_line_each_that_fits(console: Terminal) -> None:
    console._force_terminal = True
    display = RunsAtWork(console)
    for number in range(10):
        display.begin(str(number), f"nano_language lt_sft fao seed={number} " + "with.a.long=setting " * 3, "evaluates")
    width = console.width
    lines = console.render_lines(display._table(), pad=False)
    assert len(lines) == 9 and "and 2 more" in lines[-1][0].text
    text = ["".join(part.text for part in line).rstrip() for line in lines[:-1]]
    assert all(len(line) <= width and "…" in line and "evaluates, " in line for line in text)
    display.close()
    assert not display.folder.exists()


def test_what_cannot_be_written_stops_no_run(tmp_path: Path) -> None:
    relay = Relay(tmp_path / "gone", "f", notes=True)
    relay.begin_phase("train", 0, 2)
    relay.metrics("train", 2, {"loss": 1.0})
    relay.note("unseen")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("overrides", "in_worker", "kinds"),
    [
        (["tracker=terminal"], False, [ProgressBar]),
        (["tracker=terminal"], True, [Relay]),
        (["tracker=silent"], False, [Relay]),
        (["tracker=silent"], True, [Relay]),
    ],
)
def test_only_one_process_writes_to_the_terminal(
    overrides: list[str],
    in_worker: bool,
    kinds: list[type],
    make_run: Callable[..., Run],
    store: RunStore,
    tmp_path: Path,
) -> None:
    run = make_run(*overrides, "tracker.wandb=off")
    watchers = watch(run, store, relay=tmp_path, in_worker=in_worker)
    assert [type(one) for one in watchers._watchers[1:]] == kinds
    alone = watch(run, store)
    assert [type(one) for one in alone._watchers[1:]] == [ProgressBar] * (overrides == ["tracker=terminal"])
