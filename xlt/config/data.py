"""The keys of sources and of their mix."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from xlt.config.model import RunReference
from xlt.config.schema import RunFacts, key
from xlt.errors import UsageError
from xlt.languages import language_fault

PARTS = ("sources", "validation", "evaluation", "excluded")
"""The parts of a run's data that are made of sources."""


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


_READ = "the content that is read, wherever it lies"


@dataclass
class SourceConfig:
    """One entry of the mix: labelled or raw data of one language."""

    reader: str = key(
        "format: a file of xlt/data/readers",
        known_by="the reader that is used: of a data set on the hub, or of translations, another one",
    )
    language: str = key("ISO 639-3 code")
    languages: list[str] = key(
        "several codes: stands for a source of each, named by its code",
        no_module="each language has become a source when the config was composed",
    )
    path: str | None = key(
        "file or folder, {code} as in `codes`; null: from the hub, or a reader with its own data", known_by=_READ
    )
    files: dict[str, str] = key(
        "split -> file under path; a split that is not there has the format's usual name", known_by=_READ
    )
    hub: HubConfig | None = key("where path is null", known_by=_READ)
    fields: dict[str, str] = key(
        "role (text, pair, label, words, a tag column, ...) -> column of the data set",
        known_by="the columns, codes of languages filled in",
    )
    codes: dict[str, str] = key("ISO 639-3 code -> the data set's own, where they differ", known_by=_READ)
    labels: dict[str, str] = key("label of the data set -> label of the task, where they differ")
    licence: str | None = key("as its publisher names it", no_module="a note for people")
    split: str = key(
        "which part of the data",
        choices=("train", "dev", "test", "text"),
        known_by="the content that is read, and the draw where some examples are drawn",
    )
    origin: str = key(
        "how the labels came about",
        choices=("gold", "few-shot", "translated"),
        known_by="which sources have some examples held out",
    )
    upsample: int = key(
        "integer repetition of the examples", low=1, known_by="its value, of a source that is learned from"
    )
    cap: int | None = key("at most this many examples, drawn by seed (K of few-shot transfer); null for all", low=1)
    cap_words: int | None = key("of those, drawn by seed, as few as have this many words between blanks", low=1)
    where: dict[str, str] = key("column -> value that a row must have to be read")
    instruction: InstructionConfig | None = key("makes a conversation of each example; null: as it is")
    text_language: str | None = key(
        "of parallel text, the language of `text`; null: the source's own",
        known_by="the languages of the parallel text",
    )
    pair_language: str | None = key(
        "of parallel text, the language of `pair`; null: the source's own",
        known_by="the languages of the parallel text",
    )
    translation: TranslationConfig | None = key(
        "read in another language and translated into this one; null: as it is",
        known_by="the fingerprint of the translation",
    )

    def faults(self, prefix: str) -> Iterator[str]:
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
        """Languages of `text` and `pair`; None if the source is not parallel text."""
        if self.text_language is None and self.pair_language is None:
            return None
        return self.text_language or self.language, self.pair_language or self.language

    @property
    def code(self) -> str:
        """The data set's own code of the language."""
        return self.codes.get(self.language, self.language)

    def location(self) -> Path:
        """The file or folder that the data is in.

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

    def unused(self, facts: RunFacts) -> Iterator[str]:
        """How a source is drawn where none is."""
        if self.by == "concatenation":
            yield from ("exponent", "ceiling")


@dataclass
class DataConfig:
    """The mix that a run learns from, what selects its checkpoint, and what it is evaluated on."""

    sources: dict[str, SourceConfig] = key("training sources by name", known_by="the content of each, and their order")
    validation: dict[str, SourceConfig] = key(
        "sources that select the checkpoint; empty: held out of `sources`",
        known_by="the content of each, and their order",
    )
    evaluation: dict[str, SourceConfig] = key(
        "sources that the finished module is evaluated on, by name", no_module="it is about the evaluation"
    )
    benchmarks: dict[str, BenchmarkConfig] = key(
        "benchmarks of language models that it is evaluated on, by name", no_module="it is about the evaluation"
    )
    excluded: dict[str, SourceConfig] = key(
        "no example whose text is also in one of these is learned from", known_by="the content of each"
    )
    sampling: SamplingConfig = key("how often each source's batches come")
    held_out_fraction: float = key(
        "share of each source held out where `validation` is empty; the same by id in all",
        low=0,
        high=0.5,
        known_by="the share of each language of which some is held out",
    )
    held_out_fractions: dict[str, float] = key(
        "ISO 639-3 code -> that share, for languages with another",
        known_by="the share of each language of which some is held out",
    )
    select_on_targets: bool = key(
        "allow languages in `validation` that are only targets, not sources",
        no_module="it allows a config or refuses it",
    )
    leaks: str = key(
        "where a text of `sources`, or of their translators' data, stands in `evaluation`",
        choices=("refuse", "allow"),
        no_module="it allows data or refuses them",
    )

    def faults(self, prefix: str) -> Iterator[str]:
        if not self.sources:
            yield f"{prefix}.sources: empty; add one, for instance +source@{prefix}.sources.eng=ud_eng"
        if not self.validation and not self.held_out_fraction:
            yield f"{prefix}.validation: empty, and {prefix}.held_out_fraction=0: nothing selects the checkpoint"
        for code, fraction in self.held_out_fractions.items():
            if not 0 < fraction <= 0.5:
                yield f"{prefix}.held_out_fractions.{code}={fraction}: must be in (0, 0.5]"
        for name in self.benchmarks.keys() & self.evaluation.keys():
            yield f"{prefix}.benchmarks.{name}: a name in {prefix}.evaluation too; choose another"
        for name, source in self.validation.items():
            if source.split == "test":
                yield (
                    f"{prefix}.validation.{name}.split=test: model selection on a test split is refused; "
                    "use split=dev of a source language"
                )
        for name, source in self.sources.items():
            if source.split == "test":
                yield f"{prefix}.sources.{name}.split=test: training on a test split is refused"
        yield from self._selection_faults(prefix)

    def held_out_of(self, language: str) -> float:
        """The share of a source in `language` that is held out where `validation` is empty."""
        return self.held_out_fractions.get(language, self.held_out_fraction)

    def _selection_faults(self, prefix: str) -> Iterator[str]:
        """Validation on a language that is no source language, unless that is asked for in so many words."""
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
