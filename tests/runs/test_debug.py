"""The presets of debug: a few steps of everything, and a batch that is learned by heart or not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.runs.conftest import write_experiment
from xlt.commands.learned import learned_line
from xlt.compose import checked, compose, hydra_ready
from xlt.plan.planner import Plan
from xlt.plan.store import RunStore

SETTINGS = "threads: 1\nlanguage_modules: {overrides: [task.max_length=40]}\n"


@pytest.fixture
def words(tmp_path: Path, data_dir: Path, tiny_bert: Path) -> tuple[str, ...]:
    choices = ["override /method: lt_sft", "override /language_modules: mono"]
    own = write_experiment(tmp_path / "own", "mine", choices, SETTINGS)
    folder = ("--config-dir", str(own))
    return (*folder, "experiment=mine", f"data_dir={data_dir}", f"model.path={tiny_bert}", "output_dir=out")


def test_a_fast_run_takes_a_few_steps_of_everything_and_so_do_those_that_it_needs(
    command: Callable[..., Any], words: tuple[str, ...]
) -> None:
    ended = command(*words, "debug=fast")
    assert ended.code == 0, ended.lines
    runs = {path.parent for path in Path("out/runs").glob("*/result.json")}
    assert len(runs) == 3  # two language modules and the task module
    for folder in runs:
        records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        assert max(record["step"] for record in records) == 4
        assert {record["phase"] for record in records} == {"dense", "sparse"}
        assert any("validation/" in name for record in records for name in record)
    assert [path for path in ended.left if "/predictions/" in path]
    with hydra_ready(str(Path(words[1]))):
        plan = Plan(RunStore("out"))
        for more in ((), ("debug=fast", "seed=2")):
            plan.add(compose([*words[2:], *more]))
    estimates = [seconds for _, state, seconds in plan.rows() if "train" in state]
    assert [seconds is None for seconds in estimates] == [True] * 3 + [False]  # the language modules are there


def test_a_batch_is_learned_by_heart_and_the_command_says_so(
    command: Callable[..., Any], words: tuple[str, ...]
) -> None:
    alone = ("language_modules=none", "method=full", "debug=overfit", "train.max_steps=60")
    ended = command(*words, *alone, "train.learning_rate=1e-2")
    assert ended.code == 0, ended.lines
    (said,) = [line for line in ended.out.splitlines() if "debug=overfit" in line]
    assert "the batch is learned by heart" in said and "in 60 steps" in said
    ended = command(*words, *alone, "train.learning_rate=1e-8")
    (said,) = [line for line in ended.out.splitlines() if "debug=overfit" in line]
    assert "NOT learned by heart" in said and "train.learning_rate" in said


def test_the_losses_of_the_last_phase_decide() -> None:
    dense = [{"phase": "dense", "step": n, "loss": 1 / n} for n in range(1, 99)]
    sparse = [{"phase": "sparse", "step": n, "loss": 2.0} for n in range(1, 9)]
    assert "learned by heart: loss 1" in learned_line(dense)
    assert "NOT learned by heart: loss 2 -> 2 in 8 steps" in learned_line([*dense, *sparse])
    assert "nothing can be said" in learned_line([])


def test_data_cap_lowers_the_caps_of_all_sources_once() -> None:
    with hydra_ready():
        free = checked(compose(["experiment=nano_joint"]))
        capped = checked(compose(["experiment=nano_joint", "data.cap=90"]))
        same = checked(compose(["experiment=nano_joint", "data.cap=90"]))
    count = len(free.data.sources)
    assert count > 1 and {source.cap for source in capped.data.sources.values()} == {90 // count}
    assert all(source.cap is not None and source.cap <= 90 for source in capped.data.evaluation.values())
    assert [one.cap for one in same.data.sources.values()] == [one.cap for one in capped.data.sources.values()]
