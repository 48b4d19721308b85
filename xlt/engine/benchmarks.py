"""Runs published benchmarks of language models, by the `lm-eval` library, on the base model with its modules.

Thesis §E.1: MMLU, GSM, BBH, TyDiQA, HumanEval. The library builds the prompts, samples the examples in them, generates
and scores. `conf/benchmark` says which tasks, how many examples and which of its metrics are used.
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
    """Yields one line for each fault that can be found without the model and the benchmark's data."""
    if not benchmarks:
        return
    if not task_class(task_config).continues_text:
        yield (
            f"data.benchmarks: benchmarks need a causal language model (for instance task=instruct), but the task is "
            f"{task_name(task_config)}; remove them"
        )
    if importlib.util.find_spec("lm_eval") is None:
        yield (
            f"data.benchmarks: {', '.join(benchmarks)} need the package lm-eval, which is not installed; "
            "run pip install 'xlt[benchmarks]'"
        )
        return
    for name, benchmark in benchmarks.items():
        prefix = f"data.benchmarks.{name}"
        if benchmark.folder is not None and not Path(benchmark.folder).expanduser().is_dir():
            yield f"{prefix}.folder={benchmark.folder}: there is no such folder"
            continue
        known = _manager(benchmark.folder).task_index
        for name_in_lm_eval in benchmark.tasks:
            if name_in_lm_eval not in known:
                yield f"{prefix}.tasks: lm-eval has no task {name_in_lm_eval}; `lm-eval ls tasks` lists its tasks"
            elif (known[name_in_lm_eval].cfg or {}).get("unsafe_code") and not benchmark.runs_code:
                yield (
                    f"{prefix}.runs_code=false: {name_in_lm_eval} runs code that the model writes; "
                    f"set {prefix}.runs_code=true to allow this on this machine"
                )


def run_benchmark(
    model: TransferModel, task: Task, encoder: Encoder, recipe: TrainConfig, name: str, benchmark: BenchmarkConfig
) -> dict[str, float]:
    """Scores a model on one benchmark; the model's mode (training or evaluation) does not change.

    Args:
        model: base and modules, with its language-model head.
        task: of the run; says how conversations are written.
        encoder: the tokenizer; gets the task's chat template if the benchmark is written as conversations.
        recipe: of the run; precision and batch size of evaluation.
        name: of the benchmark, for messages.
        benchmark: its settings.
    Returns:
        `score`, the mean over the benchmark's tasks of their `metric`, times 100; and `score/TASK` for each task.
    Raises:
        UsageError: the benchmark's data cannot be loaded, or lm-eval has no such metric.
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
        raise UsageError(f"data.benchmarks.{name}: its data cannot be loaded: {str(error).splitlines()[0]}") from error
    finally:
        model.train(training)
    assert results is not None
    return _scores(results, benchmark, name)


def _scores(results: Mapping[str, Any], benchmark: BenchmarkConfig, name: str) -> dict[str, float]:
    """Collects the scores; of a group the aggregate of lm-eval if there is one, otherwise those of its tasks."""
    values = {**results["results"], **results.get("groups", {})}
    scores: dict[str, float] = {}
    for task in (task if isinstance(task, str) else task["task"] for task in _tasks(benchmark)):
        parts = [task] if benchmark.metric in values.get(task, {}) else results.get("group_subtasks", {}).get(task, [])
        for part in parts or [task]:
            if benchmark.metric not in values.get(part, {}):
                metrics = ", ".join(k for k, v in values.get(part, {}).items() if isinstance(v, float)) or "none"
                raise UsageError(
                    f"data.benchmarks.{name}.metric={benchmark.metric}: {part} has no such metric; it has {metrics}"
                )
            scores[part] = 100 * float(values[part][benchmark.metric])
    return {SCORE: sum(scores.values()) / len(scores), **{f"{SCORE}/{part}": value for part, value in scores.items()}}


def _tasks(benchmark: BenchmarkConfig) -> list[str | dict[str, str]]:
    """Returns the tasks as arguments of lm-eval; for another split each by itself, because a group cannot have one."""
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
