"""Annotates entries with a model, in batches of similar length, and in several languages at once where that is so."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch

from xlt.data.examples import Example
from xlt.data.mix import Features
from xlt.engine.evaluation import predictions
from xlt.tasks.task import Annotation, Task
from xlt.use.cut_texts import CutTexts
from xlt.use.loading import LoadedModel
from xlt.use.texts import Entry

_FIRST_CHUNK, _CHUNK = 64, 1024  # examples; the first one is small, so that the first output comes soon
# Where modules of many languages are switched, a switch costs as much as four to seven sentences, and few sentences of
# a language make small batches with much padding, which costs more: of one module's throughput there is 0.42 with 10
# sentences of 5 to 45 tokens, 0.65 with 41. So a chunk has about 128 examples of each language. The limit bounds memory
# and what a killed command loses.
_OF_A_LANGUAGE, _LARGEST_CHUNK = 128, 16_384
_PATIENCE_SECONDS = 2.0


def chunks(entries: Iterable[Entry], *, patient: bool, skip: int = 0, size: int | None = None) -> Iterator[list[Entry]]:
    """Cuts entries into groups that are annotated together; a group's borders depend on the number of examples alone.

    Args:
        entries: in order.
        patient: whether to wait for a group to be full. Otherwise, where examples come slowly, as from a pipe, a group
            ends with the first example that comes more than two seconds after its beginning.
        skip: number of groups at the beginning that are left out.
        size: examples in each group but the first; None: as `chunk_size` for one language.
    """
    size = _CHUNK if size is None else size
    chunk: list[Entry] = []
    examples, number, started = 0, 0, time.monotonic()
    for entry in entries:
        chunk.append(entry)
        examples += entry.example is not None
        is_full = examples >= (size if number else _FIRST_CHUNK)
        if is_full or (not patient and examples and time.monotonic() - started > _PATIENCE_SECONDS):
            if number >= skip:
                yield chunk
            chunk, examples, number, started = [], 0, number + 1, time.monotonic()
    if chunk and number >= skip:
        yield chunk


def chunk_size(loaded: LoadedModel, languages: Sequence[str | None]) -> int:
    """Returns the number of examples that are annotated together.

    Modules of many languages that cannot be in the model together are switched once a group, so groups grow with the
    number of languages then.

    Args:
        loaded: the model.
        languages: of the input.
    """
    size = min(_OF_A_LANGUAGE * len(languages), _LARGEST_CHUNK)
    if size <= _CHUNK or loaded.speak_all(languages) is not None:
        return _CHUNK
    return size


def chunk_rule() -> list[int]:
    """Returns the numbers that decide where groups end, for an output that is continued by whole groups."""
    return [_FIRST_CHUNK, _CHUNK, _OF_A_LANGUAGE, _LARGEST_CHUNK]


@torch.no_grad()
def annotate(
    loaded: LoadedModel,
    entries: Sequence[Entry],
    *,
    batch_size: int,
    precision: str = "fp32",
    after_batch: Callable[[int], None] = lambda _: None,
    cut: CutTexts | None = None,
) -> list[Annotation | None]:
    """Returns the annotation of each entry, None where there is no example.

    Args:
        loaded: the model.
        entries: languages may alternate. Adapters and low-rank deltas of several languages are in the model at the same
            time, and a batch has examples of all; other modules are switched once for each language.
        batch_size: number of rows of a batch, at most.
        precision: "fp32" or "bf16".
        after_batch: is called after each batch with the number of its rows.
        cut: counts the examples that lose tokens; None: nobody does.
    """
    by_language: dict[str | None, list[int]] = defaultdict(list)
    for number, entry in enumerate(entries):
        if entry.example is not None:
            by_language[entry.language].append(number)
    enter = loaded.speak_all(list(by_language)) if len(by_language) > 1 else None
    groups = list(by_language.values())
    if enter is not None:
        groups = [sorted(number for numbers in groups for number in numbers)]
    result: list[Annotation | None] = [None] * len(entries)
    task = loaded.task
    for numbers in groups:
        if enter is None:
            loaded.speak(entries[numbers[0]].language)
        examples = [example for number in numbers if (example := entries[number].example) is not None]
        rows = input_rows(task, examples, loaded)
        if cut is not None:
            cut.look_at(task, [task.blank(example) for example in examples], rows, loaded.encoder)
        language = {id(row): entries[numbers[row["example"]]].language for row in rows}

        def before(part: Sequence[Features], language: dict[int, str | None] = language) -> None:
            if enter is not None:
                enter([language[id(row)] for row in part])

        predicted: dict[int, Any] = {}
        batches = predictions(loaded.model, task, rows, loaded.encoder, batch_size, precision, before)
        for part, of_part in batches:
            predicted |= zip(map(id, part), of_part, strict=True)
            after_batch(len(part))
        of_example: dict[int, list[Features]] = defaultdict(list)
        for row in rows:
            of_example[row["example"]].append(row)
        for at, number in enumerate(numbers):
            own = of_example[at]
            result[number] = task.annotate(own, [predicted[id(row)] for row in own])
    return result


def input_rows(task: Task, examples: Sequence[Example], loaded: LoadedModel) -> list[Features]:
    """Returns the rows of examples, each with the number of its example."""
    rows = task.inputs(examples, loaded.encoder)
    if any("example" not in row for row in rows):
        assert len(rows) == len(examples), "a task whose rows do not name their example has one for each"
        rows = [row | {"example": number} for number, row in enumerate(rows)]
    return rows
