"""`evaluation.predictions=true` keeps what a run's module predicts, and changes no run."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from xlt.compose import compose
from xlt.engine.watching import Silence
from xlt.execution.execution import carry_out
from xlt.plan.planner import Plan, Run
from xlt.use.loading import base_path, read_modules, task_of


def test_predictions_are_kept_beside_the_evaluation_when_asked_also_later(
    plan: Plan, planned: Callable[..., Run], words: tuple[str, ...]
) -> None:
    run = planned(*words)
    carry_out(plan, None, lambda *_: Silence())
    evaluations = plan.store.evaluations(run.fingerprint)
    assert not any(plan.store.predictions_file(run.fingerprint, key).exists() for key in evaluations)

    later = Plan(plan.store)
    same = later.add(compose([*words, f"output_dir={plan.store.root}", "evaluation.predictions=true"]))
    assert same.fingerprint == run.fingerprint
    assert carry_out(later, None, lambda *_: Silence()).done == [("evaluate", run.fingerprint)]
    for key, record in plan.store.evaluations(run.fingerprint).items():
        lines = plan.store.predictions_file(run.fingerprint, key).read_text(encoding="utf-8").splitlines()
        rows = [json.loads(line) for line in lines]
        pairs = [(a, b) for row in rows for a, b in zip(row["gold"]["upos"], row["predicted"]["upos"], strict=True)]
        assert record["metrics"]["accuracy"] == pytest.approx(100 * sum(a == b for a, b in pairs) / len(pairs))
        assert record["metrics"] == pytest.approx(evaluations[key]["metrics"])
    again = Plan(plan.store)
    again.add(compose([*words, f"output_dir={plan.store.root}", "evaluation.predictions=true"]))
    assert again.to_evaluate() == []


def test_the_module_of_a_run_says_its_task_and_its_base_model(
    plan: Plan, planned: Callable[..., Run], words: tuple[str, ...]
) -> None:
    run = planned(*words)
    carry_out(plan, None, lambda *_: Silence())
    used = read_modules([str(plan.store.folder(run.fingerprint))], {}).main
    task = task_of(used)
    assert (task.name, task.labels()) == ("pos", list(run.config.task.labels))
    assert task.max_length == run.config.task.max_length
    assert base_path(used, task) == (run.config.model.path, False)
    assert list(used.facts["languages"]) == ["eng"]
