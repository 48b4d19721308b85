"""What the terminal shows of plans, sweeps and runs: the user's words as they wrote them."""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Callable

import pytest
from rich.console import Console

from xlt.plan.planner import Plan, Run
from xlt.tables.terminal import SweepRow, mean_scores, print_evaluations, print_plan, print_sweep


def _console(width: int = 100) -> tuple[Console, io.StringIO]:
    out = io.StringIO()
    return Console(file=out, width=width), out


def test_a_sweep_shows_brackets_in_overrides_compositions_and_reasons() -> None:
    console, out = _console()
    words = "languages=[fao,mlt] method=lt_sft"
    rows = [
        SweepRow(0, words, "done", {"task[x]": 71.25}, None),
        SweepRow(11, words, "failed", {}, "no module [red]here[/]"),
    ]
    print_sweep(rows, console)
    assert f"│ 0 {words}  │   done │    71.2 │" in out.getvalue()
    assert f"│ 11 {words} │ failed │       - │" in out.getvalue()
    assert "task[x]" in out.getvalue() and "job 11 failed: no module [red]here[/]\n" in out.getvalue()


def test_losses_of_a_sweep_have_the_decimals_that_they_have_in_a_table() -> None:
    console, out = _console()
    rows = [SweepRow(at, f"seed={at}", "done", {"task": loss}, None, "loss") for at, loss in enumerate((3.456, 3.461))]
    print_sweep(rows, console)
    assert "│ 3.456 │" in out.getvalue() and "│ 3.461 │" in out.getvalue()


@pytest.mark.parametrize("width", [24, 40, 50, 80])
def test_a_sweep_in_a_narrow_terminal_keeps_its_numbers_whole(width: int) -> None:
    console, out = _console(width)
    rows = [SweepRow(12, "train.learning_rate=0.00125 seed=31", "existed", {"task": 71.2, "task+language": 68.4}, None)]
    print_sweep(rows, console)
    assert max(map(len, out.getvalue().splitlines())) <= width
    for whole in ("12", "0.00125", "seed=31", "71.2", "68.4"):
        assert whole in out.getvalue(), whole


def test_a_plan_shows_brackets_in_the_names_of_runs(
    planned: Callable[..., Run], plan: Plan, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    planned(*words)
    monkeypatch.setattr(plan, "rows", lambda: [("pos [fao,mlt] seed=12345", "train", 7.0)])
    for width in (50, 80):
        console, out = _console(width)
        print_plan(plan, console)
        assert "[fao,mlt]" in out.getvalue() and "12345" in out.getvalue() and "…" not in out.getvalue()


def test_a_plan_of_very_many_runs_is_counted_by_experiment_and_method(
    planned: Callable[..., Run], plan: Plan, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    planned(*words)
    rows = [(f"nano_language lt_sft fao seed={seed}", "train", 60.0) for seed in range(30)]
    rows += [(f"nano_fields lt_sft eng seed={seed} density=0.1", f"train + evaluate {seed}", None) for seed in range(9)]
    rows += [("nano_fields lt_sft eng seed=9", "exists", None), ("nano_fields full eng seed=1", "resume", 5.0)]
    monkeypatch.setattr(plan, "rows", lambda: rows)
    console, out = _console(100)
    print_plan(plan, console, short=True)
    text = " ".join(out.getvalue().split())
    assert "seed=" not in text and "--plan lists them one by one" in text
    assert "nano_language lt_sft │ 30 train │ 30 min" in text
    assert "nano_fields lt_sft │ 9 train + evaluate, 1 exists │" in text and "nano_fields full │ 1 resume │ 5 s" in text
    assert "41 runs: 1 exist, 40 to do" in text
    monkeypatch.setattr(plan, "rows", lambda: rows[:40])
    console, out = _console(100)
    print_plan(plan, console, short=True)
    assert "seed=29" in out.getvalue() and "--plan" not in out.getvalue()


def test_a_run_shows_brackets_in_the_names_of_sources(
    planned: Callable[..., Run], plan: Plan, words: tuple[str, ...]
) -> None:
    run = planned(*words)
    for key, wanted in run.evaluations.items():
        run.evaluations[key] = dataclasses.replace(wanted, source=f"{wanted.source}[2]")
    folder = plan.store.folder(run.fingerprint)
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(json.dumps({"metric": "accuracy", "training": {}}))
    record = {"metrics": {"accuracy": 50.0}, "signatures": {"accuracy": "tok:[zh]|version:2"}}
    plan.store.add_evaluations(run.fingerprint, dict.fromkeys(run.evaluations, record))
    console, out = _console()
    print_evaluations(run, run.evaluations, plan.store, console)
    assert "│ fao[2] │ 50.0 │" in out.getvalue()
    assert out.getvalue().count("tok:[zh]|version:2") == 1


def test_only_the_evaluations_that_were_asked_for_are_shown_and_averaged(
    planned: Callable[..., Run], plan: Plan, words: tuple[str, ...]
) -> None:
    run = planned(*words)
    asked = dict(run.evaluations)
    for key, wanted in asked.items():  # another config asks for the same label with another module
        run.evaluations[f"other-{key}"] = dataclasses.replace(wanted, unusual="module of isl")
    folder = plan.store.folder(run.fingerprint)
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(json.dumps({"metric": "accuracy", "training": {}}))
    scores = {key: 10.0 if key.startswith("other-") else 50.0 for key in run.evaluations}
    plan.store.add_evaluations(run.fingerprint, {key: {"metrics": {"accuracy": of}} for key, of in scores.items()})
    assert mean_scores(run, asked, plan.store) == {"task": 50.0}
    one = next(iter(asked.values()))
    unfinished = {**asked, "unfinished": one, "alone": dataclasses.replace(one, label="other")}
    assert len(asked) > 1 and mean_scores(run, unfinished, plan.store) == {}  # a mean over fewer is another number
    console, out = _console()
    print_evaluations(run, asked, plan.store, console)
    assert "50.0" in out.getvalue() and "10.0" not in out.getvalue()
