"""The keys of a run: language modules, recipe, trackers, launchers, and all of it together."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xlt.config.data import DataConfig
from xlt.config.model import ModelConfig, RunReference, StartConfig, TeacherConfig
from xlt.config.schema import RunFacts, key
from xlt.languages import language_fault


@dataclass
class LanguageModulesConfig:
    """Where the language modules come from that a task run stands on and is composed with."""

    experiment: str | None = key("experiment that trains one language's module; null: no language adaptation")
    overrides: list[str] = key("its overrides; {language} stands for the language's ISO 639-3 code")
    paths: dict[str, str] = key("module files by language, used in place of training")
    generator: RunReference | None = key("the run whose generator makes the modules; with experiment: the sources'")
    cap_words: int | None = key("words of text that experiment learns from, drawn by seed; null: all of it", low=1)
    start_from_generator: bool = key("experiment goes on from the module that the generator makes (MAD-G-ft)")
    stand_in: dict[str, str] = key("language -> language whose module it uses; targets: all that is evaluated on")
    among: list[str] = key(
        "a language not among these uses the module of the nearest of them by URIEL (§3.4.2); empty: its own"
    )
    typology: str | None = key("file of URIEL's vectors (.npz) for `among`; null: of the urielplus package", file=True)
    evaluate_without: bool = key(
        "evaluate the task module alone (TA-only) as well", no_module="it is about the evaluation"
    )

    def faults(self, prefix: str) -> Iterator[str]:
        if self.start_from_generator and (self.generator is None or self.experiment is None):
            yield f"{prefix}.start_from_generator=true: needs {prefix}.generator and {prefix}.experiment"
        for language, other in self.stand_in.items():
            for code in {language, other} - {"targets"}:
                if (fault := language_fault(code)) is not None:
                    yield f"{prefix}.stand_in.{language}={other}: {code} is {fault}"
        for code in self.among:
            if (fault := language_fault(code)) is not None:
                yield f"{prefix}.among: {code} is {fault}"
        for language, path in self.paths.items():
            if not Path(path).expanduser().is_file():
                yield f"{prefix}.paths.{language}={path}: no such file; a module is a .safetensors file that a run left"


@dataclass
class TaskModulesConfig:
    """Modules that a run's own is added to when it is evaluated (thesis §7.5.1, Eq. 7.9), and the base without any."""

    runs: dict[str, list[str]] = key("name -> overrides of the data of a run whose module is added, else as this one")
    paths: dict[str, str] = key("name -> module file that is added")
    evaluate_base: bool = key("evaluate the base model without any task module as well")

    def faults(self, prefix: str) -> Iterator[str]:
        for name in self.runs.keys() & self.paths.keys():
            yield f"{prefix}: {name} is in runs and in paths; give it once"
        for name, path in self.paths.items():
            if not Path(path).expanduser().is_file():
                yield f"{prefix}.paths.{name}={path}: no such file; a module is a .safetensors file that a run left"


@dataclass
class TrainConfig:
    """How long and how fast a run trains, whatever its method; what one method alone needs stands in its own schema."""

    epochs: float | None = key("passes over the mix; null: max_steps alone counts", above=0)
    max_steps: int | None = key("upper bound of the steps of a phase; null: none", low=1)
    min_steps: int = key("lower bound of the steps of a phase", low=0)
    batch_size: int = key("examples a step, over all processes", low=1)
    micro_batch_size: int | None = key("examples a forward pass; null: the whole batch", low=1)
    group_by_length: bool = key("examples of like length in a batch: little padding, an order less random")
    learning_rate: float = key("peak rate", above=0)
    head_learning_rate: float | None = key("peak rate of the task's head; null: that of the rest", above=0)
    warmup_fraction: float = key("share of the steps over which the rate rises", low=0, high=1)
    weight_decay: float = key("decoupled weight decay", low=0)
    clip_norm: float | None = key("largest gradient norm; null: no clipping", above=0)
    precision: str = key("arithmetic of forward and backward", choices=("fp32", "bf16"))
    evaluate_every_steps: int | None = key("validate every so many steps", low=1)
    evaluate_every_epochs: float | None = key("validate every so many epochs", above=0)
    evaluation_batch_size: int = key("examples a forward pass in evaluation", low=1)
    save_every_seconds: float = key(
        "seconds between saved states; more if saving takes long; 0: each step",
        low=0,
        no_module="a run that goes on from a saved state ends in the same weights",
    )
    activation_checkpointing: bool = key(
        "compute activations again in the backward pass: less memory, more time",
        no_module="the same values are computed twice",
    )

    def unused(self, facts: RunFacts) -> Iterator[str]:
        """A head's rate where there is no head; the size of validation batches where no batch is drawn at random."""
        if not facts.has_head:
            yield "head_learning_rate"
        if not facts.validates_at_random:
            yield "evaluation_batch_size"

    def faults(self, prefix: str) -> Iterator[str]:
        if self.epochs is None and self.max_steps is None:
            yield f"{prefix}: {prefix}.epochs and {prefix}.max_steps are both null: nothing says how long to train"
        if self.max_steps is not None and self.min_steps > self.max_steps:
            yield f"{prefix}.min_steps={self.min_steps}: larger than {prefix}.max_steps={self.max_steps}"
        if self.micro_batch_size is not None and self.micro_batch_size > self.batch_size:
            size = self.micro_batch_size
            yield f"{prefix}.micro_batch_size={size}: larger than {prefix}.batch_size={self.batch_size}"
        if (self.evaluate_every_steps is None) == (self.evaluate_every_epochs is None):
            yield f"{prefix}: give one of {prefix}.evaluate_every_steps and {prefix}.evaluate_every_epochs, not both"


@dataclass
class TrackerConfig:
    """Where metrics go besides the run's own `metrics.jsonl`."""

    wandb: str = key("Weights & Biases", choices=("off", "online", "offline"))
    project: str = key("W&B project")
    entity: str | None = key("W&B user or team; null: the account's own")
    group: str | None = key("W&B group: the table or sweep that a run is part of")
    artifacts: bool = key("modules as W&B artifacts, with what they stand on; they take space there")
    progress: bool = key("progress bar in the terminal")

    def faults(self, prefix: str) -> Iterator[str]:
        if self.wandb != "off" and importlib.util.find_spec("wandb") is None:
            yield f"{prefix}.wandb={self.wandb}: the client is not installed; pip install 'xlt[wandb]'"


@dataclass
class LauncherConfig:
    """How the runs that a command needs are executed."""

    workers: int = key("runs side by side, or jobs of a cluster's array", low=1)
    cluster: str | None = key("slurm, or local: as if there were one; null: this machine", choices=("slurm", "local"))
    partition: str | None = key("of SLURM")
    account: str | None = key("of SLURM")
    minutes: int = key("longest time of a job; what is not done by then saves its state and is submitted again", low=1)
    memory_gb: float = key("memory of a job, GB", above=0)
    cpus: int = key("cores of a job", low=1)
    gpus: int = key("GPUs of a job", low=0)
    seconds_to_save: int = key("how long before the end of its time a job is told to save its state", low=10)
    requeues: int = key("how often a job that was stopped is submitted again", low=0)
    setup: list[str] = key("shell lines before a job, for instance ['source .venv/bin/activate']")
    sbatch: dict[str, str] = key("further options of sbatch, without their dashes: qos, constraint, ...")

    def faults(self, prefix: str) -> Iterator[str]:
        if self.cluster is not None and importlib.util.find_spec("submitit") is None:
            yield f"{prefix}.cluster={self.cluster}: submitit is not installed; pip install 'xlt[slurm]'"
        if self.cluster == "slurm" and shutil.which("sbatch") is None:
            yield f"{prefix}.cluster=slurm: no sbatch here; run it where jobs are submitted, or take launcher=parallel"


@dataclass
class RunConfig:
    """A run: model, method, data and task, and how it is carried out."""

    experiment_name: str = key("what the run is called in plans and dashboards", no_module="a name for people")
    choices: dict[str, str] = key(
        "files of conf/method and conf/model that were chosen; language runs choose the same",
        no_module="they name config files; the values in them count",
    )
    scale: str = key(
        "mini or thesis", choices=("mini", "thesis"), no_module="it chooses config files; their values count"
    )
    model: ModelConfig = key("which pre-trained Transformer")
    method: Any = key("how it is adapted")
    task: Any = key("what it learns")
    data: DataConfig = key("what it learns from")
    train: TrainConfig = key("how long and how fast it trains")
    language_modules: LanguageModulesConfig = key(
        "language adaptation", known_by="the identities of the modules of the languages that the run learns from"
    )
    task_modules: TaskModulesConfig = key(
        "further modules in the model that is evaluated", no_module="they are added when the module is evaluated"
    )
    start: StartConfig = key("the module that training begins with", known_by="the identity of the module")
    teacher: TeacherConfig = key("distillation from the whole model into its student")
    tracker: TrackerConfig = key("dashboards and progress", no_module="it records the run")
    launcher: LauncherConfig = key("execution", no_module="it says where the run is executed")
    language: str | None = key("ISO 639-3 code, for a language module; null for a task")
    translator: str = key(
        "file of conf/model that translates the sources with a `translation`",
        no_module="it names a config file; a translated source counts by its translation",
    )
    target: str | None = key(
        "ISO 639-3 code of the target language, for mixes made for one (FS-SINGLE, TTRAIN-SINGLE)",
        no_module="mixes and students that are made for it count by their sources and runs",
    )
    seed: int = key("seed of every random stream", low=0)
    data_dir: str | None = key(
        "folder of data sets that the sources' paths start from", no_module="data count by their content"
    )
    output_dir: str = key("where runs, modules and tables are kept", no_module="it says where results are kept")
    device: str = key(
        "cpu, cuda or auto", no_module="results on other devices differ by rounding alone; the manifest has the device"
    )
    other_code: str = key(
        "runs that exist, made by other code: train them again, or use them as they are",
        choices=("train", "use"),
        no_module="it chooses between runs that exist",
    )
    threads: int | None = key(
        "torch threads; null: torch's own choice",
        low=1,
        no_module="sums are taken in another order; results differ by rounding alone; the manifest has the number",
    )

    def faults(self, prefix: str) -> Iterator[str]:
        if self.target is not None and (fault := language_fault(self.target)) is not None:
            yield f"target={self.target}: {fault}"
        if self.language is not None and (fault := language_fault(self.language)) is not None:
            yield f"language={self.language}: {fault}"
        for name, source in self.data.sources.items():
            if self.language is not None and source.language != self.language:
                yield (
                    f"language={self.language}: data.sources.{name} is of language {source.language}; "
                    "a language module is learned from its own language"
                )
        if self.teacher.losses and self.model.student is None:
            yield "teacher.losses: only a student has a teacher; give model=student, or teacher=none"
        if self.data_dir is not None and not Path(self.data_dir).expanduser().is_dir():
            yield f"data_dir={self.data_dir}: no such folder"
        if (fault := _folder_fault(Path(self.output_dir).expanduser())) is not None:
            yield f"output_dir={self.output_dir}: {fault}"
        if re.fullmatch(r"cpu|auto|cuda(:\d+)?", self.device) is None:
            yield f"device={self.device}: must be cpu, cuda, cuda:N or auto"


def _folder_fault(folder: Path) -> str | None:
    """Why nothing can be written to a folder that may not exist yet."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir():
        return f"{there} is not a folder"
    return None if os.access(there, os.W_OK) else f"{there} cannot be written to"
