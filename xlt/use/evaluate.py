"""Scores modules on labelled data, without the command that trained them: what `xlt evaluate` and `xlt.evaluate` do."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf, SCMode

from xlt.compose import compose, group_options, hydra_ready, one_source_per_language
from xlt.compose.overrides import key_of
from xlt.compose.suggestions import suggestion
from xlt.config import SourceConfig, faults
from xlt.data.examples import Example
from xlt.data.files import lines_of
from xlt.data.mix import LoadedSource
from xlt.data.sources import read_source
from xlt.engine.evaluation import evaluate as score
from xlt.engine.kept_predictions import KeptPredictions
from xlt.errors import UsageError
from xlt.files import atomic_text
from xlt.languages import language_fault
from xlt.tasks.task import Task
from xlt.use.compositions import read_composition, with_composition
from xlt.use.cut_texts import CutTexts
from xlt.use.gold import gold, in_one_scheme, is_as_predicted
from xlt.use.loading import LoadedModel, UsedModules, load_model, read_modules, task_of
from xlt.use.output import output_fault
from xlt.use.predict import columns_of, note_modules
from xlt.use.quoted_cells import refuse_quoted_cells
from xlt.use.texts import Reading, format_of, language_field_fault, texts

_READERS = {"words": "conll"}


@dataclass(frozen=True)
class EvaluateSettings:
    """The settings of an evaluation; names and meanings are those of the options of `xlt evaluate`."""

    modules: Sequence[str]
    inputs: Sequence[str] = ()
    sources: Sequence[str] = ()
    overrides: Sequence[str] = ()
    predictions: str | None = None
    language_modules: Mapping[str, str] = field(default_factory=dict)
    model: str | None = None
    revision: str | None = None
    task: str | None = None
    settings: Sequence[str] = ()
    input_format: str | None = None
    fields: Mapping[str, str] = field(default_factory=dict)
    language: str | None = None
    language_field: str | None = None
    separator: str | None = None
    batch_size: int = 32
    precision: str = "fp32"
    device: str = "auto"
    threads: int | None = None
    replace: bool = False
    into: str | None = None
    composition: str | None = None


_OPTIONS = {
    "model.path": "--model",
    "model.revision": "--revision",
    "device": "--device",
    "threads": "--threads",
    "train.evaluation_batch_size": "--batch-size",
    "train.precision": "--precision",
}
"""Keys of a run for which the command has an option."""
_NOT_OF_DATA = (
    "compositions", "device", "evaluation", "language_modules", "launcher", "method", "model", "seed", "start",
    "student", "task", "task_modules", "teacher", "threads", "tracker", "train",
)  # fmt: skip


@dataclass(frozen=True)
class Scores:
    """The scores on one source, or on the examples of one language of a file with several.

    Attributes:
        source: name of the source, or of the file, here with the language if the file has several.
        language: of its texts; None if nothing says it.
        metrics: name -> value; accuracies and F1 are in percent.
        examples: number of examples.
        signatures: metric -> how it is computed, where its name alone does not say it.
        cut: number of the examples that are longer than the task's `max_length` and lose tokens.
    """

    source: str
    language: str | None
    metrics: Mapping[str, float]
    examples: int
    signatures: Mapping[str, str] = field(default_factory=dict)
    cut: int = 0


def evaluate(settings: EvaluateSettings) -> list[Scores]:
    """Evaluates modules on files and sources, each with the module of its language.

    Raises:
        UsageError, ModuleFileError: modules, model, data or options do not fit together; all data are read and checked
            before the model is loaded.
    """
    if settings.language is not None and (fault := language_fault(settings.language)) is not None:
        raise UsageError(f"--language={settings.language}: {fault}")
    modules = read_modules(settings.modules, settings.language_modules, settings.model, settings.revision)
    task = task_of(modules.main, settings.task, settings.settings)
    expression = None if settings.composition is None else read_composition(settings.composition, modules)
    files = _files(settings, task)
    sources = {**{name: source for name, (source, _) in files.items()}, **_named_sources(settings)}
    _check(settings, task, modules, sources)
    readings = {name: reading for name, (_, reading) in files.items()}
    data: dict[str, list[Example]] = {}
    languages: dict[str, str | None] = {}
    for name, source in sources.items():
        reading = readings.get(name)
        examples = _examples(name, source, task, reading)
        if reading is None or reading.language_field is None:
            data[name], languages[name] = examples, source.language or None
            continue
        for code, own in _by_language(examples, str(source.path), reading).items():
            data[f"{name} {code}"], languages[f"{name} {code}"] = own, code
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    loaded = load_model(modules, task, model=settings.model, device=settings.device, revision=settings.revision)
    loaded = with_composition(loaded, expression)
    loaded.check_languages({language: f"--input/--source {name}" for name, language in languages.items()})
    note_modules(modules, "evaluate", settings.precision)
    kept: list[dict[str, Any]] = []
    found = []
    for name, examples in data.items():
        keep = KeptPredictions(task) if settings.predictions is not None else None
        found.append(_score(loaded, settings, name, languages[name], examples, keep))
        if keep is not None:
            kept += [{"source": name, **record} for record in keep.records(examples)]
    if settings.predictions is not None:
        with atomic_text(Path(settings.predictions)) as file:
            file.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in kept)
    return found


def _score(
    loaded: LoadedModel,
    settings: EvaluateSettings,
    name: str,
    language: str | None,
    examples: Sequence[Example],
    keep: KeptPredictions | None,
) -> Scores:
    task = loaded.task
    loaded.speak(language)
    source = LoadedSource(name, language or "", task.features(examples, loaded.encoder))
    cut = CutTexts()
    cut.look_at(task, examples, source.features, loaded.encoder)
    cut.say()
    metrics = score(
        loaded.model,
        task,
        [source],
        loaded.encoder,
        settings.batch_size,
        settings.precision,
        keep=None if keep is None else keep.keep,
    )
    return Scores(name, language, metrics, len(examples), task.signatures(source.features), cut.cut)


def _examples(name: str, source: SourceConfig, task: Task, reading: Reading | None) -> list[Example]:
    """Returns the labelled examples of a source or file; `reading` says how a file is read."""
    if reading is not None and reading.format == "tsv":
        refuse_quoted_cells(str(source.path))
    if reading is None:
        examples = list(read_source(name, source, seed=0, entity_column=task.entity_column))
    elif is_as_predicted(str(source.path), reading, task):
        examples = list(gold(str(source.path), reading, task))
        if not examples:
            raise UsageError(f"--input={source.path}: there is no example in it")
    else:
        examples = list(read_source(name, source, seed=0))
    if reading is not None and task.entity_column is not None and "words" in task.reads:
        examples = in_one_scheme(examples, task.entity_column, name)
    task.check(examples, name)
    return examples


def _by_language(examples: Sequence[Example], path: str, reading: Reading) -> dict[str, list[Example]]:
    """Returns language -> its examples, in the order of the file, which says the language of each.

    Args:
        examples: of the file, with the number of their line at the end of their places.
        path, reading: of the file.
    Raises:
        UsageError: an example has no language, or one that is unknown.
    """
    of_line: dict[str, str | None] = {}
    with texts(path, dataclasses.replace(reading, reads=(), into=None)) as (_, entries):
        for entry in entries:
            if entry.example is not None:
                of_line[entry.example.place.rpartition(":")[2]] = entry.language
    result: dict[str, list[Example]] = {}
    for example in examples:
        language = of_line.get(example.place.rpartition(":")[2])
        if language is None:
            raise UsageError(f"{example.place}: nothing says the language of the example")
        result.setdefault(language, []).append(example)
    return result


def _files(settings: EvaluateSettings, task: Task) -> dict[str, tuple[SourceConfig, Reading]]:
    """Returns name -> source, and how it is read where its labels stand as xlt predict writes them, for the files."""
    result: dict[str, tuple[SourceConfig, Reading]] = {}
    base = _base_source() if settings.inputs else {}
    for word in settings.inputs:
        code, sign, path = word.partition("=")
        if not (sign and language_fault(code) is None):
            code, path = settings.language or "", word
        elif settings.language_field is not None:
            raise UsageError(f"--input={word}: --language-field says the languages; give the file without {code}=")
        if not Path(path).is_file():
            raise UsageError(f"--input={word}: there is no such file")
        format = format_of(path, settings.input_format)
        if settings.separator is not None and format not in ("tsv", "csv"):
            raise UsageError(
                f"--separator={settings.separator}: has no effect, because {format} has no cells of a table"
            )
        if format == "text":
            raise UsageError(f"--input={word}: a text has no labels to compare with; xlt predict annotates texts")
        name = f"{code} {Path(path).name}".strip() if len(settings.inputs) > 1 else Path(path).name
        if name in result:
            raise UsageError(f"--input={word}: a second file of this name and language")
        if (fault := language_field_fault(settings.language_field, format)) is not None:
            raise UsageError(fault)
        separator = {"tab": "\t"}.get(settings.separator or "", settings.separator)
        reading = Reading(
            format, task.reads, settings.fields, code or None, settings.language_field, settings.into, separator
        )
        result[name] = (SourceConfig(**{**base, **_of_file(path, code, format, settings, task)}), reading)
    return result


def _of_file(path: str, code: str, format: str, settings: EvaluateSettings, task: Task) -> dict[str, Any]:
    fields = dict(settings.fields)
    if not fields and format in ("jsonl", "tsv", "csv"):
        columns = columns_of(task)
        parts = [*task.reads, *(columns or ["label"])] if task.labels() else [*task.reads, "answers"]
        fields = {part: part for part in parts if part not in ("choices", "turns")}
    if format == "jsonl" and "words" in fields and "text" not in fields and _has_texts(path):
        fields["text"] = "text"  # in which the words stand; xlt predict writes and reads it, too
    if not fields and format == "conll":
        columns = columns_of(task)
        fields = {"words": "0", **{column: str(at - len(columns)) for at, column in enumerate(columns)}}
    return {
        "reader": _READERS.get(format, format),
        "language": code,
        "path": path,
        "fields": fields,
        "delimiter": settings.separator if format == "csv" else None,
        "split": "test",
    }


def _has_texts(path: str) -> bool:
    """Returns whether a record of JSON lines has a `text`; what is wrong with a line, the source's reader says."""
    for _, line in lines_of(Path(path)):
        try:
            record = json.loads(line or "null")
        except (ValueError, RecursionError):
            continue
        if isinstance(record, dict) and isinstance(record.get("text"), str):
            return True
    return False


def _base_source() -> dict[str, Any]:
    """Returns the settings of a source that says nothing, as conf/source has them."""
    with hydra_ready():
        config = compose(["data=empty", "+source@data.evaluation.base=_gold"])
    source = OmegaConf.to_container(config.data.evaluation.base, resolve=False, throw_on_missing=False)
    assert isinstance(source, dict)
    return {str(name): value for name, value in source.items()}


def _named_sources(settings: EvaluateSettings) -> dict[str, SourceConfig]:
    """Returns name -> source, for files of conf/source."""
    if not settings.sources:
        return {}
    words = [f"+source@data.evaluation.{name}={name}" for name in settings.sources]
    splits = [f"data.evaluation.{name}.split=test" for name in settings.sources]
    if settings.language is not None:
        splits.append(f"language={settings.language}")  # of the sources that have any
    with hydra_ready():
        known = group_options("source")
        lines = [
            f"--source={name}: no such file in conf/source{suggestion(name, known)}"
            for name in settings.sources
            if name not in known
        ]
        if lines:
            raise UsageError(*lines)
        config = compose(["data=empty", *words, *splits, *settings.overrides])
        if config.language is None:
            sources = config.data.evaluation
            of_any = [name for name in settings.sources if OmegaConf.is_interpolation(sources[name], "language")]
            if of_any:
                raise UsageError(*(f"--source={name}: has many languages; give --language CODE" for name in of_any))
        config = one_source_per_language(config)
        found = OmegaConf.to_container(config.data.evaluation, resolve=True, structured_config_mode=SCMode.INSTANTIATE)
    assert isinstance(found, dict)
    return {str(name): source for name, source in found.items()}


def _check(settings: EvaluateSettings, task: Task, modules: UsedModules, sources: Mapping[str, SourceConfig]) -> None:
    lines = []
    if not sources:
        lines.append("--input, --source: give labelled data, a file or the name of a file in conf/source")
    for name, source in sources.items():
        blind = dataclasses.replace(source, language="eng") if not source.language else source
        lines += faults(blind, name)
    if settings.predictions is not None and not task.compares:
        lines.append(f"--predictions={settings.predictions}: task {task.name} makes no predictions to keep")
    if settings.predictions is not None:
        fault = output_fault(Path(settings.predictions), replace=settings.replace)
        lines += [f"--predictions={settings.predictions}: {fault}"] if fault is not None else []
    if task.translates and settings.inputs and settings.into is None:
        lines.append("--into: missing; a translator needs the code of the language into which it translates")
    if settings.into is not None and not (task.translates and settings.inputs):
        lines.append(f"--into={settings.into}: is for the files of a task that translates")
    if settings.language_field is not None and settings.language is not None:
        lines.append("--language, --language-field: give one of them")
    if settings.language_field is not None and not settings.inputs:
        lines.append(f"--language-field={settings.language_field}: is for files (--input)")
    if not settings.inputs:
        given = {"--from": settings.input_format, "--field": settings.fields, "--separator": settings.separator}
        lines += [f"{name}: is for files (--input); data sets of conf/source say it" for name in given if given[name]]
    lines += _unheeded(settings)
    languages = {name: source.language for name, source in sources.items()}
    if settings.language is not None and languages and settings.language not in languages.values():
        known = ", ".join(f"{name} is of {code}" for name, code in languages.items())
        lines.append(f"--language={settings.language}: nothing that is scored is of this language: {known}")
    if settings.batch_size < 1:
        lines.append(f"--batch-size={settings.batch_size}: must be at least 1")
    if lines:
        raise UsageError(*lines)


def _unheeded(settings: EvaluateSettings) -> list[str]:
    """Returns a line for each override that would change nothing: they are of the data sets alone."""
    lines = []
    for word in settings.overrides:
        key = key_of(word)
        group = key.partition(".")[0].partition("@")[0]
        if not settings.sources:
            lines.append(f"{word}: an override is of a data set of conf/source (--source), and none is given")
        elif key in _OPTIONS or group in _NOT_OF_DATA:
            instead = _OPTIONS.get(key, "--set" if group == "task" else "")
            advice = f"give {instead}" if instead else "leave it out"
            lines.append(f"{word}: has no effect here, where overrides are of data sets; {advice}")
    return lines


def as_table(scores: Sequence[Scores], task_metric: str | None = None) -> Iterator[str]:
    """Yields a line for each source: its name, the number of examples, and its scores."""
    width = max(len(one.source) for one in scores)
    for one in scores:
        metrics = "  ".join(f"{name} {value:.2f}" for name, value in one.metrics.items())
        yield f"{one.source:{width}}  {one.examples:6} examples  {metrics}"
