"""The config keys of a run: language modules, training, trackers, launchers, and the config of the whole run."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xlt.config.data import DataConfig
from xlt.config.model import ModelConfig, RunReference, StartConfig, TeacherConfig
from xlt.config.schema import RunFacts, key, module_fault
from xlt.errors import UsageError
from xlt.files import folder_fault
from xlt.languages import key_faults, language_fault
from xlt.repositories import published_module

LARGEST_RATE = 1.0
"""No sensible run has a larger learning rate: Adam and SM3 change each value by about the rate in each step."""
RATE_HINT = "Adam and SM3 change each value by about the rate in each step, and pre-trained weights are far below 1"


NO_MODULE = "none"
"""In `language_modules.stand_in`: the language is evaluated, or trained on, without a language module."""

LANGUAGE, TASK, BASE = MODULE_NAMES = ("language", "task", "base")
"""Names in compositions: the module of the evaluated language, the run's own module, and no module."""

NEAREST = "nearest"
"""In compositions, `nearest.2`: the module of the second nearest language to the evaluated one."""


@dataclass
class LanguageModulesConfig:
    """The language modules with which a task run is trained and evaluated, and the runs or files they come from."""

    experiment: str | None = key("experiment that trains the module of one language; null: none is trained")
    overrides: list[str] = key("overrides of `experiment`; {language} is replaced by the language")
    paths: dict[str, str] = key("language -> module file, or ORG/NAME of the hub; used instead of training it")
    generator: RunReference | None = key(
        "run whose generator makes modules; if `experiment` is set, for source languages only"
    )
    cap_words: int | None = key("words of text that `experiment` trains on, drawn by seed; null: all", low=1)
    start_from_generator: bool = key("`experiment` starts from the module that `generator` makes (MAD-G-ft)")
    texts: dict[str, str] = key("language -> text file from which `experiment` learns its module, in place of its data")
    learned_from: dict[str, list[str]] = key(
        "language -> languages whose text `experiment` learns its module from, such as a pair or family"
    )
    stand_in: dict[str, str] = key(
        "language -> language whose module it uses, or none; key targets: all evaluation languages"
    )
    among: list[str] = key(
        "languages with own modules; others use that of the nearest one by URIEL (§3.4.2); empty: all"
    )
    typology: str | None = key(
        "file of URIEL vectors (.npz) for `among`; null: that of the urielplus package", file=True
    )
    evaluate_without: bool = key(
        "also evaluate the task module without a language module (TA-only)", no_module="it is about the evaluation"
    )

    def faults(self, prefix: str) -> Iterator[str]:
        if self.start_from_generator and (self.generator is None or self.experiment is None):
            yield f"{prefix}.start_from_generator=true: needs {prefix}.generator and {prefix}.experiment"
        for language, other in self.stand_in.items():
            for code in {language, *({other} - {NO_MODULE})} - {"targets"}:
                if (fault := language_fault(code)) is not None:
                    yield f"{prefix}.stand_in.{language}={other}: {code} is {fault}"
        for code in self.among:
            if (fault := language_fault(code)) is not None:
                yield f"{prefix}.among: {code} is {fault}"
        for part in ("paths", "texts"):
            yield from key_faults(f"{prefix}.{part}", getattr(self, part))
        if self.texts and self.experiment is None:
            yield f"{prefix}.texts: {prefix}.experiment is null, so nothing is learned from them"
        for language, others in self.learned_from.items():
            for code in (language, *others):
                if (fault := language_fault(code)) is not None:
                    yield f"{prefix}.learned_from.{language}={list(others)}: {code} is {fault}"
            if not others or len(set(others)) < len(others):
                yield f"{prefix}.learned_from.{language}={list(others)}: must be different languages, at least one"
            if language in self.texts:
                yield f"{prefix}: {language} is in texts and in learned_from; give it once"
        if self.learned_from and self.experiment is None:
            yield f"{prefix}.learned_from: {prefix}.experiment is null, so nothing is learned"
        for language, path in self.texts.items():
            if not Path(path).expanduser().is_file():
                yield f"{prefix}.texts.{language}={path}: no such file; give a text with a sentence on each line"
        ours = {language: path for language, path in self.paths.items() if not _is_published(path)}
        yield from _missing_modules(ours, f"{prefix}.paths")


@dataclass
class TaskModulesConfig:
    """Further modules for evaluation: they are added to the run's own module (thesis §7.5.1, Eq. 7.9)."""

    runs: dict[str, list[str]] = key(
        "name -> data overrides of the run that trains the module; its other settings are this run's"
    )
    paths: dict[str, str] = key("name -> file of the module, or ORG/NAME of the hub")
    evaluate_base: bool = key("also evaluate the base model without any module")

    def faults(self, prefix: str) -> Iterator[str]:
        for name in self.runs.keys() & self.paths.keys():
            yield f"{prefix}: {name} is in runs and in paths; give it once"
        yield from _missing_modules(self.paths, f"{prefix}.paths")


@dataclass
class TrainConfig:
    """The training settings that all methods share; settings of one method are in its own schema."""

    epochs: float | None = key("passes over the training data; null: only max_steps counts", above=0)
    max_steps: int | None = key("largest number of steps of a phase; null: no limit", low=1)
    min_steps: int = key("smallest number of steps of a phase", low=0)
    batch_size: int = key("examples per step, of all processes together", low=1)
    micro_batch_size: int | None = key("examples per forward pass; null: all, on a CPU all of similar length", low=1)
    group_by_length: bool = key("batch examples of similar length: less padding, but a less random order")
    learning_rate: float = key("peak learning rate", above=0, high=LARGEST_RATE, hint=RATE_HINT)
    head_learning_rate: float | None = key(
        "peak learning rate of the task head; null: learning_rate", above=0, high=LARGEST_RATE, hint=RATE_HINT
    )
    warmup_fraction: float = key("share of the steps in which the learning rate rises", low=0, high=1)
    weight_decay: float = key("decoupled weight decay", low=0)
    clip_norm: float | None = key(
        "gradients with a larger norm are scaled down to this norm; null: no clipping", above=0
    )
    precision: str = key("floating-point type of forward and backward pass", choices=("fp32", "bf16"))
    evaluate_every_steps: int | None = key("steps between two validations", low=1)
    evaluate_every_epochs: float | None = key("epochs between two validations", above=0)
    evaluation_batch_size: int = key("examples per forward pass in evaluation", low=1)
    averaging: str = key(
        "what the run ends with: its best weights (none), their mean at validations, or a moving one (ema)",
        choices=("none", "checkpoints", "ema"),
    )
    average_last: int | None = key("averaging=checkpoints: mean over so many last validations; null: all", low=2)
    ema_decay: float = key("averaging=ema: share of itself that the average keeps at each step", low=0, high=1)
    save_every_seconds: float = key(
        "seconds between two saved states; longer if saving is slow; 0: save after each step",
        low=0,
        no_module="a run that continues from a saved state ends with the same weights",
    )
    activation_checkpointing: bool = key(
        "recompute activations in the backward pass: less memory, more time",
        no_module="the same values are computed twice",
    )

    def unused(self, facts: RunFacts) -> Iterator[str]:
        """Yields a head's rate if there is none, the batch size if validation draws nothing, and averages not taken."""
        if not facts.has_head:
            yield "head_learning_rate"
        if not facts.validates_at_random:
            yield "evaluation_batch_size"
        if self.averaging == "none":
            yield "averaging"
        if self.averaging != "checkpoints":
            yield "average_last"
        if self.averaging != "ema":
            yield "ema_decay"

    def faults(self, prefix: str) -> Iterator[str]:
        if self.epochs is None and self.max_steps is None:
            yield f"{prefix}: {prefix}.epochs and {prefix}.max_steps are both null: nothing says how long to train"
        if self.max_steps is not None and self.min_steps > self.max_steps:
            yield f"{prefix}.min_steps={self.min_steps}: larger than {prefix}.max_steps={self.max_steps}"
        if self.micro_batch_size is not None and self.micro_batch_size > self.batch_size:
            size = self.micro_batch_size
            yield f"{prefix}.micro_batch_size={size}: larger than {prefix}.batch_size={self.batch_size}"
        for name in ("learning_rate", "head_learning_rate"):
            rate = getattr(self, name)
            if rate is not None and rate * self.weight_decay > 1:
                yield (
                    f"{prefix}.weight_decay={self.weight_decay}: with {prefix}.{name}={rate}, each step would take "
                    f"{rate * self.weight_decay:.3g} times its value from each weight; give {1 / rate:.3g} or less"
                )
        if self.average_last is not None and self.averaging != "checkpoints":
            yield (
                f"{prefix}.average_last={self.average_last}: has no effect with {prefix}.averaging={self.averaging}; "
                f"give {prefix}.averaging=checkpoints"
            )
        if self.ema_decay == 1:
            yield f"{prefix}.ema_decay=1: the average would never change; give less, such as 0.999"
        if (self.evaluate_every_steps is None) == (self.evaluate_every_epochs is None):
            yield f"{prefix}: give one of {prefix}.evaluate_every_steps and {prefix}.evaluate_every_epochs, not both"


@dataclass
class EvaluationConfig:
    """The modules that compositions may name, and what an evaluation leaves besides its scores."""

    predictions: bool = key("keep the prediction for each example, in the run's folder predictions/, to read errors")
    paths: dict[str, str] = key("name -> module file, or ORG/NAME of the hub, that compositions may name")
    runs: dict[str, list[str]] = key("name -> settings of a run whose module they may name; its others are this run's")

    def faults(self, prefix: str) -> Iterator[str]:
        for part in ("paths", "runs"):
            for name in getattr(self, part):
                if not name.isidentifier() or name in MODULE_NAMES:
                    taken = ", ".join(MODULE_NAMES)
                    yield f"{prefix}.{part}.{name}: must be a name of letters, digits and _, and none of {taken}"
        for name in self.runs.keys() & self.paths.keys():
            yield f"{prefix}: {name} is in runs and in paths; give it once"
        yield from _missing_modules(self.paths, f"{prefix}.paths")


@dataclass
class TrackerConfig:
    """Places to which metrics are sent, besides the file `metrics.jsonl` of the run."""

    wandb: str = key("use of Weights & Biases", choices=("off", "online", "offline"))
    project: str = key("W&B project")
    entity: str | None = key("W&B user or team; null: the default of the account")
    group: str | None = key("W&B group of the run: its table or sweep")
    artifacts: bool = key("upload modules to W&B as artifacts, linked to those they build on; this takes space there")
    tensorboard: bool = key("write event files for TensorBoard into the run's folder tensorboard/")
    csv: bool = key("write metrics.csv and evaluation.csv into the run's folder")
    progress: bool = key("show a progress bar in the terminal")

    def faults(self, prefix: str) -> Iterator[str]:
        if self.tensorboard and importlib.util.find_spec("tensorboard") is None:
            yield f"{prefix}.tensorboard=true: it is not installed; pip install 'xlt[tensorboard]'"
        if self.wandb != "off" and importlib.util.find_spec("wandb") is None:
            yield f"{prefix}.wandb={self.wandb}: the client is not installed; pip install 'xlt[wandb]'"
        if self.wandb != "off":
            for name, value in (("project", self.project), ("entity", self.entity)):
                if value is not None and (not value.strip() or len(value) > 128 or set(value) & set("/\\#?%:\r\n")):
                    yield (
                        f"{prefix}.{name}={value}: not a name that W&B accepts; give 1 to 128 letters, "
                        "none of them / \\ # ? % :"
                    )


@dataclass
class LauncherConfig:
    """The way in which the runs of a command are executed: one by one, several at once, or on a cluster."""

    workers: int = key("runs at the same time, here or in a cluster's job array", low=1)
    cluster: str | None = key(
        "slurm, or local: a simulated cluster on this machine; null: no cluster", choices=("slurm", "local")
    )
    partition: str | None = key("SLURM partition", name=True)
    account: str | None = key("SLURM account", name=True)
    minutes: int = key("time limit of a job, minutes; an unfinished job saves its state and is submitted again", low=1)
    memory_gb: float = key("memory of a job, GB", above=0)
    cpus: int = key("CPU cores of a job", low=1)
    gpus: int = key("GPUs of a job", low=0)
    seconds_to_save: int = key("seconds before its time limit at which a job is told to save its state", low=10)
    requeues: int = key("how often a stopped job is submitted again", low=0)
    setup: list[str] = key("shell lines to run before a job, for example ['source .venv/bin/activate']")
    sbatch: dict[str, str] = key("further options of sbatch, without dashes: qos, constraint, ...")

    def faults(self, prefix: str) -> Iterator[str]:
        if self.cluster is not None and importlib.util.find_spec("submitit") is None:
            yield f"{prefix}.cluster={self.cluster}: submitit is not installed; pip install 'xlt[slurm]'"
        if self.cluster == "slurm" and shutil.which("sbatch") is None:
            yield f"{prefix}.cluster=slurm: no sbatch here; run it where jobs are submitted, or take launcher=parallel"


@dataclass
class RunConfig:
    """The config of a run: model, method, data and task, and how the run is carried out."""

    experiment_name: str = key("name of the run in plans and dashboards", name=True, no_module="a name for people")
    choices: dict[str, str] = key(
        "the chosen files of conf/method and conf/model; language runs choose the same files",
        no_module="they name config files; the values in these files count",
    )
    scale: str = key(
        "size of the experiment: mini (small, for CPUs) or thesis (as published)",
        choices=("mini", "thesis"),
        no_module="it chooses config files; the values in these files count",
    )
    model: ModelConfig = key("the pre-trained model, or a student of it")
    method: Any = key("how the model is adapted")
    task: Any = key("the task that is learned")
    data: DataConfig = key("data for training, validation and evaluation")
    train: TrainConfig = key("length, batch size and learning rate of the training")
    language_modules: LanguageModulesConfig = key(
        "language modules for training and evaluation", known_by="the identities of the source languages' modules"
    )
    task_modules: TaskModulesConfig = key(
        "further modules for evaluation", no_module="they are added only when the module is evaluated"
    )
    compositions: dict[str, Any] = key(
        "name -> expression over modules that is evaluated: files of conf/composition",
        no_module="they are about the evaluation",
    )
    evaluation: EvaluationConfig = key(
        "modules that compositions may name; what an evaluation leaves", no_module="it is about the evaluation"
    )
    start: StartConfig = key("the module that training starts from", known_by="the identity of the module")
    teacher: TeacherConfig = key("distillation from the whole model into its student")
    tracker: TrackerConfig = key("dashboards and progress", no_module="it records the run")
    launcher: LauncherConfig = key("how and where runs are executed", no_module="it says where the run is executed")
    language: str | None = key("language of a language module: eng, ace_Arab; or null")
    translator: str = key(
        "file of conf/model with the model that translates sources",
        no_module="it names a config file; the translations themselves count",
    )
    target: str | None = key(
        "the target language, as in `language`, for data mixes and students made for one language",
        no_module="the sources and runs that are chosen by it count",
    )
    seed: int = key("seed of every random stream", low=0)
    data_dir: str | None = key(
        "folder with the data sets; sources' paths start from it", no_module="the content of the data counts"
    )
    output_dir: str = key("folder for runs, modules and tables", no_module="it says where results are stored")
    device: str = key(
        "cpu, cuda, cuda:N, auto, or cuda:0+cuda:1 to spread the blocks over several GPUs",
        no_module="results on other devices differ only by rounding; the manifest records the device",
    )
    other_code: str = key(
        "what to do with existing runs of another code version: train them again, or use them",
        choices=("train", "use"),
        no_module="it chooses between existing runs",
    )
    threads: int | None = key(
        "number of torch threads; null: torch decides",
        low=1,
        no_module="it changes only the order of sums, hence rounding; the manifest records the number",
    )

    def faults(self, prefix: str) -> Iterator[str]:
        if self.target is not None and (fault := language_fault(self.target)) is not None:
            yield f"target={self.target}: {fault}"
        own_fault = None if self.language is None else language_fault(self.language)
        if own_fault is not None:
            yield f"language={self.language}: {own_fault}"
        for name, source in self.data.sources.items():
            others = self.data.other_languages
            if self.language is not None and own_fault is None and source.language != self.language and not others:
                yield (
                    f"language={self.language}: data.sources.{name} is of language {source.language}; "
                    "a language module is learned from its own language"
                )
        if self.teacher.losses and self.model.student is None:
            yield "teacher.losses: only a student has a teacher; give model=student, or teacher=none"
        if self.data_dir is not None and not Path(self.data_dir).expanduser().is_dir():
            yield f"data_dir={self.data_dir}: no such folder"
        if (fault := folder_fault(Path(self.output_dir).expanduser() / "runs")) is not None:
            yield f"output_dir={self.output_dir}: {fault}"
        if self.threads is not None and self.threads > (most := _most_processes()):
            yield f"threads={self.threads}: this machine has {os.cpu_count()} cores; give {most} threads or fewer"
        workers = self.launcher.workers
        if self.launcher.cluster is None and workers > (most := _most_processes()):
            yield f"launcher.workers={workers}: this machine has {os.cpu_count()} cores; give {most} workers or fewer"
        if re.fullmatch(r"cpu|auto|cuda(:\d+)?|cuda:\d+(\+cuda:\d+)+", self.device) is None:
            yield f"device={self.device}: must be cpu, cuda, cuda:N, auto, or several GPUs as in cuda:0+cuda:1"
        elif len(names := self.device.split("+")) > len({*names}):
            yield f"device={self.device}: a device is named twice"
        elif len(names) > 1 and workers > 1:
            yield f"device={self.device}: launcher.workers={workers} gives each run one GPU; give launcher.workers=1"


def _most_processes() -> int:
    """Returns how many threads or processes are still reasonable on this machine; more could not even be started."""
    return max(128, 8 * (os.cpu_count() or 1))


def _is_published(path: str) -> bool:
    """Returns whether a path is one of a module of another library, of which a plan makes a module file."""
    try:
        return published_module(path) is not None
    except UsageError:
        return False


def _missing_modules(paths: Mapping[str, str], prefix: str) -> Iterator[str]:
    """Yields a fault for each module that is not there."""
    for name, path in paths.items():
        if (fault := module_fault(path)) is not None:
            yield f"{prefix}.{name}={path}: {fault}"
