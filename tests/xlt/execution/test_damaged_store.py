"""What is damaged in the store, or is another run's, is made again by the same command; no other number comes of it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from xlt.compose import compose
from xlt.execution.execution import carry_out
from xlt.plan.planner import Plan, Run
from xlt.plan.store import RunStore
from xlt.tracking.jsonl import MetricsFile


def _watch(run: Run, store: RunStore) -> MetricsFile:
    return MetricsFile(store.folder(run.fingerprint))


def _scores(store: RunStore, run: Run) -> dict[str, Any]:
    return {key: record["metrics"] for key, record in store.evaluations(run.fingerprint).items()}


@pytest.fixture
def again(plan: Plan) -> Callable[..., tuple[Plan, Run]]:
    """`again(*overrides)`: a new plan in the same store, as the same command makes it."""

    def make(*overrides: str) -> tuple[Plan, Run]:
        new = Plan(RunStore(plan.store.root))
        return new, new.add(compose([*overrides, f"output_dir={plan.store.root}"]))

    return make


def test_another_runs_module_is_not_evaluated_and_the_run_is_trained_again(
    plan: Plan, again: Callable[..., tuple[Plan, Run]], words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [plan.add(compose([*words, f"seed={seed}", f"output_dir={plan.store.root}"])) for seed in (1, 2)]
    assert carry_out(plan, None, _watch).failures == {}
    own, other = (plan.store.folder(run.fingerprint) for run in runs)
    module, scores = (own / "module.safetensors").read_bytes(), [_scores(plan.store, run) for run in runs]
    shutil.copy(other / "module.safetensors", own)
    (own / "evaluation.json").unlink()
    capsys.readouterr()
    new, run = again(*words, "seed=1")
    new.preflight()
    assert [one.fingerprint for one in new.to_train()] == [run.fingerprint]
    assert [what for what, _ in carry_out(new, None, _watch).done] == ["train", "evaluate"]
    assert (own / "module.safetensors").read_bytes() == module
    assert [_scores(new.store, run) for run in runs] == scores
    (line,) = capsys.readouterr().err.splitlines()
    assert str(own / "module.safetensors") in line
    assert (own / "module.safetensors.damaged").read_bytes() == (other / "module.safetensors").read_bytes()


def test_a_module_that_is_damaged_after_planning_is_not_used(
    plan: Plan, planned: Callable[..., Run], words: tuple[str, ...], tmp_path: Path
) -> None:
    run = planned(*words)
    carry_out(plan, None, _watch)
    scores, file = _scores(plan.store, run), plan.store.module_file(run.fingerprint)
    (file.parent / "evaluation.json").unlink()
    plan.preflight()
    file.write_bytes(file.read_bytes()[:-1] + b"\1")
    (reason,) = carry_out(plan, None, _watch).failures.values()
    assert str(file.parent) in reason and "\n" not in reason
    new = Plan(RunStore(plan.store.root))
    new.add(compose([*words, f"output_dir={tmp_path / 'outputs'}"]))
    assert carry_out(new, None, _watch).failures == {}
    assert _scores(new.store, run) == scores


def test_a_damaged_language_module_is_trained_again_before_what_stands_on_it(
    plan: Plan, again: Callable[..., tuple[Plan, Run]], planned: Callable[..., Run], adapted: tuple[str, ...]
) -> None:
    run = planned(*adapted)
    carry_out(plan, None, _watch)
    scores = _scores(plan.store, run)
    modules = {one.fingerprint: plan.store.module_file(one.fingerprint).read_bytes() for one in plan.runs.values()}
    for fingerprint in modules:
        plan.store.module_file(fingerprint).write_bytes(b"")
    (plan.store.folder(run.fingerprint) / "result.json").unlink()
    (plan.store.folder(run.fingerprint) / "evaluation.json").write_text("[]")
    new, _ = again(*adapted)
    assert carry_out(new, None, _watch).failures == {}
    assert {name: new.store.module_file(name).read_bytes() for name in modules} == modules
    assert _scores(new.store, run) == scores


@pytest.mark.parametrize("name", ["result.json", "evaluation.json", "manifest.json", "metrics.jsonl"])
@pytest.mark.parametrize("damage", ["", "[]", "half", "other"])
@pytest.mark.slow
def test_the_same_command_makes_a_damaged_file_again(
    name: str,
    damage: str,
    plan: Plan,
    again: Callable[..., tuple[Plan, Run]],
    planned: Callable[..., Run],
    words: tuple[str, ...],
) -> None:
    run = planned(*words)
    carry_out(plan, None, _watch)
    file, scores = plan.store.folder(run.fingerprint) / name, _scores(plan.store, run)
    records, result = plan.store.metrics(run.fingerprint), plan.store.result(run.fingerprint)
    text = file.read_text()
    file.write_text({"half": text[: len(text) // 2], "other": '{"a": 1}\n'}.get(damage, damage))
    new, _ = again(*words)
    new.preflight()
    assert carry_out(new, None, _watch).failures == {}
    assert _scores(new.store, run) == scores
    made = new.store.result(run.fingerprint)
    assert {**made["training"], "seconds": 0} == {**result["training"], "seconds": 0}
    assert made["files"] == result["files"] and new.store.manifest(run.fingerprint)["identity"] == run.identity
    assert new.store.metrics(run.fingerprint) in (records, [])
    assert carry_out(again(*words)[0], None, _watch).done == []


def test_a_garbled_manifest_of_another_run_stops_no_plan(
    plan: Plan, again: Callable[..., tuple[Plan, Run]], planned: Callable[..., Run], words: tuple[str, ...]
) -> None:
    run = planned(*words)
    for number, content in enumerate(("", "[]", "{}", "{", '{"fingerprint": 3, "identity": []}', "\0")):
        folder = plan.store.runs / f"{number:012x}"
        folder.mkdir(parents=True)
        for name in ("manifest.json", "result.json", "evaluation_time.json"):
            (folder / name).write_text(content)
    new, _ = again(*words, "other_code=use")
    assert len(new.rows()) == 1 and new.made_by_other_code() == []
    assert run.kind not in new.store.seconds_of_kinds()
