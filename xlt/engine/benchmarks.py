"""Published benchmarks of language models, run by the `lm-eval` library on the base model and its modules.

Thesis §E.1: MMLU, GSM, BBH, TyDiQA, HumanEval. The library makes the prompts, samples the shots, generates and scores;
which tasks, how many shots and which of its metrics is `conf/benchmark`.
"""

from __future__ import annotations

import importlib.util
import logging
import os
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch

from xlt.config import BenchmarkConfig, TrainConfig
from xlt.data.encoding import Encoder
from xlt.engine.build import task_class, task_name
from xlt.engine.evaluation import autocast
from xlt.errors import UsageError
from xlt.models.loading import whole_pretrained
from xlt.models.transfer import TransferModel
from xlt.tasks.task import Task

SCORE = "score"


def benchmark_faults(benchmarks: Mapping[str, BenchmarkConfig], task_config: Any) -> Iterator[str]:
    """What can be found wrong without a model or the benchmark's data, a line each."""
    if not benchmarks:
        return
    if not task_class(task_config).continues_text:
        yield f"data.benchmarks: they are for causal language models; task {task_name(task_config)} has none"
    if importlib.util.find_spec("lm_eval") is None:
        yield f"data.benchmarks: {', '.join(benchmarks)} need lm-eval; pip install 'xlt[benchmarks]'"
        return
    for name, benchmark in benchmarks.items():
        prefix = f"data.benchmarks.{name}"
        if benchmark.folder is not None and not Path(benchmark.folder).expanduser().is_dir():
            yield f"{prefix}.folder={benchmark.folder}: no such folder"
            continue
        known = _manager(benchmark.folder).task_index
        for own_name in benchmark.tasks:
            if own_name not in known:
                yield f"{prefix}.tasks: lm-eval has no task {own_name}; `lm-eval ls tasks` shows them"
            elif (known[own_name].cfg or {}).get("unsafe_code") and not benchmark.runs_code:
                yield (
                    f"{prefix}.runs_code=false: {own_name} runs code that the model wrote; "
                    f"give {prefix}.runs_code=true to allow that on this machine"
                )


def run_benchmark(
    model: TransferModel, task: Task, encoder: Encoder, recipe: TrainConfig, name: str, benchmark: BenchmarkConfig
) -> dict[str, float]:
    """Scores of a model on one benchmark.

    The model is left in the mode it was in.

    Args:
        model: base and modules, with its language-model head.
        task: of the run; says how conversations are written.
        encoder: the tokenizer; gets the task's chat template if the benchmark is written as conversations.
        recipe: of the run; precision and batch size of evaluation.
        name: of the benchmark, for messages.
        benchmark: its settings.
    Returns:
        `score`: the mean over the benchmark's tasks, each scored by its `metric`, times 100; and every task's own.
    Raises:
        UsageError: the data cannot be had, or lm-eval has no such metric.
    """
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    tokenizer = encoder.tokenizer
    if benchmark.chat and (template := task.chat_template()) is not None:
        tokenizer.chat_template = template
    if benchmark.runs_code:
        os.environ["HF_ALLOW_CODE_EVAL"] = "1"
    training = model.training
    model.eval()
    try:
        with torch.no_grad(), autocast(model, recipe.precision):
            results = simple_evaluate(
                model=HFLM(
                    pretrained=whole_pretrained(model),
                    tokenizer=tokenizer,
                    batch_size=recipe.evaluation_batch_size,
                ),
                tasks=_tasks(benchmark),
                task_manager=_manager(benchmark.folder),
                num_fewshot=benchmark.shots,
                limit=benchmark.limit,
                gen_kwargs=benchmark.generation,
                apply_chat_template=benchmark.chat,
                fewshot_as_multiturn=benchmark.chat,
                confirm_run_unsafe_code=benchmark.runs_code,
                bootstrap_iters=0,
                log_samples=False,
            )
    except (ConnectionError, FileNotFoundError) as error:
        raise UsageError(f"data.benchmarks.{name}: its data cannot be had: {str(error).splitlines()[0]}") from error
    finally:
        model.train(training)
    assert results is not None
    return _scores(results, benchmark, name)


def _scores(results: Mapping[str, Any], benchmark: BenchmarkConfig, name: str) -> dict[str, float]:
    """A group counts by its own aggregate where lm-eval has one, else by its tasks."""
    found = {**results["results"], **results.get("groups", {})}
    scores: dict[str, float] = {}
    for task in (task if isinstance(task, str) else task["task"] for task in _tasks(benchmark)):
        parts = [task] if benchmark.metric in found.get(task, {}) else results.get("group_subtasks", {}).get(task, [])
        for part in parts or [task]:
            if benchmark.metric not in found.get(part, {}):
                there = ", ".join(k for k, v in found.get(part, {}).items() if isinstance(v, float)) or "none"
                raise UsageError(f"data.benchmarks.{name}.metric={benchmark.metric}: {part} has {there}")
            scores[part] = 100 * float(found[part][benchmark.metric])
    return {SCORE: sum(scores.values()) / len(scores), **{f"{SCORE}/{part}": value for part, value in scores.items()}}


def _tasks(benchmark: BenchmarkConfig) -> list[str | dict[str, str]]:
    """As lm-eval takes them; on another split, each by itself, for a group cannot be told one."""
    if benchmark.split is None:
        return list(benchmark.tasks)
    index = _manager(benchmark.folder).task_index

    def leaves(name: str) -> list[str]:
        entry = index[name]
        if entry.kind.name == "TAG":
            return [other for other, tagged in index.items() if name in tagged.tags]
        parts = (entry.cfg or {}).get("task")
        return [leaf for part in parts for leaf in leaves(part)] if isinstance(parts, list) else [name]

    return [{"task": leaf, "test_split": benchmark.split} for name in benchmark.tasks for leaf in leaves(name)]


@cache
def _manager(folder: str | None) -> Any:
    from lm_eval.tasks import TaskManager

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    return TaskManager(include_path=None if folder is None else str(Path(folder).expanduser()))
