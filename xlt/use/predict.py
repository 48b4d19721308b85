"""Annotates an input with modules and writes an output: what `xlt predict` and `xlt.predict` do."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

import xlt
from xlt.engine.training import Interrupted, StopSignals
from xlt.errors import UsageError
from xlt.escapes import say
from xlt.files import file_digest
from xlt.tasks.task import Task
from xlt.tracking.progress import ProgressBar
from xlt.use import annotated
from xlt.use.annotating import annotate, chunk_rule, chunk_size, chunks
from xlt.use.compositions import read_composition, with_composition
from xlt.use.cut_texts import CutTexts
from xlt.use.loading import UsedModules, load_model, read_modules, task_of
from xlt.use.output import GrowingOutput, output_fault
from xlt.use.quoted_cells import refuse_quoted_cells
from xlt.use.texts import STANDARD, Entry, Layout, Reading, format_of, language_field_fault, texts
from xlt.use.unspaced import UnspacedTexts


@dataclass(frozen=True)
class PredictSettings:
    """The settings of a prediction; names and meanings are those of the options of `xlt predict`."""

    modules: Sequence[str]
    input: str = STANDARD
    output: str = STANDARD
    language_modules: Mapping[str, str] = field(default_factory=dict)
    model: str | None = None
    revision: str | None = None
    task: str | None = None
    settings: Sequence[str] = ()
    input_format: str | None = None
    output_format: str | None = None
    fields: Mapping[str, str] = field(default_factory=dict)
    language: str | None = None
    language_field: str | None = None
    into: str | None = None
    separator: str | None = None
    scores: bool = False
    batch_size: int = 32
    most_new_tokens: int | None = None
    precision: str = "fp32"
    device: str = "auto"
    threads: int | None = None
    quiet: bool = False
    replace: bool = False
    composition: str | None = None


@dataclass(frozen=True)
class PredictReport:
    """What a prediction did: numbers of examples, those that an earlier command had done, and the seconds it took."""

    examples: int
    done_before: int
    seconds: float


def predict(settings: PredictSettings) -> PredictReport:
    """Annotates an input and writes the output.

    Raises:
        UsageError, ModuleFileError: modules, model, input or options do not fit together; a file is checked as a whole
            before the model is loaded.
        Interrupted: a signal came; the output so far is kept, and the same command continues it.
    """
    modules = read_modules(settings.modules, settings.language_modules, settings.model, settings.revision)
    task = task_of(modules.main, settings.task, settings.settings)
    check_settings(settings, task, modules)
    expression = None if settings.composition is None else read_composition(settings.composition, modules)
    if settings.most_new_tokens is not None:
        task.most_new_tokens = settings.most_new_tokens  # type: ignore[attr-defined]
    reading = reading_of(settings, task)
    total, languages = (None, {}) if settings.input == STANDARD else survey(settings.input, reading, task)
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    output = GrowingOutput(
        settings.output,
        _identity(settings, modules),
        resumable=settings.input != STANDARD,
        replace=settings.replace,
    )
    loaded = load_model(modules, task, model=settings.model, device=settings.device, revision=settings.revision)
    loaded = with_composition(loaded, expression)
    loaded.check_languages(languages)
    note_modules(modules, "predict", settings.precision)
    started = time.monotonic()
    with output, StopSignals() as stop, texts(settings.input, reading) as (layout, entries):
        writer = _writer(settings, task, layout)
        before = output.done
        progress = None if settings.quiet else ProgressBar("predict", unit="example")
        count = done_before = 0
        begun = False
        unspaced, cut = UnspacedTexts(), CutTexts()
        size = chunk_size(loaded, list(languages))
        for number, chunk in enumerate(chunks(entries, patient=settings.input != STANDARD, size=size)):
            examples = sum(entry.example is not None for entry in chunk)
            if number < before:
                count += examples
                done_before = count
                continue
            if not begun and progress is not None and total is not None:
                progress.begin_phase("", count, total)
            begun = True
            if total is None:
                _check_chunk(task, chunk)
                if not unspaced.found:
                    unspaced.look_at(chunk)
                    unspaced.say()
                loaded.check_languages(_languages(chunk))
            annotations = annotate(
                loaded,
                chunk,
                batch_size=settings.batch_size,
                precision=settings.precision,
                after_batch=lambda _: _heed(stop),
                cut=cut,
            )
            text = "".join(writer.entry(*pair) for pair in zip(chunk, annotations, strict=True))
            output.add((writer.head() if number == 0 else "") + text)
            count += examples
            if progress is not None and total is not None:
                progress.metrics("", count, {})
            if total is None or count < total:
                _heed(stop)
        if not begun and before == 0:
            output.add(writer.head())
        if progress is not None:
            progress.close()
        cut.say()
    return PredictReport(count, done_before, time.monotonic() - started)


def _heed(stop: StopSignals) -> None:
    """Stops the command if a signal has come; the examples that are not written yet are annotated again next time.

    Raises:
        Interrupted: see above.
    """
    if stop.number:
        raise Interrupted(stop.number)


def reading_of(settings: PredictSettings, task: Task) -> Reading:
    """Returns how the input is read.

    Raises:
        UsageError: the format is not known, or cannot say the language of each example.
    """
    format = format_of(settings.input, settings.input_format)
    lines = list(_unheeded(settings, format, task))
    if (fault := language_field_fault(settings.language_field, format)) is not None:
        lines.append(fault)
    if lines:
        raise UsageError(*lines)
    return Reading(
        format,
        task.reads,
        settings.fields,
        settings.language,
        settings.language_field,
        settings.into,
        settings.separator,
    )


def _unheeded(settings: PredictSettings, format: str, task: Task) -> Iterator[str]:
    """Yields a line for each option that would change nothing in how an input of this format is read."""
    if settings.separator is not None and format not in ("tsv", "csv"):
        yield f"--separator={settings.separator}: has no effect, because {format} has no cells of a table; leave it out"
    known = {"id", *task.reads, *(["text"] if "words" in task.reads else [])}
    known |= {"messages", "text"} if "turns" in task.reads else set()
    known |= {"conll": {"words", *columns_of(task)}}.get(format, set())
    for part, column in settings.fields.items():
        if format not in ("conll", "jsonl", "tsv", "csv"):
            yield f"--field={part}={column}: has no effect, because {format} has no columns to choose; leave it out"
        elif part not in known and not ("choices" in task.reads and part.startswith("choice_")):
            yield f"--field={part}={column}: task {task.name} reads no {part}, but {', '.join(sorted(known))}"


def survey(path: str, reading: Reading, task: Task) -> tuple[int, dict[str | None, str]]:
    """Reads a file once and checks it; returns the number of examples, and language -> place of its first example.

    A line warns of texts in scripts without spaces, whose words the task cannot know.

    Raises:
        UsageError: the file has a fault, or no example.
    """
    count = 0
    languages: dict[str | None, str] = {}
    unspaced = UnspacedTexts()
    if reading.format == "tsv" and Path(path).is_file():
        refuse_quoted_cells(path)
    with texts(path, reading) as (_, entries):
        for chunk in chunks(entries, patient=True):
            count += sum(entry.example is not None for entry in chunk)
            _check_chunk(task, chunk)
            unspaced.look_at(chunk)
            for language, place in _languages(chunk).items():
                languages.setdefault(language, place)
    if not count:
        raise UsageError(f"--input={path}: there is nothing to annotate in it")
    unspaced.say()
    return count, languages


def check_settings(settings: PredictSettings, task: Task, modules: UsedModules) -> None:
    """Refuses options that contradict each other or the task, before anything heavy is loaded.

    Raises:
        UsageError: a line for each fault.
    """
    lines = []
    if not task.predicts:
        lines.append(f"{modules.main.path}: its task, {task.name}, predicts no labels and writes no texts")
    if task.translates and settings.into is None:
        lines.append("--into: missing; a translator needs the code of the language into which it translates")
    if settings.into is not None and not task.translates:
        lines.append(f"--into={settings.into}: task {task.name} does not translate")
    if settings.most_new_tokens is not None and not hasattr(task, "most_new_tokens"):
        lines.append(f"--max-new-tokens={settings.most_new_tokens}: task {task.name} continues no text")
    if settings.batch_size < 1:
        lines.append(f"--batch-size={settings.batch_size}: must be at least 1")
    if settings.threads is not None and settings.threads < 1:
        lines.append(f"--threads={settings.threads}: must be at least 1")
    if settings.language is not None and settings.language_field is not None:
        lines.append("--language, --language-field: give one of them")
    if settings.output != STANDARD and settings.output == settings.input:
        lines.append(f"--output={settings.output}: this is the input; give another file")
    elif settings.output != STANDARD:
        fault = output_fault(Path(settings.output), replace=settings.replace)
        lines += [f"--output={settings.output}: {fault}"] if fault is not None else []
    if lines:
        raise UsageError(*lines)


def _writer(settings: PredictSettings, task: Task, layout: Layout) -> annotated.AnnotatedText:
    columns = columns_of(task)
    writes_text = not columns and not task.labels()
    name = annotated.format_of(settings.output, settings.output_format, layout.format, bool(columns), writes_text)
    return annotated.AnnotatedText(layout, name, task.name, columns, settings.fields, scores=settings.scores)


def columns_of(task: Task) -> list[str]:
    """Returns the names of the columns of the labels that a task gives to words; empty if it gives none."""
    if "words" not in task.reads:
        return []
    from xlt.data.examples import Example

    return list(task.blank(Example("", words=("a",))).columns)


def _check_chunk(task: Task, chunk: Sequence[Entry]) -> None:
    examples = [task.blank(entry.example) for entry in chunk if entry.example is not None]
    task.check(examples, "the input")


def _languages(chunk: Sequence[Entry]) -> dict[str | None, str]:
    found: dict[str | None, str] = {}
    for entry in chunk:
        if entry.example is not None:
            found.setdefault(entry.language, entry.example.place)
    return found


def note_modules(modules: UsedModules, command: str, precision: str) -> None:
    """Says what a user may not expect of the modules' results.

    That is: several task modules are added up, one was trained with language modules and none is given, or the run that
    made it computed its scores in another precision.
    """
    if len(modules.tasks) > 1:
        names = ", ".join(str(one.path) for one in modules.tasks)
        say(f"xlt: {len(modules.tasks)} task modules are added up ({names}); the head is that of the last")
    facts = modules.main.facts
    depends, learned = dict(facts.get("depends_on") or {}), facts.get("languages") or ()
    trained_with = sorted(role for role in depends if role in learned)
    if trained_with and not modules.languages:
        say(
            f"xlt: {modules.main.path}: it was trained with language modules ({', '.join(trained_with)}), but none is "
            f"given, so it is used alone; to add one: xlt {command} MODULE LANGUAGE_MODULE --language CODE"
        )
    of_run = modules.main.manifest.get("config", {}).get("train", {}).get("precision", precision)
    if of_run != precision:
        say(
            f"xlt: {modules.main.path}: the scores of its run are in {of_run}, these results in {precision}, so they "
            f"can differ a little; for the run's: --precision {of_run}"
        )


def _identity(settings: PredictSettings, modules: UsedModules) -> dict[str, Any]:
    """Returns what must be the same for an interrupted output to be continued."""
    files = [*modules.tasks, *modules.languages.values()]
    ignored = ("output", "replace", "quiet", "threads", "modules", "language_modules")
    options = {name: value for name, value in vars(settings).items() if name not in ignored}
    return {
        "xlt": xlt.__version__,
        "options": {name: list(v) if isinstance(v, tuple) else v for name, v in options.items()},
        "modules": [file_digest(used.path) for used in files],
        "input": None if settings.input == STANDARD else file_digest(Path(settings.input)),
        "chunks": chunk_rule(),
    }
