"""`xlt runs`: which runs there are, what one is, and why another is new."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from xlt.commands.runs import list_runs, say_why, show_run
from xlt.engine.watching import Silence
from xlt.errors import UsageError
from xlt.execution.execution import carry_out
from xlt.plan.differences import differences
from xlt.plan.planner import Plan, Run


def test_a_run_is_listed_and_shown_and_a_new_one_says_which_setting_differs(
    plan: Plan, planned: Callable[..., Run], words: tuple[str, ...]
) -> None:
    run = planned(*words)
    carry_out(plan, None, lambda *_: Silence())
    folder = f"output_dir={plan.store.root}"
    first, *_, count = list_runs([folder])
    assert first.startswith(run.fingerprint[:12]) and run.kind in first and count.startswith("1 ")
    assert next(list_runs([folder, "nothing-like-it"])).startswith("0 ")
    shown = "\n".join(show_run([run.fingerprint[:8], folder]))
    assert run.fingerprint in shown and str(plan.store.folder(run.fingerprint)) in shown and "accuracy" in shown
    *_, same = say_why([*words, folder])
    assert same.startswith("0 of 1 runs are new")
    lines = [*say_why([*words, folder, "seed=9", "train.learning_rate=0.5"])]
    assert run.fingerprint[:12] in lines[1]
    parts = {line.split(":")[0].strip(): line for line in lines[2:-1]}
    assert any("learning_rate" in part and "0.5" in line for part, line in parts.items())
    assert any(part.endswith("seed") and "9" in line for part, line in parts.items())
    assert len(parts) == 2


def test_differences_are_the_leaves_that_differ() -> None:
    found = differences({"a": {"x": 1, "y": 2}, "b": []}, {"a": {"x": 1, "y": 3}, "c": {}})
    assert [(one.part, one.mine, one.other) for one in found] == [
        ("a.y", 2, 3),
        ("b", [], "(nothing)"),
        ("c", "(nothing)", {}),
    ]


def test_unknown_runs_and_folders_are_refused(plan: Plan, tmp_path_factory: pytest.TempPathFactory) -> None:
    with pytest.raises(UsageError, match="no runs"):
        next(list_runs([f"output_dir={tmp_path_factory.mktemp('empty')}"]))
    plan.store.runs.mkdir(parents=True, exist_ok=True)
    with pytest.raises(UsageError, match="ffff"):
        next(show_run([f"output_dir={plan.store.root}", "ffff"]))
