"""Sweeps: what jobs share is trained once, one that fails or is killed stops no other, a repeat does what is left."""

from __future__ import annotations

import json
import os
import re
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
import pytest

from tests.runs.conftest import write_experiment
from xlt.compose import hydra_ready
from xlt.engine.run import Composition
from xlt.engine.training import Interrupted
from xlt.execution import execution
from xlt.plan.planner import Run

CHOICES = ["override /method: bitfit", "override /language_modules: mono"]
SETTINGS = """\
train: {max_steps: 4, evaluate_every_steps: 2, batch_size: 4}
language_modules:
  overrides: [train.max_steps=2, train.evaluate_every_steps=2, task.max_length=40, data.held_out_fraction=0.2]
threads: 1
"""


def write_swept_experiment(configs: Path) -> Path:
    """Writes `experiment=swept`, BitFit with language modules, to a folder of configs; returns the folder."""
    return write_experiment(configs, "swept", CHOICES, SETTINGS)


@pytest.fixture
def words(tmp_path: Path, data_dir: Path, tiny_bert: Path) -> tuple[str, ...]:
    folder = write_swept_experiment(tmp_path / "own")
    model = f"model.path={tiny_bert}"
    return ("--config-dir", str(folder), "-m", "experiment=swept", f"data_dir={data_dir}", model, "output_dir=out")


def summary(ended: Any) -> list[dict[str, Any]]:
    """The last sweep's."""
    files = sorted(path for path in ended.left if path.endswith("summary.json"))
    return json.loads(Path(files[-1]).read_text(encoding="utf-8"))


def trained(ended: Any) -> int:
    return sum(path.endswith("module.safetensors") for path in ended.left)


def test_what_jobs_share_is_trained_once_and_a_repeat_does_nothing(
    command: Callable[..., Any], words: tuple[str, ...]
) -> None:
    ended = command(*words, "seed=1,2")
    assert ended.code == 0, ended.lines
    assert trained(ended) == 2 + 2  # two task modules, the English and the Faroese language module
    assert [(row["overrides"], row["state"]) for row in summary(ended)] == [("seed=1", "done"), ("seed=2", "done")]
    assert set(summary(ended)[0]["scores"]) == {"task", "task+language"}
    jobs = [Path(path) for path in ended.left if re.fullmatch(r"out/sweeps/[^/]+/\d+", path)]
    assert [path.is_symlink() and (path / "module.safetensors").is_file() for path in jobs] == [True, True]
    said = "\n".join(ended.lines)
    assert "[0/4 runs] " in said and "begins" in said and re.search(r"\[3/4 runs, .*, about .* left\] ", said)
    again = command(*words, "seed=1,2,3")
    assert [row["state"] for row in summary(again)] == ["existed", "existed", "done"]
    assert summary(again)[:2] == [row | {"state": "existed"} for row in summary(ended)]
    assert trained(again) == trained(ended) + 1


def test_a_plan_alone_lists_the_runs_of_a_sweep_and_leaves_nothing(
    command: Callable[..., Any], words: tuple[str, ...]
) -> None:
    ended = command(*words, "--plan", "seed=1,2")
    assert (ended.code, ended.left) == (0, [])
    assert "4 runs: 0 exist, 4 to do" in ended.out and "swept bitfit eng seed=2" in ended.out
    wrong = command(*words, "train.batch_size=4,0", "--plan")
    assert (wrong.code, wrong.left) == (2, [])
    assert "train.batch_size=0" in wrong.lines[0] and "3 runs: 0 exist, 3 to do" in wrong.out
    assert command(*words, "seed=1", "language_modules=none").code == 0
    assert "1 run: 1 exist, 0 to do" in command(*words, "seed=1", "language_modules=none", "--plan").out


def test_a_plan_alone_lists_what_one_run_needs_and_leaves_nothing(
    command: Callable[..., Any], words: tuple[str, ...]
) -> None:
    one = [word for word in words if word != "-m"]
    ended = command(*one, "--plan")
    assert (ended.code, ended.left) == (0, [])
    assert "3 runs: 0 exist, 3 to do" in ended.out
    alone = command(*one, "language_modules=none", "--plan")
    assert "1 run: 0 exist, 1 to do" in alone.out
    ignored = "note: train.ema_decay=0.5: has no effect here: the other settings of the run leave it unused"
    assert ignored in command(*one, "language_modules=none", "train.ema_decay=0.5", "--plan").lines
    assert ignored in command(*words, "language_modules=none", "train.ema_decay=0.5", "seed=1,2", "--plan").lines
    wrong = command("--plan", *one, "train.batch_siz=2")
    assert (wrong.code, wrong.lines) == (
        2,
        ["xlt: train.batch_siz=2: no such key train.batch_siz; did you mean train.batch_size?"],
    )
    both = command(*one, "--plan", "--cfg", "job")
    assert (both.code, both.lines) == (2, ["xlt: --plan --cfg: give one of them"])


def test_a_search_cannot_be_planned(command: Callable[..., Any], words: tuple[str, ...]) -> None:
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    ended = command(*words, "language_modules=none", "search=learning_rate", "--plan")
    assert (ended.code, ended.left) == (2, [])
    line = "jobs of a search, or of another Hydra launcher, are not known before; leave it out"
    assert ended.lines == [f"xlt: --plan: {line}"]


def test_a_job_that_fails_is_named_with_its_reason_and_tried_again(
    command: Callable[..., Any], words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    train = execution._train

    def failing(run: Run, *others: Any) -> None:
        if run.config.seed == 2 and run.config.language is None:
            raise RuntimeError("no room left")
        train(run, *others)

    with monkeypatch.context() as patch:
        patch.setattr(execution, "_train", failing)
        ended = command(*words, "seed=1,2,3")
    assert ended.code == 1
    assert [row["state"] for row in summary(ended)] == ["done", "failed", "done"]
    reason = summary(ended)[1]["reason"]
    assert "test_sweep.py:" in reason and "RuntimeError: no room left" in reason
    assert f"job 1 failed: {reason}" in ended.out
    assert "2 done, 1 failed" in ended.out
    again = command(*words, "seed=1,2,3")
    assert (again.code, [row["state"] for row in summary(again)]) == (0, ["existed", "done", "existed"])


def test_a_sweep_that_is_stopped_says_what_was_done_and_goes_on(
    command: Callable[..., Any], words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    train = execution._train

    def stopped(run: Run, *others: Any) -> None:
        if run.config.seed == 2:
            raise Interrupted(signal.SIGTERM)
        train(run, *others)

    with monkeypatch.context() as patch:
        patch.setattr(execution, "_train", stopped)
        ended = command(*words, "seed=1,2", "language_modules=none")
    assert ended.code == 128 + signal.SIGTERM
    assert [row["state"] for row in summary(ended)] == ["done", "not finished"]
    assert "1 done, 1 not finished" in ended.out and any(path.endswith("sweep.html") for path in ended.left)
    again = command(*words, "seed=1,2", "language_modules=none")
    assert [row["state"] for row in summary(again)] == ["existed", "done"]


def test_a_job_shows_the_evaluations_that_it_asked_for_and_not_those_of_another_job(
    command: Callable[..., Any], words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    def scored(run: Any, data: Any, model: str, wanted: dict[str, Composition], *_: Any) -> Any:
        scores = {"": 30.0, "eng": 20.0, "fao": 80.0}  # by the language module in use
        records = {
            key: {
                "source": composition.source,
                "composition": composition.label,
                "metrics": {"accuracy": scores[composition.modules[0].language or ""]},
            }
            for key, composition in wanted.items()
        }
        return records.items()

    monkeypatch.setattr(execution, "evaluate_compositions", scored)
    ended = command(*words, "+language_modules.stand_in.fao=fao,eng", "launcher.workers=1")
    assert ended.code == 0, ended.lines
    assert trained(ended) == 1 + 2  # one task module for both jobs, and the modules of two languages
    expected = [{"task": 30.0, "task+language": 80.0}, {"task": 30.0, "task+language": 20.0}]
    assert [row["scores"] for row in summary(ended)] == expected
    (page,) = (Path(path) for path in ended.left if path.endswith("sweep.html"))
    text = page.read_text(encoding="utf-8")
    for code, score in (("fao", "80.0"), ("eng", "20.0")):
        assert re.search(rf"stand_in\.fao={code}</a></th>(?:(?!</tr>).)*task\+language(?:(?!</tr>).)*{score}", text), (
            code
        )


def _kill_one_child(after: Path, killed: list[int]) -> None:
    """Kills a process of this one's, as the kernel does when memory runs out, once a run has begun to train."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not killed:
        children = Path(f"/proc/self/task/{os.getpid()}/children")
        if list(after.glob("*/metrics.jsonl")) and children.exists():
            for child in map(int, children.read_text(encoding="utf-8").split()):
                if "spawn_main" in Path(f"/proc/{child}/cmdline").read_text(encoding="utf-8"):
                    os.kill(child, signal.SIGKILL)
                    killed.append(child)
                    return
        time.sleep(0.01)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds the worker by /proc")
def test_a_job_whose_process_is_killed_stops_no_other_and_is_done_by_the_repeat(
    command: Callable[..., Any], words: tuple[str, ...]
) -> None:
    killed: list[int] = []
    killer = threading.Thread(target=_kill_one_child, args=(Path("out/runs"), killed))
    killer.start()
    side_by_side = (
        *words,
        "seed=1,2",
        "launcher=parallel",
        "language_modules=none",
        "train.max_steps=200",
        "train.evaluate_every_steps=50",
    )
    ended = command(*side_by_side)
    killer.join()
    assert killed and ended.code == 1
    assert sorted(row["state"] for row in summary(ended)) == ["done", "failed"]
    assert "its process died (out of memory, or killed)" in ended.out
    again = command(*side_by_side)
    assert again.code == 0, again.lines
    assert sorted(row["state"] for row in summary(again)) == ["done", "existed"]


def test_jobs_that_differ_in_nothing_that_is_learned_are_one_run(
    command: Callable[..., Any], words: tuple[str, ...]
) -> None:
    ended = command(*words, "threads=1,2", "language_modules=none")
    assert ended.code == 0, ended.lines
    assert trained(ended) == 1
    assert [row["state"] for row in summary(ended)] == ["done", "done"]
    assert "note: jobs 0 = 1 have one result each: threads changes nothing in it" in ended.lines
    assert "\naccuracy, fao\njobs 0 = 1 have one result each: threads changes nothing in it\n" in ended.out


def test_a_search_hands_the_validation_metric_to_the_sweeper(
    command: Callable[..., Any], words: tuple[str, ...]
) -> None:
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    searched = ("language_modules=none", "search=learning_rate", "hydra.sweeper.n_trials=2")
    ended = command(*words, *searched)
    assert ended.code == 0, ended.lines
    (found,) = (path for path in ended.left if path.endswith("optimization_results.yaml"))
    text = Path(found).read_text(encoding="utf-8")
    results = [
        json.loads(Path(path).read_text(encoding="utf-8")) for path in ended.left if path.endswith("result.json")
    ]
    scores = {result["training"]["best/accuracy"] for result in results}
    assert f"best_value: {max(scores)}" in text
    assert trained(ended) == 2
    assert not [path for path in ended.left if path.endswith("evaluation.json")]  # no test set was looked at


def test_a_search_shows_its_best_trial_and_the_same_command_continues_it(
    command: Callable[..., Any], words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    searched = ("language_modules=none", "search=learning_rate", "hydra.sweeper.n_trials=3")
    carried_out, calls = execution.carry_out, []

    def interrupted(*arguments: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) > 1:
            raise Interrupted(15)
        return carried_out(*arguments, **options)

    monkeypatch.setattr(execution, "carry_out", interrupted)
    ended = command(*words, *searched)
    assert ended.code == 128 + 15, ended.lines
    assert "2 trials are left; the same command goes on" in ended.out
    monkeypatch.setattr(execution, "carry_out", carried_out)
    before = {path for path in ended.left if path.endswith("module.safetensors")}
    assert len(before) == 1
    ended = command(*words, *searched)
    assert ended.code == 0, ended.lines
    assert trained(ended) == 3 and before < set(ended.left)  # the first trial was chosen again, and not trained again
    study = json.loads(Path(max(p for p in ended.left if p.endswith("study.json"))).read_text(encoding="utf-8"))
    values = [trial["value"] for trial in study["trials"]]
    best = study["trials"][study["best"]]
    assert len(values) == 3 and best["value"] == max(values)
    (line,) = [line for line in ended.out.splitlines() if line.startswith("best of 3 trials")]
    assert f"trial {best['number']}" in line and f"{best['value']:.6g}" in line and best["run"][:12] in line
    page = Path(max(path for path in ended.left if path.endswith("sweep.html"))).read_text(encoding="utf-8")
    assert "best: " in page and "Search: best trial" in page


@pytest.mark.parametrize(
    ("words", "direction"),
    [
        (["experiment=pos"], "maximize"),
        (["experiment=translation", "target=mad"], "maximize"),
        (["experiment=language", "language=eng"], "minimize"),
        (["experiment=instruct"], "minimize"),
        (["experiment=pos", "teacher.losses=[hidden]"], "minimize"),
        (["experiment=pos", "teacher.losses=[hidden,prediction]"], "maximize"),
    ],
)
def test_a_search_looks_for_the_checkpoint_that_a_run_would_select(words: list[str], direction: str) -> None:
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    with hydra_ready():
        config = hydra.compose("config", [*words, "search=learning_rate"], return_hydra_config=True)
    assert config.hydra.sweeper.direction == direction
