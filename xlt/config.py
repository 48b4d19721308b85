"""The schema that every config is checked against.

A dataclass says which keys there are, of which type and range, with a line of help; the numbers live in `conf/`. What
belongs to one method or task stands beside its code; what all runs share stands here. `faults` walks a composed
config and returns everything that is wrong with it, a line each.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import MISSING

_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "vocab.txt",
    "vocab.json",
    "spiece.model",
    "sentencepiece.bpe.model",
)


class UsageError(ValueError):
    """What the user gave cannot be run. `lines`: one fault each; the command prints them and exits with 2."""

    def __init__(self, *lines: str) -> None:
        self.lines = list(dict.fromkeys(" ".join(line.split()) for line in lines))
        super().__init__("\n".join(self.lines))


def key(
    help: str,
    *,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    choices: tuple[str, ...] | None = None,
    file: bool = False,
    hint: str = "",
) -> Any:
    """A required config key with its line of help and its range.

    Args:
        help: one line for the reader of the schema.
        low, high: inclusive bounds of a number.
        above: exclusive lower bound.
        choices: the allowed strings.
        file: the value is a local path that must exist.
        hint: added to the message when the value is out of range ("thesis range 0.0025 to 0.08").
    """
    metadata = dict(help=help, low=low, high=high, above=above, choices=choices, file=file, hint=hint)
    return field(default=MISSING, metadata=metadata)


@dataclass
class RunReference:
    """Another run that this one stands on, by how it is composed."""

    experiment: str = key("name of a file in conf/experiment")
    overrides: list[str] = key("Hydra overrides on top of it; {language} stands for the language's code")


@dataclass
class StartConfig:
    """The module whose values training begins with, of the same method and shape; both null: fresh values."""

    path: str | None = key("module file", file=True)
    run: RunReference | None = key("the run that leaves it; a generator makes it for the run's language")

    def faults(self, prefix: str) -> Iterator[str]:
        if self.path is not None and self.run is not None:
            yield f"{prefix}: give one of {prefix}.path and {prefix}.run, not both"


@dataclass
class RandomModelConfig:
    """A model with random weights and a tokenizer trained on the run's own sources."""

    architecture: str = key("transformers model type", choices=("bert", "roberta", "xlm-roberta", "m2m_100"))
    layers: int = key("number of Transformer blocks; of an encoder-decoder, in each half", low=1)
    hidden_size: int = key("width", low=8)
    heads: int = key("attention heads", low=1)
    intermediate_size: int = key("feed-forward width", low=8)
    max_positions: int = key("longest input, tokens", low=16)
    vocabulary: int = key("tokenizer entries, special tokens included", low=300)
    dropout: float = key("dropout of hidden states and attention", low=0, high=0.9)

    def faults(self, prefix: str) -> Iterator[str]:
        if self.hidden_size % self.heads:
            yield f"{prefix}.heads={self.heads}: must divide {prefix}.hidden_size={self.hidden_size}"


@dataclass
class StudentConfig:
    """What a smaller model keeps of a pre-trained one, to be distilled for two languages (thesis §5.3.2)."""

    layer_reduction: int = key("layers of the model / layers of the student", low=1, hint="thesis §5.4.2: 2 and 3")
    hidden_size: int | None = key("width of the student; null: the model's", low=2)
    token_probability: float = key(
        "a token is kept whose share of a language's text is at least this; 0: all that occur", low=0, high=1
    )
    characters: bool = key("keep all single characters as well")
    copies: bool = key("start from the model's values; false: from random ones (thesis §5.4.1, Scratch)")
    run: RunReference | None = key("the run that trains it, {source} and {target} filled in; null: this run")


@dataclass
class TeacherConfig:
    """Distillation from the whole model into its student (thesis §5.3)."""

    losses: list[str] = key("of attention (Eq. 5.1), hidden (Eq. 5.2), prediction (Eq. 5.3); empty: no teacher")
    knows_task: bool = key("the teacher has the module of the same run without student, not only language modules")
    path: str | None = key("module file of the task that the teacher has, used in place of training it", file=True)
    dtype: str = key("of the teacher's weights", choices=("float32", "bfloat16"))

    def faults(self, prefix: str) -> Iterator[str]:
        known = ("attention", "hidden", "prediction")
        for name in self.losses:
            if name not in known:
                yield f"{prefix}.losses: {name} is none of {', '.join(known)}"
        if "prediction" in self.losses and not self.knows_task:
            yield f"{prefix}.losses: prediction needs a teacher that knows the task; give {prefix}.knows_task=true"
        if self.path is not None and not self.knows_task:
            yield f"{prefix}.path={self.path}: needs {prefix}.knows_task=true"


@dataclass
class ModelConfig:
    """Which pre-trained Transformer: exactly one of `path`, `run` and `random`; and whether it or a student of it."""

    path: str | None = key("local folder or hub id of a pre-trained model")
    revision: str | None = key("commit or tag of a hub model")
    run: RunReference | None = key("the run whose checkpoint is the model")
    random: RandomModelConfig | None = key("random weights, for pre-training a model from scratch")
    dtype: str = key("of the pre-trained weights in memory", choices=("float32", "bfloat16"))
    quantise: str | None = key("nf4: the blocks' linear layers in 4 bits (thesis §7.2.3); null: as dtype says",
                               choices=("nf4",))  # fmt: skip
    student: StudentConfig | None = key("use a smaller model made of it; null: the model itself")
    new_languages: dict[str, str | None] = key(
        "of a translator: language that it gets a token for -> relative it begins as; null: the mean"
    )

    def faults(self, prefix: str) -> Iterator[str]:
        given = [name for name in ("path", "run", "random") if getattr(self, name) is not None]
        if len(given) != 1:
            what = " and ".join(f"{prefix}.{name}" for name in given) or "none"
            yield (
                f"{prefix}: exactly one of {prefix}.path, {prefix}.run, {prefix}.random must be given, not {what}; "
                f"for instance {prefix}.path=bert-base-multilingual-cased"
            )
        if self.path is not None and (fault := self._path_fault(self.path)) is not None:
            yield f"{prefix}.path={self.path}: {fault}"
        from xlt.data.languages import language_fault

        for language, relative in self.new_languages.items():
            for code in (language,) if relative is None else (language, relative):
                if (fault := language_fault(code)) is not None:
                    yield f"{prefix}.new_languages.{language}={relative}: {code} is {fault}"
        if self.student is not None and self.random is not None:
            yield f"{prefix}.student: of random weights nothing is to be learned; give {prefix}.path or {prefix}.run"
        if self.student is not None and self.quantise is not None:
            yield f"{prefix}.quantise={self.quantise}: not together with {prefix}.student"

    @staticmethod
    def _path_fault(path: str) -> str | None:
        """What is wrong with a local folder; None for a hub id, which only loading can judge."""
        folder = Path(path).expanduser()
        looks_local = not path or path.startswith((".", "/", "~")) or path.count("/") > 1 or folder.exists()
        if not looks_local:
            return None
        if not path or not (folder / "config.json").is_file():
            return "no model there; a local model is a folder with config.json and weights"
        if not any(folder.glob("*.safetensors")) and not any(folder.glob("*.bin")):
            return "config.json without weights (model.safetensors)"
        if not any((folder / name).is_file() for name in _TOKENIZER_FILES):
            # transformers would make up an empty vocabulary
            return "config.json without a tokenizer (tokenizer.json)"
        return None


@dataclass
class HubConfig:
    """A data set on the hub, or a local folder laid out like one, read through `datasets`."""

    id: str = key("owner/name, or a local folder")
    subset: str | None = key("configuration; {code} stands for the hub's own code of the language")
    revision: str | None = key("commit, tag or branch")
    splits: dict[str, str] = key("train, dev, test, text -> the data set's own name of the split")
    fields: dict[str, str] = key("role -> column, as in the source's `fields`; {code} as in `subset`")
    codes: dict[str, str] = key("ISO 639-3 code -> the hub's own, where they differ")


@dataclass
class InstructionConfig:
    """A conversation made of an example of another task; {text}, {pair}, {label} and {answer} stand for its parts."""

    prompt: str = key("what the user says")
    completion: str = key("what the assistant answers")


@dataclass
class TranslationConfig:
    """How a source came into its language: read in another one, and translated by a model (thesis §6.3.1)."""

    source_language: str = key("ISO 639-3 code of the language it is read in")
    run: RunReference = key("the run that leaves the translator, {source} and {target} filled in")
    adapt: list[str] = key("languages it has to learn first: that run is trained; for others its model does as it is")
    fields: list[str] = key("which parts of an example are translated: text, pair")
    beams: int = key("hypotheses kept in beam search; 1: greedy", low=1)
    batch_tokens: int = key("tokens a batch, padding included", low=1)
    cap: int | None = key("translate at most this many examples, drawn with seed 0; null: all", low=1)

    def faults(self, prefix: str) -> Iterator[str]:
        from xlt.data.languages import language_fault

        if (fault := language_fault(self.source_language)) is not None:
            yield f"{prefix}.source_language={self.source_language}: {fault}"
        for code in self.adapt:
            if (fault := language_fault(code)) is not None:
                yield f"{prefix}.adapt: {code} is {fault}"
        if not self.fields or not set(self.fields) <= {"text", "pair"}:
            yield f"{prefix}.fields={self.fields}: must be of text, pair; other parts point into a text, or name labels"

    def adapts(self, language: str) -> bool:
        """Whether the translator learns first, to translate into a language."""
        return bool({self.source_language, language} & set(self.adapt))


@dataclass
class PlannedTranslation(TranslationConfig):
    """The same once the plan knows who translates."""

    fingerprint: str = key("of the translation")
    file: str = key("that it is in, once it is made")


@dataclass
class SourceConfig:
    """One entry of the mix: labelled or raw data of one language."""

    reader: str = key("format: a file of xlt/data/readers")
    language: str = key("ISO 639-3 code")
    languages: list[str] = key("several codes: stands for a source of each, named by its code")
    path: str | None = key("file or folder, {code} as in `codes`; null: from the hub, or a reader with its own data")
    files: dict[str, str] = key("split -> file under path; a split that is not there has the format's usual name")
    hub: HubConfig | None = key("where path is null")
    fields: dict[str, str] = key("role (text, pair, label, words, a tag column, ...) -> column of the data set")
    codes: dict[str, str] = key("ISO 639-3 code -> the data set's own, where they differ")
    labels: dict[str, str] = key("label of the data set -> label of the task, where they differ")
    licence: str | None = key("as its publisher names it")
    split: str = key("which part of the data", choices=("train", "dev", "test", "text"))
    origin: str = key("how the labels came about", choices=("gold", "few-shot", "translated"))
    upsample: int = key("integer repetition of the examples", low=1)
    cap: int | None = key("at most this many examples, drawn by seed (K of few-shot transfer); null for all", low=1)
    cap_words: int | None = key("of those, drawn by seed, as few as have this many words between blanks", low=1)
    where: dict[str, str] = key("column -> value that a row must have to be read")
    instruction: InstructionConfig | None = key("makes a conversation of each example; null: as it is")
    text_language: str | None = key("of parallel text, the language of `text`; null: the source's own")
    pair_language: str | None = key("of parallel text, the language of `pair`; null: the source's own")
    translation: TranslationConfig | None = key("read in another language and translated into this one; null: as it is")

    def faults(self, prefix: str) -> Iterator[str]:
        from xlt.data.languages import language_fault

        for name in ("language", "text_language", "pair_language"):
            code = getattr(self, name)
            if code is not None and (fault := language_fault(code)) is not None:
                yield f"{prefix}.{name}={code}: {fault}"
        if self.translation is not None and self.translation.source_language == self.language:
            yield f"{prefix}.translation.source_language={self.language}: the source's own; leave translation out"
        if self.translation is not None and self.origin != "translated":
            yield f"{prefix}.origin={self.origin}: what a model translated is of origin translated"

    @property
    def parallel(self) -> tuple[str, str] | None:
        """Languages of `text` and `pair`; None for what is no parallel text."""
        if self.text_language is None and self.pair_language is None:
            return None
        return self.text_language or self.language, self.pair_language or self.language

    def untranslated(self) -> SourceConfig:
        """The source that the translation is made of, as far as that takes it."""
        assert self.translation is not None
        return dataclasses.replace(
            self,
            language=self.translation.source_language,
            origin="gold",
            cap=self.translation.cap,
            cap_words=None,
            upsample=1,
            labels={},
            instruction=None,
            translation=None,
        )

    @property
    def code(self) -> str:
        """The data set's own code of the language."""
        return self.codes.get(self.language, self.language)

    def location(self) -> Path:
        """Where the data lies, for a reader that needs to be told.

        Raises:
            UsageError: `path` is null.
        """
        if self.path is None:
            raise UsageError(f"path=null: reader {self.reader} needs a file or folder")
        return Path(self.path.replace("{code}", self.code)).expanduser()


@dataclass
class BenchmarkConfig:
    """A published benchmark of causal language models, which the `lm-eval` library runs."""

    tasks: list[str] = key("lm-eval's tasks or groups; the score is their mean")
    metric: str = key("lm-eval's metric and filter, as its results name it")
    split: str | None = key("which part of its data; null: the tasks' own test set")
    shots: int = key("examples in the prompt", low=0)
    limit: int | None = key("at most this many examples of each task, the first ones; null: all", low=1)
    generation: str | None = key("sampling, as lm-eval's gen_kwargs: temperature=0.1,do_sample=True; null: the task's")
    chat: bool = key("write prompts as conversations: by Tulu's format or the tokenizer's chat template, as the task")
    folder: str | None = key("folder with further tasks in lm-eval's format")
    runs_code: bool = key("allow that code the model wrote is run on this machine")

    def faults(self, prefix: str) -> Iterator[str]:
        if not self.tasks:
            yield f"{prefix}.tasks: empty; name tasks of lm-eval"


@dataclass
class SamplingConfig:
    """How often each source's batches come."""

    by: str = key(
        "concatenation: every example once an epoch; size: a source drawn at each step",
        choices=("concatenation", "size"),
    )
    exponent: float = key("by size: probability of a source ~ min(examples, ceiling) ** exponent", low=0, high=1)
    ceiling: int | None = key("by size: examples counted at most; null: all", low=1)


@dataclass
class DataConfig:
    """The mix that a run learns from, what selects its checkpoint, and what it is evaluated on."""

    sources: dict[str, SourceConfig] = key("training sources by name")
    validation: dict[str, SourceConfig] = key("sources that select the checkpoint; empty: held out of `sources`")
    evaluation: dict[str, SourceConfig] = key("sources that the finished module is evaluated on, by name")
    benchmarks: dict[str, BenchmarkConfig] = key("benchmarks of language models that it is evaluated on, by name")
    excluded: dict[str, SourceConfig] = key("no example whose text is also in one of these is learned from")
    sampling: SamplingConfig = key("how often each source's batches come")
    held_out_fraction: float = key("share of each source held out where `validation` is empty", low=0, high=0.5)
    select_on_targets: bool = key("allow languages in `validation` that are only targets, not sources")
    leaks: str = key(
        "where a text of `sources`, or of their translators' data, stands in `evaluation`",
        choices=("refuse", "allow"),
    )

    def faults(self, prefix: str) -> Iterator[str]:
        if not self.sources:
            yield f"{prefix}.sources: empty; add one, for instance +source@{prefix}.sources.eng=ud_eng"
        if not self.validation and not self.held_out_fraction:
            yield f"{prefix}.validation: empty, and {prefix}.held_out_fraction=0: nothing selects the checkpoint"
        for name in self.benchmarks.keys() & self.evaluation.keys():
            yield f"{prefix}.benchmarks.{name}: a name in {prefix}.evaluation too; choose another"
        learned = {_place(source) for source in self.sources.values()}
        for name, source in self.validation.items():
            if source.split == "test":
                yield (
                    f"{prefix}.validation.{name}.split=test: model selection on a test split is refused; "
                    "use split=dev of a source language"
                )
        for part in ("validation", "evaluation"):
            for name, source in getattr(self, part).items():
                if _place(source) in learned:
                    yield f"{prefix}.{part}.{name}: the same split is in {prefix}.sources; choose another split"
        for name, source in self.sources.items():
            if source.split == "test":
                yield f"{prefix}.sources.{name}.split=test: training on a test split is refused"
        yield from self._selection_faults(prefix)

    def _selection_faults(self, prefix: str) -> Iterator[str]:
        """Validation on a language that is no source language, unless that is asked for in so many words."""
        from xlt.data.languages import language_fault

        spoken = sorted({source.language for source in self.sources.values() if source.origin == "gold"})
        if not spoken or any(map(language_fault, spoken)) or self.select_on_targets:
            return
        for name, source in self.validation.items():
            if source.language not in spoken:
                yield (
                    f"{prefix}.validation.{name}.language={source.language}: not a source language "
                    f"({', '.join(spoken)}); to select checkpoints on target-language data "
                    f"all the same, give {prefix}.select_on_targets=true"
                )


def _place(source: SourceConfig) -> tuple[object, ...]:
    hub = (source.hub.id, source.hub.subset) if source.path is None and source.hub is not None else None
    return source.reader, source.path, hub, source.language, source.split


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
    evaluate_without: bool = key("evaluate the task module alone (TA-only) as well")

    def faults(self, prefix: str) -> Iterator[str]:
        if self.start_from_generator and (self.generator is None or self.experiment is None):
            yield f"{prefix}.start_from_generator=true: needs {prefix}.generator and {prefix}.experiment"
        from xlt.data.languages import language_fault

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
class TrainConfig:
    """How long, how fast, how large: the recipe of a run. `dense_*` is the full fine-tuning phase of LT-SFT."""

    epochs: float | None = key("passes over the mix; null: max_steps alone counts", above=0)
    max_steps: int | None = key("upper bound of the steps of a phase; null: none", low=1)
    min_steps: int = key("lower bound of the steps of a phase", low=0)
    dense_epochs: float | None = key("epochs of a dense phase before a sparse one; null: as epochs", above=0)
    dense_max_steps: int | None = key("upper bound of its steps; null: as max_steps", low=1)
    batch_size: int = key("examples a step, over all processes", low=1)
    micro_batch_size: int | None = key("examples a forward pass; null: the whole batch", low=1)
    learning_rate: float = key("peak rate", above=0)
    dense_learning_rate: float | None = key("peak rate of a dense phase before a sparse one; null: the same", above=0)
    warmup_fraction: float = key("share of the steps over which the rate rises", low=0, high=1)
    weight_decay: float = key("decoupled weight decay", low=0)
    clip_norm: float | None = key("largest gradient norm; null: no clipping", above=0)
    precision: str = key("arithmetic of forward and backward", choices=("fp32", "bf16"))
    evaluate_every_steps: int | None = key("validate every so many steps", low=1)
    evaluate_every_epochs: float | None = key("validate every so many epochs", above=0)
    evaluation_batch_size: int = key("examples a forward pass in evaluation", low=1)
    save_every_seconds: float = key("time between saved states", low=0)
    activation_checkpointing: bool = key("compute activations again in the backward pass: less memory, more time")
    density: float = key(
        "share of the model's parameters a sparse method tunes", above=0, high=1, hint="thesis range 0.0025 to 0.08"
    )
    reduction_factor: float = key("hidden size / bottleneck size of adapters", above=0, hint="thesis §4.4.3: 1 to 32")
    l1: float = key("lambda of the L1 term towards the pre-trained values (thesis §4.3.1)", low=0)
    freeze_layer_norm: bool = key("keep layer normalisation fixed (thesis §4.4.2, language modules)")

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

    experiment_name: str = key("what the run is called in plans and dashboards")
    scale: str = key("mini or thesis", choices=("mini", "thesis"))
    model: ModelConfig = key("which pre-trained Transformer")
    method: Any = key("how it is adapted")
    task: Any = key("what it learns")
    data: DataConfig = key("what it learns from")
    train: TrainConfig = key("the recipe")
    language_modules: LanguageModulesConfig = key("language adaptation")
    start: StartConfig = key("the module that training begins with")
    teacher: TeacherConfig = key("distillation from the whole model into its student")
    tracker: TrackerConfig = key("dashboards and progress")
    launcher: LauncherConfig = key("execution")
    language: str | None = key("ISO 639-3 code, for a language module; null for a task")
    translator: str = key("file of conf/model that translates the sources with a `translation`")
    target: str | None = key("ISO 639-3 code of the target language, for mixes made for one (FS-SINGLE, TTRAIN-SINGLE)")
    seed: int = key("seed of every random stream", low=0)
    data_dir: str | None = key("folder of data sets that the sources' paths start from")
    output_dir: str = key("where runs, modules and tables are kept")
    device: str = key("cpu, cuda or auto")
    threads: int | None = key("torch threads; null: torch's own choice", low=1)

    def faults(self, prefix: str) -> Iterator[str]:
        from xlt.data.languages import language_fault

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


def faults(config: Any, prefix: str = "") -> Iterator[str]:
    """Every fault of a composed config object, a line each: ranges, choices, absent files, contradictions.

    Args:
        config: an instance of a schema dataclass, or anything that may contain one.
        prefix: its key in the whole config.
    """
    if isinstance(config, dict):
        for name, value in config.items():
            yield from faults(value, f"{prefix}.{name}" if prefix else str(name))
        return
    if not dataclasses.is_dataclass(config):
        return
    broken = False
    for item in dataclasses.fields(config):
        name = f"{prefix}.{item.name}" if prefix else item.name
        value = getattr(config, item.name, MISSING)
        if isinstance(value, str) and value == MISSING:
            broken = True
            yield f"{name}: a value is required ({item.metadata.get('help', 'see conf/')}); give {name}=..."
        elif (fault := _range_fault(value, item.metadata)) is not None:
            broken = True
            yield f"{name}={value}: {fault}"
        else:
            yield from faults(value, name)
    if not broken and hasattr(config, "faults"):
        yield from config.faults(prefix)


def _folder_fault(folder: Path) -> str | None:
    """Why nothing can be written to a folder that may not exist yet."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir():
        return f"{there} is not a folder"
    return None if os.access(there, os.W_OK) else f"{there} cannot be written to"


def _range_fault(value: Any, rules: Any) -> str | None:
    if value is None or not rules:
        return None
    hint = f"; {rules['hint']}" if rules["hint"] else ""
    if rules["choices"] is not None and value not in rules["choices"]:
        return f"must be one of {', '.join(rules['choices'])}"
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        low, high, above = rules["low"], rules["high"], rules["above"]
        inside = (low is None or value >= low) and (high is None or value <= high) and (above is None or value > above)
        if not inside:  # also for NaN, which compares false
            if low is None and above is None:
                return f"must be at most {high}{hint}"
            left = f"({above}" if above is not None else f"[{low}"
            return (
                f"must be in {left}, {high}]{hint}"
                if high is not None
                else (f"must be above {above}{hint}" if above is not None else f"must be at least {low}{hint}")
            )
    if rules["file"] and not Path(str(value)).expanduser().exists():
        return "no such file"
    return None
