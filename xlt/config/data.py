"""The config keys of data: sources, benchmarks, and how sources are mixed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xlt.config.model import RunReference
from xlt.config.schema import QUOTE_IT, RunFacts, key, name_fault
from xlt.config.where import where_faults
from xlt.errors import UsageError
from xlt.languages import key_faults, language_fault

PARTS = ("sources", "validation", "evaluation", "excluded")
"""The parts of a run's data; each is a mapping of names to sources."""

ALL_PARTS = (*PARTS, "search")
"""The same with the sources on which weights of compositions are found."""

TASK, LANGUAGE = "task", "language"
"""The features that each example has without being named in its source."""

SCHEMES = ("IOB1", "IOB2", "IOB", "IOBES", "BILOU", "BMES", "IO")
"""The schemes in which the tags of entities can be written."""


@dataclass
class HubConfig:
    """A data set on the Hugging Face hub, or a local folder of the same layout; the `datasets` library reads it."""

    id: str = key("owner/name, or a local folder")
    subset: str | None = key("configuration of the data set; {code} is replaced by the data set's code of the language")
    revision: str | None = key("commit, tag or branch")
    splits: dict[str, str] = key("train, dev, test or text -> the data set's name of this split")
    fields: dict[str, str] = key("role -> column, as in the source's `fields`; {code} is replaced as in `subset`")
    codes: dict[str, str] = key("language -> the data set's code of it, where the two differ")

    def faults(self, prefix: str) -> Iterator[str]:
        yield from key_faults(f"{prefix}.codes", self.codes)


@dataclass
class InstructionConfig:
    """Templates that turn an example of another task into a conversation.

    {text}, {pair}, {label}, {title} and {answer} are replaced by the parts of the example, {entities} by its named
    entities (`PER: Ada $$ LOC: London`), {language} by the English name of the source's language, and {task} and other
    names by the features that the source names.
    """

    prompt: str = key("template of the user's turn")
    completion: str = key("template of the assistant's turn")


@dataclass
class TranslationConfig:
    """The translation of a source: it is read in another language, and a model translates it (thesis §6.3.1)."""

    source_language: str = key("language of the original, an ISO 639-3 code, if need be with a script")
    run: RunReference = key("the run that makes the translator; {source} and {target} are replaced by language codes")
    adapt: list[str] = key("languages for which `run` is trained first; for others its base model translates as it is")
    fields: list[str] = key("the parts of an example that are translated: text, pair")
    beams: int = key("number of hypotheses in beam search; 1: greedy search", low=1)
    batch_tokens: int = key("tokens per batch, with padding", low=1)
    cap: int | None = key("translate at most this many examples, drawn at random with seed 0; null: all", low=1)

    def faults(self, prefix: str) -> Iterator[str]:
        if (fault := language_fault(self.source_language)) is not None:
            yield f"{prefix}.source_language={self.source_language}: {fault}"
        for code in self.adapt:
            if (fault := language_fault(code)) is not None:
                yield f"{prefix}.adapt: {code} is {fault}"
        if not self.fields or not set(self.fields) <= {"text", "pair"}:
            yield f"{prefix}.fields={self.fields}: must be of text, pair; other parts point into a text, or name labels"

    def adapts(self, language: str) -> bool:
        """Returns whether the translator must be trained before it translates into `language`."""
        return bool({self.source_language, language} & set(self.adapt))


_READ = "the content of the data, wherever they are stored"


@dataclass
class SourceConfig:
    """One data set: labelled examples or raw text in one language."""

    reader: str = key(
        "format of the data; name of a file in xlt/data/readers",
        known_by="the reader in use, which is another one for data sets on the hub and for translations",
    )
    language: str = key("ISO 639-3 code of the language, if need be with a script (ace_Arab)")
    languages: list[str] = key(
        "several languages, or '*' for all there are; one source for each, named by the language, replaces it",
        no_module="composition replaces the entry by one source for each language",
    )
    path: str | None = key(
        "file or folder; {code} is replaced as `codes` says; null: `hub`, or data made by the reader", known_by=_READ
    )
    files: dict[str, str] = key(
        "split -> file below `path`; a split that is not listed has the usual file name of the format", known_by=_READ
    )
    hub: HubConfig | None = key("data set on the hub, used if `path` is null", known_by=_READ)
    fields: dict[str, str] = key(
        "role (text, pair, label, words, a tag column, ...) -> column of the data set",
        known_by="the columns, with {code} replaced by the code of the language",
    )
    codes: dict[str, str] = key("language -> the data set's code, where the two differ", known_by=_READ)
    labels: dict[str, Any] = key("label of the data set -> label of the task, where the two differ")
    scheme: str | None = key(
        "scheme of the tags of entities; IOB: IOB2 with mistakes, read as by conlleval; null: recognised",
        choices=SCHEMES,
    )
    word_prefix: str | None = key(
        "text that is removed before every word ({code}: in WikiANN); empty: kept; null: such text is refused"
    )
    delimiter: str | None = key("what separates the cells in reader csv: one character, or tab; null: a comma")
    quoting: str | None = key(
        "in reader tsv: rfc, quotes are around cells, as pandas has them; letters, they are text; null: asked",
        choices=("rfc", "letters"),
    )
    licence: str | None = key("licence of the data, as the publisher names it", no_module="a note for people")
    split: str = key(
        "the part of the data set that is read",
        choices=("train", "dev", "test", "text"),
        known_by="the content of the data, and the random draw if only some examples are drawn",
    )
    origin: str = key(
        "where the labels are from",
        choices=("gold", "few-shot", "translated"),
        known_by="the list of sources of which examples are held out",
    )
    upsample: int = key("how often each example is repeated", low=1, known_by="its value, for training sources only")
    cap: int | None = key("at most this many examples, drawn by seed (K of few-shot transfer); null: all", low=1)
    cap_words: int | None = key(
        "only as many examples, drawn at random, as have this many words together; null: all", low=1
    )
    features: dict[str, str] = key(
        "further features of each example, name -> value; task and language need not be named"
    )
    where: dict[str, Any] = key(
        "column -> value, list of values, or rules (not, not_empty, min_words, ...); others are left out"
    )
    instruction: InstructionConfig | None = key(
        "turns each example into a conversation; null: examples stay as they are"
    )
    text_language: str | None = key(
        "for parallel text: the language of `text`; null: `language`",
        known_by="the languages of the parallel text",
    )
    pair_language: str | None = key(
        "for parallel text: the language of `pair`; null: `language`",
        known_by="the languages of the parallel text",
    )
    translation: TranslationConfig | None = key(
        "read the source in another language and translate it into this one; null: no translation",
        known_by="the fingerprint of the translation",
    )

    def faults(self, prefix: str) -> Iterator[str]:
        for name in ("language", "text_language", "pair_language"):
            code = getattr(self, name)
            if code is not None and (fault := language_fault(code)) is not None:
                yield f"{prefix}.{name}={code}: {fault}"
        yield from key_faults(f"{prefix}.codes", self.codes)
        yield from where_faults(self.where, f"{prefix}.where")
        yield from self._boolean_faults(prefix)
        yield from self._feature_faults(prefix)
        if self.delimiter is not None and len(self.delimiter_character) != 1:
            yield f"{prefix}.delimiter={self.delimiter}: must be one character, or tab"
        if self.translation is not None and self.translation.source_language == self.language:
            yield f"{prefix}.translation.source_language={self.language}: the source's own; leave translation out"
        if self.translation is not None and self.origin != "translated":
            yield f"{prefix}.origin={self.origin}: what a model translated is of origin translated"

    def _boolean_faults(self, prefix: str) -> Iterator[str]:
        """Yields a fault for each text that YAML has read as a boolean, because it was not in quotes."""
        texts: dict[str, Any] = {name: getattr(self, name) for name in ("language", "path", "word_prefix", "delimiter")}
        texts |= {f"languages[{number}]": code for number, code in enumerate(self.languages)}
        mappings: dict[str, dict[str, Any]] = {
            name: getattr(self, name) for name in ("files", "fields", "codes", "features")
        }
        if self.hub is not None:
            texts |= {"hub.id": self.hub.id, "hub.subset": self.hub.subset, "hub.revision": self.hub.revision}
            mappings |= {f"hub.{name}": getattr(self.hub, name) for name in ("splits", "fields", "codes")}
        texts |= {f"{name}.{one}": text for name, mapping in mappings.items() for one, text in mapping.items()}
        for name, text in texts.items():
            if text in ("True", "False"):  # the schema has made text of a boolean
                yield f"{prefix}.{name}={text}: {QUOTE_IT}"
        for label, text in self.labels.items():
            if not isinstance(text, (str, int, float)) or isinstance(text, bool):
                yield f"{prefix}.labels.{label}={text}: {QUOTE_IT if isinstance(text, bool) else 'must be a label'}"

    def _feature_faults(self, prefix: str) -> Iterator[str]:
        """Yields a fault for each feature whose name or value is no name, and for a language that is another one."""
        for name, value in self.features.items():
            for what in (name, value):
                if (fault := name_fault(what)) is not None:
                    yield f"{prefix}.features.{name}={value}: {what!r}: {fault}"
        named = self.features.get(LANGUAGE, self.language)
        if named != self.language:
            yield (
                f"{prefix}.features.{LANGUAGE}={named}: the source's language is {self.language}; leave the feature out"
            )

    def features_of_examples(self, task: str) -> dict[str, str]:
        """Returns name -> value of the features that each example of the source has.

        Args:
            task: name of the run's task; it is the feature `task` of sources that name no other one.
        """
        return {TASK: task, LANGUAGE: self.language, **self.features}

    @property
    def delimiter_character(self) -> str:
        """The character that separates cells in reader csv."""
        named = {None: ",", "tab": "\t", "\\t": "\t"}
        return named.get(self.delimiter, self.delimiter or "")

    @property
    def parallel(self) -> tuple[str, str] | None:
        """The languages of `text` and `pair`; None if the source is not parallel text."""
        if self.text_language is None and self.pair_language is None:
            return None
        return self.text_language or self.language, self.pair_language or self.language

    @property
    def code(self) -> str:
        """The code that the data set uses for the language."""
        return self.codes.get(self.language, self.language)

    def location(self) -> Path:
        """Returns the file or folder with the data.

        Raises:
            UsageError: `path` is null.
        """
        if self.path is None:
            raise UsageError(f"path=null: reader {self.reader} needs a file or folder")
        return Path(self.path.replace("{code}", self.code)).expanduser()


@dataclass
class BenchmarkConfig:
    """A published benchmark of causal language models, which the `lm-eval` library runs."""

    tasks: list[str] = key("lm-eval tasks or groups; the score is the mean over them")
    metric: str = key("metric and filter, named as in lm-eval's results")
    split: str | None = key("part of the benchmark's data; null: the test set of the tasks")
    shots: int = key("examples in the prompt", low=0)
    limit: int | None = key("evaluate only the first examples of each task, this many; null: all", low=1)
    generation: str | None = key("lm-eval's gen_kwargs, for example temperature=0.1,do_sample=True; null: the task's")
    chat: bool = key("format prompts as conversations; whether in Tulu's format or by chat template, the task decides")
    folder: str | None = key("folder with further tasks in lm-eval's format; null: none")
    runs_code: bool = key("allow this machine to run the code that the model writes")

    def faults(self, prefix: str) -> Iterator[str]:
        if not self.tasks:
            yield f"{prefix}.tasks: empty; name tasks of lm-eval"


@dataclass
class SamplingConfig:
    """The rule by which batches are taken from the sources."""

    by: str = key(
        "concatenation: every example once per epoch; size or given: each step draws one source",
        choices=("concatenation", "size", "given"),
    )
    exponent: float = key("with by=size: probability of a source ~ min(examples, ceiling) ** exponent", low=0, high=1)
    ceiling: int | None = key("with by=size: largest number of examples that counts; null: no limit", low=1)
    task_exponent: float | None = key(
        "with by=size: a task is drawn first, with probability ~ examples ** this; null: no task is",
        low=0,
        high=1,
    )
    weights: dict[str, dict[str, float]] = key(
        "with by=given: feature -> value -> weight, 1 if absent; a source has the product of its features'"
    )
    mixed_batches: bool = key(
        "a batch has examples of all sources of a task, each drawn if by=size; false: it is of one source"
    )

    def faults(self, prefix: str) -> Iterator[str]:
        for name, values in self.weights.items():
            for value, weight in values.items():
                if not weight > 0:
                    yield f"{prefix}.weights.{name}.{value}={weight}: must be above 0; leave out sources instead"

    def unused(self, facts: RunFacts) -> Iterator[str]:
        """Yields the keys about drawing sources that the rule does not use, and `mixed_batches` if it is false."""
        if self.by != "size":
            yield from ("exponent", "ceiling", "task_exponent")
        if self.by != "given":
            yield "weights"
        if not self.mixed_batches:
            yield "mixed_batches"


@dataclass
class DataConfig:
    """The data of a run: for training, for the selection of the checkpoint, and for evaluation."""

    sources: dict[str, SourceConfig] = key("training sources by name", known_by="the content of each, and their order")
    validation: dict[str, SourceConfig] = key(
        "sources that select the checkpoint; empty: examples held out of `sources` do",
        known_by="the content of each, and their order",
    )
    evaluation: dict[str, SourceConfig] = key(
        "sources that the trained module is evaluated on, by name", no_module="it is about the evaluation"
    )
    benchmarks: dict[str, BenchmarkConfig] = key(
        "language-model benchmarks that the trained module is evaluated on, by name",
        no_module="it is about the evaluation",
    )
    excluded: dict[str, SourceConfig] = key(
        "sources whose texts are left out of training and validation", known_by="the content of each"
    )
    search: dict[str, SourceConfig] = key(
        "few-shot sources by name; in their languages, weights of learned compositions are found",
        no_module="it is about the evaluation",
    )
    sampling: SamplingConfig = key("rule by which batches are taken from the sources")
    held_out_fraction: float = key(
        "share held out of each source if `validation` is empty; equal ids are treated alike in all",
        low=0,
        high=0.5,
        known_by="the share that is held out, for each language",
    )
    held_out_fractions: dict[str, float] = key(
        "language -> share, for languages with another than held_out_fraction",
        known_by="the share that is held out, for each language",
    )
    select_on_targets: bool = key(
        "allow sources in `validation` whose language is no source language",
        no_module="it only decides whether a config is accepted",
    )
    other_languages: bool = key(
        "allow a language module to be learned from text of other languages (language_modules.learned_from)",
        no_module="it only decides whether a config is accepted",
    )
    cap: int | None = key(
        "most examples of all training sources together, and of any other source; null: no limit",
        low=1,
        no_module="it lowers the caps of the sources, which count",
    )
    leaks: str = key(
        "what to do if a text of `sources`, or one its translator learned from, is in `evaluation`",
        choices=("refuse", "allow"),
        no_module="it only decides whether data are accepted",
    )

    def faults(self, prefix: str) -> Iterator[str]:
        if not self.sources:
            yield f"{prefix}.sources: empty; add one, for instance +source@{prefix}.sources.eng=ud_eng"
        if not self.validation and not self.held_out_fraction:
            yield f"{prefix}.validation: empty, and {prefix}.held_out_fraction=0: nothing selects the checkpoint"
        yield from key_faults(f"{prefix}.held_out_fractions", self.held_out_fractions)
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
        for name, source in self.search.items():
            if source.split == "test":
                yield f"{prefix}.search.{name}.split=test: weights that are found on a test split are refused"
            if source.translation is not None:
                yield f"{prefix}.search.{name}.translation: weights are not found on translated data; leave it out"
        yield from self._selection_faults(prefix)

    def held_out_of(self, language: str) -> float:
        """Returns the share that is held out of a source in `language` if `validation` is empty."""
        return self.held_out_fractions.get(language, self.held_out_fraction)

    def _selection_faults(self, prefix: str) -> Iterator[str]:
        """Yields a fault for each validation source in no source language, unless `select_on_targets` allows it."""
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
