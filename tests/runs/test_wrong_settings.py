"""Settings out of range or in contradiction: exit code 2, one line for each fault, nothing left behind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.runs.conftest import Ended
from tests.runs.refusals import RIGHT, Mistakes, assert_refused, filled, refused

# Name of the mistake -> words that are added to the right command, and for each expected line its parts.
MISTAKES: Mistakes = {
    "below its range": (("train.batch_size=0",), [["train.batch_size=0: must be at least 1"]]),
    "above its range": (
        ("method.density=2",),
        [["method.density=2.0: must be in (0, 1]; thesis range 0.0025 to 0.08"]],
    ),
    "not a number": (("data.held_out_fraction=nan",), [["data.held_out_fraction=nan: must be in [0, 0.5]"]]),
    "not among the choices": (("train.precision=fp8",), [["train.precision=fp8: must be one of fp32, bf16"]]),
    "unknown device": (
        ("device=gpu",),
        [["device=gpu: must be cpu, cuda, cuda:N, auto, or several GPUs as in cuda:0+cuda:1"]],
    ),
    "one device twice": (("device=cuda:1+cuda:1",), [["device=cuda:1+cuda:1: a device is named twice"]]),
    "several devices for several runs": (
        ("device=cuda:0+cuda:1", "launcher=parallel"),
        [["device=cuda:0+cuda:1: launcher.workers=2 gives each run one GPU"]],
    ),
    "several ranges and contradictions": (
        ("train.batch_size=0", "train.clip_norm=-1", "seed=-1", "data.validation.eng.split=test", "language=xx"),
        [
            ["data.validation.eng.split=test"],
            ["train.batch_size=0"],
            ["train.clip_norm=-1.0"],
            ["seed=-1: must be at least 0"],
        ],
    ),
    "no model": (("model.path=null",), [["model: exactly one of model.path, model.run, model.random", "none"]]),
    "two models": (
        ("model=nano_random", "model.path={model}"),
        [["model: exactly one of", "model.path and model.random"]],
    ),
    "dropout of random weights in two places": (
        ("model=nano_random", "model.path=null", "model.dropout=0.2"),
        [["model.dropout=0.2: random weights have one in model.random.dropout"]],
    ),
    "selection on a test split": (
        ("data.validation.eng.split=test",),
        [["data.validation.eng.split=test: model selection on a test split is refused", "split=dev"]],
    ),
    "training on a test split": (
        ("data.sources.eng.split=test",),
        [["data.sources.eng.split=test: training on a test split is refused"]],
    ),
    "nothing to learn from": (("~data.sources.eng",), [["data.sources: empty; add one", "+source@data.sources.eng"]]),
    "language without module": (
        ("+language_modules.paths.eng={module}",),
        [["language_modules: no module for fao; give +language_modules.paths.fao=FILE"]],
    ),
    "two-letter language code": (
        ("data.sources.eng.language=fo",),
        [["data.sources.eng.language=fo: not an ISO 639-3 code; Faroese is fao"]],
    ),
    "language by its name": (
        ("data.evaluation.fao.language=faroese",),
        [["data.evaluation.fao.language=faroese: not an ISO 639-3 code; did you mean fao?"]],
    ),
    "language that nobody speaks": (("data.evaluation.fao.language=qqq",), [["qqq: not an ISO 639-3 code"]]),
    "language outside of the embedded corpus": (
        ("data.evaluation.fao.reader=locale_expressions", "data.evaluation.fao.language=ace"),
        [["data.evaluation.fao.language=ace: not one of the", "embedded corpus"]],
    ),
    "language module from another language": (
        ("task=mlm_lines", "task.max_length=40", "language=fao"),
        [["language=fao: data.sources.eng is of language eng"]],
    ),
    "language for a task": (("language=eng",), [["language=eng: task pos leaves a task module"]]),
    "no length of training": (
        ("train.max_steps=null",),
        [["train.epochs and train.max_steps are both null: nothing says how long to train"]],
    ),
    "two rhythms of evaluation": (
        ("train.evaluate_every_epochs=1",),
        [["give one of train.evaluate_every_steps and train.evaluate_every_epochs, not both"]],
    ),
    "more steps at least than at most": (
        ("train.min_steps=9",),
        [["train.min_steps=9: larger than train.max_steps=2"]],
    ),
    "micro-batch above the batch": (
        ("train.batch_size=4", "train.micro_batch_size=8"),
        [["train.micro_batch_size=8: larger than train.batch_size=4"]],
    ),
    "absurd learning rate": (
        ("train.learning_rate=1e20",),
        [["train.learning_rate=1e+20: must be in (0, 1.0]", "Adam"]],
    ),
    "absurd learning rates of the head and of a phase": (
        ("method=lt_sft", "train.head_learning_rate=5", "method.dense_learning_rate=50"),
        [
            ["method.dense_learning_rate=50.0: must be in (0, 1.0]"],
            ["train.head_learning_rate=5.0: must be in (0, 1.0]"],
        ],
    ),
    "decay that takes more than all": (
        ("train.learning_rate=0.1", "train.weight_decay=20"),
        [["train.weight_decay=20.0", "train.learning_rate=0.1", "2 times", "give 10 or less"]],
    ),
    "decay rates of Adam that are none": (
        ("method=spiel_ag", "method.adam_betas=[0.9,1]", "method.update_interval=1", "method.estimation_steps=1"),
        [["method.adam_betas=[0.9, 1.0]: each must be at least 0 and less than 1"]],
    ),
    "interval above the steps": (
        ("method=spiel_ma", "method.update_interval=2"),
        [["method.update_interval=2: in 2 steps no entry would be replaced", "give method.update_interval=1 or less"]],
    ),
    "rank above the smaller side of a matrix": (
        ("method=lora", "method.rank=33"),
        [["method.rank=33", "32 x 32", "give 32 or less"]],
    ),
    "heads that do not divide the width": (
        ("model=nano_random", "model.path=null", "model.random.heads=3"),
        [["model.random.heads=3: must divide model.random.hidden_size=128"]],
    ),
    "input longer than the model's positions": (
        ("task.max_length=400",),
        [["task.max_length=400", "has 50 positions", "give task.max_length=50 or less"]],
    ),
    "input longer than a random model's positions": (
        ("model=nano_random", "model.path=null", "task.max_length=400"),
        [["task.max_length=400: model.random has 96 positions"]],
    ),
    "unknown base run": (
        ("model=nano", "model.path=null", "model.run.experiment=nano_pretrane"),
        [["model.run: experiment=nano_pretrane", "did you mean nano_pretrain?"]],
    ),
    "mistake in a base run's overrides": (
        ("model=nano", "model.path=null", "model.run.overrides=['train.batch_size=0']"),
        [["train.batch_size=0: must be at least 1"]],
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_wrong_setting_gets_one_line_and_leaves_nothing(
    name: str, input_files: dict[str, Path], command: Callable[..., Ended]
) -> None:
    assert_refused(command, input_files, *MISTAKES[name])


def test_no_arguments_get_a_line_that_says_how_to_begin(command: Callable[..., Ended]) -> None:
    refused(command(), [["give what to run, for instance: xlt experiment=nano_fields; xlt --help has the rest"]])


def test_a_run_without_model_and_data_gets_a_line_for_each(command: Callable[..., Ended]) -> None:
    lines = [["model: exactly one of", "for instance model.path="], ["data.sources: empty; add one"]]
    refused(command("seed=1"), lines)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_where_there_is_none_gets_one_line(input_files: dict[str, Path], command: Callable[..., Ended]) -> None:
    ended = command(*filled((*RIGHT, "device=cuda"), input_files))
    refused(ended, [["device=cuda: this machine has no CUDA device; use device=cpu"]])


def test_wandb_without_its_client_gets_one_line(
    input_files: dict[str, Path], command: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("xlt.config.run.importlib.util.find_spec", lambda name: None)
    ended = command(*filled((*RIGHT, "tracker.wandb=online"), input_files))
    refused(ended, [["tracker.wandb=online: ", "pip install 'xlt[wandb]'"]])


def test_a_fault_that_all_language_runs_share_is_said_once(
    input_files: dict[str, Path], command: Callable[..., Ended]
) -> None:
    words = ("experiment=pos", "data_dir={data}", "model.path={model}", "task.max_length=40")
    refused(command(*filled(words, input_files)), [["task.max_length=128", "has 50 positions"]])
