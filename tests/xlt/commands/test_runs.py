"""`xlt runs`: which runs there are, what one is, and why another is new."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from xlt.commands.runs import list_runs, main, remove, say_why, show_run
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
    assert first.endswith("eng seed=1") and next(list_runs([folder, "ENG", "seed=1"])) == first
    assert next(list_runs([folder, "nothing-like-it"])).startswith("0 ")
    assert next(list_runs([folder, "seed=2"])).startswith("0 ")
    shown = "\n".join(show_run([run.fingerprint[:8], folder]))
    assert run.fingerprint in shown and str(plan.store.folder(run.fingerprint)) in shown and "accuracy" in shown
    assert "predictions" not in shown
    evaluations = plan.store.evaluations(run.fingerprint)
    for key in evaluations:
        plan.store.keep_predictions(run.fingerprint, key, [])
    file = plan.store.predictions_file(run.fingerprint, next(iter(evaluations)))
    lines = [*show_run([run.fingerprint[:8], folder])]
    assert lines.count(f"predictions  {file.parent}") == 1 and sum(str(file.parent) in line for line in lines) == 1
    assert sorted(line.rpartition("  in ")[2] for line in lines if "  in " in line) == sorted(
        f"{key}.jsonl" for key in evaluations
    )
    *_, same = say_why([*words, folder])
    assert same.startswith("0 of 1 runs are new")
    lines = [*say_why([*words, folder, "seed=9", "train.learning_rate=0.5"])]
    assert run.fingerprint[:12] in lines[1]
    parts = {line.split(":")[0].strip(): line for line in lines[2:-1]}
    assert any("learning_rate" in part and "0.5" in line for part, line in parts.items())
    assert any(part.endswith("seed") and "9" in line for part, line in parts.items())
    assert len(parts) == 2


def test_runs_of_one_name_are_listed_with_the_settings_that_differ(
    plan: Plan, planned: Callable[..., Run], words: tuple[str, ...]
) -> None:
    for rate in (0.5, 0.25):
        planned(*words, f"train.learning_rate={rate}")
    carry_out(plan, None, lambda *_: Silence())
    *listed, count = list_runs([f"output_dir={plan.store.root}"])
    assert sorted(line.split()[-1] for line in listed) == ["train.learning_rate=0.25", "train.learning_rate=0.5"]
    assert count.startswith("2 ")


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


def test_a_run_on_which_others_stand_is_removed_only_with_them_or_by_word(
    plan: Plan, planned: Callable[..., Run], adapted: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    run = planned(*adapted)
    carry_out(plan, None, lambda *_: Silence())
    store, top = plan.store, run.fingerprint[:12]
    source = run.depends_on["eng"][:12]
    (target,) = {needed[:12] for needed in run.evaluation_needs} - {source}
    place, there = f"output_dir={store.root}", {folder.name for folder in store.runs.glob("[0-9a-f]*")}
    assert there == {top, source, target}
    for name in (source, target):  # in training, and in an evaluation
        with pytest.raises(UsageError, match=f"{name}: 1 runs that are kept stand on it: {top}"):
            list(remove([name, place]))
    size = sum(file.stat().st_size for file in store.runs.glob("[0-9a-f]*/**/*") if file.is_file())
    *lines, total = remove([source, target, place], dry_run=True, with_dependents=True)
    assert next(line[:12] for line in lines) == top and len(lines) == 3
    assert total.startswith(f"3 runs, {size:,} bytes") and "would" in total
    assert {folder.name for folder in store.runs.glob("[0-9a-f]*")} == there
    with store.lock(top), pytest.raises(UsageError, match="another process works"):
        list(remove([top, place]))
    list(remove([target, place], anyway=True))
    assert {folder.name for folder in store.runs.iterdir() if folder.is_dir()} == {".locks", top, source}
    assert store.is_sound(run.fingerprint)
    list(remove([source, place], with_dependents=True))
    assert not list(store.runs.glob("[0-9a-f]*")) and not store.finished()
    for words in (["nothing", place], [place], ["list", "--dry-run"]):
        with pytest.raises(SystemExit) as stop:
            main(words if words[0] == "list" else ["remove", *words])
        assert stop.value.code == 2 and len(capsys.readouterr().err.splitlines()) == 1
