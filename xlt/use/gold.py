"""Reads labels as `xlt predict` writes them, so that its output can be the gold data of an evaluation.

Formats that data sets are published in, with labels in the places that these have, are read by `xlt.data.readers`. What
`xlt predict` writes beyond them is read here: tags in the MISC column of CoNLL-U, labels of sentences in its comments,
words and their labels in cells of tables, and answers and translations in a column with the name of the task.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping, Sequence

from xlt.data.examples import Answer, Example, Turn
from xlt.data.files import bare
from xlt.data.schemes import in_iob2, is_tag, recognised_scheme
from xlt.data.where import columns_in
from xlt.errors import UsageError
from xlt.escapes import say
from xlt.tasks.task import Task
from xlt.use.annotated import CONLLU_COLUMNS, MISC, feature_name
from xlt.use.predict import columns_of
from xlt.use.texts import Entry, Reading, texts

_OF_TREEBANKS = {"upos", "head", "deprel"}  # the columns that the reader of CoNLL-U has
_TABLES = ("tsv", "csv")


def is_as_predicted(path: str, reading: Reading, task: Task) -> bool:
    """Returns whether the labels of a file stand where `xlt predict` puts them, and no reader of data sets looks.

    Args:
        path: of the file.
        reading: its settings; `fields` are those that the user gave.
        task: that is evaluated.
    """
    columns = columns_of(task)
    if reading.format == "conllu":
        return not columns or not set(columns) <= _OF_TREEBANKS
    if reading.format not in (*_TABLES, "jsonl") or not task.compares:
        return False
    if columns:
        return reading.format in _TABLES
    if "choices" in task.reads or task.translates:
        return True
    if "turns" in task.reads:
        return not reading.fields
    known = _columns(path, reading)
    published = "label" if task.labels() else "answers"
    if reading.fields:
        return published not in reading.fields
    return bool(known) and not {*task.reads, published} <= known


def gold(path: str, reading: Reading, task: Task) -> Iterator[Example]:
    """Yields the examples of a file with their labels.

    Raises:
        UsageError: the file has a fault, or labels are missing; the message names file and line.
    """
    label = _labeller(reading, task)
    with texts(path, reading) as (_, entries):
        for entry in entries:
            if entry.example is not None:
                yield label(entry, entry.example)


def in_one_scheme(examples: Sequence[Example], column: str, name: str) -> list[Example]:
    """Converts the tags of entities of a file to IOB2.

    Models also predict an `I-` that continues no entity. It begins one then, as conlleval reads it, and a line says so.

    Args:
        examples: of the file.
        column: of the tags.
        name: of the file, for messages.
    Raises:
        UsageError: the tags are of two schemes, one of which marks the ends of entities.
    """
    try:
        scheme = recognised_scheme(examples, column, name)
    except UsageError:
        letters = {tag[0] for example in examples for tag in example.columns[column] if is_tag(tag)}
        if not letters <= {"B", "I", "O"}:
            raise
        scheme = "IOB"
        say(f"xlt: {name}: some I- tags continue no entity; each begins one, as conlleval reads it")
    if scheme is None:
        return list(examples)
    return [dataclasses.replace(one, columns={**one.columns, column: in_iob2(one, column, scheme)}) for one in examples]


def _labeller(reading: Reading, task: Task) -> Callable[[Entry, Example], Example]:
    """Returns the function that gives an example the labels of its entry."""
    columns = columns_of(task)
    if columns:
        of = _conllu_column if reading.format == "conllu" else _cells
        return lambda entry, example: dataclasses.replace(
            example, columns={column: of(entry, example, column, reading.fields) for column in columns}
        )

    def label(entry: Entry, example: Example) -> Example:
        if "turns" in task.reads and example.turns and example.turns[-1].role == "assistant":
            return example
        value = _value(entry, example, task, reading)
        if task.labels() or "choices" in task.reads:
            return dataclasses.replace(example, label=value)
        if task.translates:
            return dataclasses.replace(example, pair=value)
        if "turns" in task.reads:
            turns = example.turns or (Turn("user", str(example.text)),)
            return dataclasses.replace(example, turns=(*turns, Turn("assistant", value)))
        given = entry.record.get(f"{task.name}_start")
        start = given if isinstance(given, int) else str(example.pair).find(value)
        return dataclasses.replace(example, answers=(Answer(value, start),))

    return label


def _value(entry: Entry, example: Example, task: Task, reading: Reading) -> str:
    """Returns the label or text of an example: the given or usual column, else the one with the task's name."""
    if reading.format == "conllu":
        comment = re.compile(rf"#\s*{re.escape(task.name)}\s*=\s*(.*?)\s*")
        found = next((match[1] for line in entry.lines if (match := comment.fullmatch(bare(line, 0)))), None)
        if found is None:
            raise UsageError(f"{example.place}: the sentence has no comment '# {task.name} = ...' with its label")
        return found
    usual = "label" if task.labels() or "choices" in task.reads else "pair" if task.translates else task.name
    column = reading.fields.get(usual) or (usual if usual in entry.record else task.name)
    if entry.record.get(column) is None:
        raise UsageError(
            f"{example.place}: no column {column!r} with what task {task.name} predicts; the columns are "
            f"{columns_in(entry.record)}; give --field={usual}=COLUMN"
        )
    return str(entry.record[column])


def _conllu_column(entry: Entry, example: Example, column: str, fields: Mapping[str, str]) -> tuple[str, ...]:
    """Returns the labels of a sentence of CoNLL-U: of one of its columns, or of a feature in MISC."""
    place, labels = CONLLU_COLUMNS.get(column), []
    name = fields.get(column) or feature_name(column)
    for number, line in enumerate(entry.words_at, start=1):
        cells = bare(entry.lines[line], 0).split("\t")
        if place is not None:
            labels.append(cells[place])
            continue
        features = dict(part.split("=", 1) for part in cells[MISC].split("|") if "=" in part)
        if name not in features:
            raise UsageError(
                f"{example.place} word {number} {cells[1]!r}: no {name}= in the MISC column, where xlt predict writes "
                f"labels of {column}; another name is given as --field={column}=NAME"
            )
        labels.append(features[name])
    return tuple(labels)


def _cells(entry: Entry, example: Example, column: str, fields: Mapping[str, str]) -> tuple[str, ...]:
    """Returns the labels of a sentence in a table: they stand in one cell, with blanks between them."""
    name = fields.get(column, column)
    if name.removeprefix("-").isdecimal() and -len(entry.record) <= int(name) < len(entry.record):
        name = list(entry.record)[int(name)]
    if name not in entry.record:
        raise UsageError(
            f"{example.place}: no column {name!r} with labels of words; the columns are {columns_in(entry.record)}; "
            f"give --field={column}=COLUMN"
        )
    labels, words = tuple(str(entry.record[name]).split()), example.words or ()
    if len(labels) != len(words):
        raise UsageError(f"{example.place}: {len(labels)} labels in column {name!r}, but {len(words)} words")
    return labels


def _columns(path: str, reading: Reading) -> set[str]:
    """Returns the names of the columns of a table, or the keys of the first record of JSON lines."""
    with texts(path, dataclasses.replace(reading, reads=(), into=None)) as (layout, entries):
        return set(layout.names) or next((set(entry.record) for entry in entries), set())
