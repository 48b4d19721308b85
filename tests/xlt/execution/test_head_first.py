"""Runs that begin with one head: their modules have an average, and other heads are refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.xlt.conftest import TAGGING
from xlt.compose import compose
from xlt.engine.watching import Silence
from xlt.errors import UsageError
from xlt.execution.execution import carry_out
from xlt.modules import load_module
from xlt.plan.planner import Plan, Run
from xlt.plan.store import RunStore

MEAN = ("+composition@compositions.mean=average", "compositions.mean.of=[task,second]")
SECOND = "+evaluation.runs.second=['seed=2']"
DATA = tuple(word for word in TAGGING if "evaluation" not in word)
HEAD = ("method=head_only", "language_modules=none", "data=empty", *DATA, "train.learning_rate=0.1")


def begun(*overrides: str) -> tuple[str, ...]:
    listed = ",".join(f"'{word}'" for word in (*HEAD, *overrides))
    return ("start=head_first", "start.run.experiment=pos", f"start.run.overrides=[{listed}]")


def silent(*_: Any) -> Silence:
    return Silence()


@pytest.mark.parametrize("method", ["full", "lt_sft", "mad_x"])
def test_runs_of_several_seeds_begin_with_one_head_and_are_averaged(
    method: str, plan: Plan, planned: Callable[..., Run], words: tuple[str, ...]
) -> None:
    still = ("train.learning_rate=1e-12", "train.head_learning_rate=1e-12", f"method={method}")
    run = planned(*words, *begun("seed=1"), *still, *MEAN, SECOND)
    second = next(one for one in plan.runs.values() if one.config.seed == 2)
    (head,) = (one for one in plan.runs.values() if one.depends_on == {})
    assert run.depends_on == second.depends_on == {"start": head.fingerprint}
    plan.preflight()
    assert carry_out(plan, None, silent).failures == {}
    first, other, begin = (load_module(plan.store.module_file(one.fingerprint)) for one in (run, second, head))
    assert begin.entries == {} and begin.tensors
    for name, tensor in begin.tensors.items():
        torch.testing.assert_close(first.tensors[name], tensor, rtol=0, atol=1e-6)
        torch.testing.assert_close(other.tensors[name], tensor, rtol=0, atol=1e-6)
    records = plan.store.evaluations(run.fingerprint).values()
    assert {one["composition"] for one in records} == {"task", "average(task, second)"}


def test_heads_with_several_starts_or_none_are_refused_before_anything_is_trained(
    planned: Callable[..., Run], words: tuple[str, ...]
) -> None:
    def lines(*more: str) -> str:
        with pytest.raises(UsageError) as fault:
            planned(*words, *MEAN, SECOND, *more)
        return "\n".join(fault.value.lines)

    assert "the heads of task, second are drawn independently, so they have no average" in lines()
    own_seed = lines(*begun("seed=${seed}"))
    assert "average(task, second): task and second do not start from one run" in own_seed
    assert "start.run: leaves a head, but task mlm has none" in lines(
        *begun("seed=1"), "task=mlm_mini", "~compositions.mean", "method=bitfit"
    )


def test_a_file_of_a_head_is_what_every_method_starts_from(
    plan: Plan, planned: Callable[..., Run], words: tuple[str, ...], tmp_path: Path
) -> None:
    run = planned(*words, "method=head_only", "train.learning_rate=0.1")
    assert carry_out(plan, None, silent).failures == {}
    file = plan.store.module_file(run.fingerprint)
    head = load_module(file)
    store = RunStore(tmp_path / "second")
    again = Plan(store)
    still = ("method=bitfit", "train.learning_rate=1e-12", "train.head_learning_rate=1e-12")
    tuned = again.add(compose([*words, *still, f"start.path={file}", f"output_dir={store.root}"]))
    again.preflight()
    assert carry_out(again, None, silent).failures == {}
    module = load_module(store.module_file(tuned.fingerprint))
    for name, tensor in head.tensors.items():
        torch.testing.assert_close(module.tensors[name], tensor, rtol=0, atol=1e-6)


def test_a_head_alone_is_trained_for_tasks_that_have_one(planned: Callable[..., Run], words: tuple[str, ...]) -> None:
    with pytest.raises(UsageError, match="method head_only: task mlm has no head of its own to train"):
        planned(*words, "method=head_only", "task=mlm_mini")
