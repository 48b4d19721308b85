"""Reads CoNLL columns (CoNLL-2003, MasakhaNER): one word per line with its tags, and blank lines between sentences.

ASCII spaces and tabs separate columns. Any other character, such as a no-break space or an invisible character, is part
of the word (MasakhaNER has such words). All lines of a file have the same number of columns.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from xlt.config import SourceConfig
from xlt.data.examples import Example
from xlt.data.files import lines_of, split_file
from xlt.data.records import fields_of
from xlt.errors import UsageError

_DOCUMENT = "-DOCSTART-"
_BLANK = " \t"


def files(source: SourceConfig) -> list[Path]:
    """Returns the file at `path`, or `SPLIT.txt` or `SPLIT.conll` in the folder `path`.

    Raises:
        UsageError: there is no such file, or `fields` are no numbers of columns.
    """
    _numbers(source)
    return [split_file(source, ("{split}.txt", "{split}.conll"))]


def read(source: SourceConfig) -> Iterator[Example]:
    """Yields all sentences of the split, with the columns whose numbers `fields` has (from 0, or backwards from -1).

    Raises:
        UsageError: a line is not UTF-8, or lacks a column or a word; the message names file and line.
    """
    (file,) = files(source)
    at = _numbers(source)
    rows: list[list[str]] = []
    start, width = 0, None
    for number, line in lines_of(file):
        cells = re.split(r"[ \t]+", line.rstrip(_BLANK))
        if cells == [""] or cells[0] == _DOCUMENT:
            if rows:
                yield _sentence(f"{file}:{start}", rows, at)
            rows = []
            continue
        if width is None:
            width = _check_width(cells, at, f"{file}:{number}")
        if len(cells) != width:
            raise UsageError(f"{file}:{number}: {len(cells)} columns, but the first line has {width}")
        if not cells[at["words"]]:
            raise UsageError(f"{file}:{number}: the line begins with a blank, but must begin with a word")
        if not rows:
            start = number
        rows.append(cells)
    if rows:
        yield _sentence(f"{file}:{start}", rows, at)


def _numbers(source: SourceConfig) -> dict[str, int]:
    fields = fields_of(source)
    for role, column in fields.items():
        if not column.removeprefix("-").isdecimal():
            raise UsageError(f"fields.{role}={column}: must be the number of a column, from 0, or -1 for the last")
    if "words" not in fields:
        raise UsageError(f"fields={fields}: no column of words; set for example fields.words=0")
    return {role: int(column) for role, column in fields.items()}


def _check_width(cells: list[str], at: dict[str, int], place: str) -> int:
    places = [number if number >= 0 else len(cells) + number for number in at.values()]
    if not all(0 <= number < len(cells) for number in places) or len(set(places)) < len(places):
        fields = ", ".join(f"{role}={number}" for role, number in at.items())
        raise UsageError(f"{place}: {len(cells)} columns are too few for fields {fields}")
    return len(cells)


def _sentence(place: str, rows: list[list[str]], at: dict[str, int]) -> Example:
    columns = {role: tuple(row[number] for row in rows) for role, number in at.items()}
    words = columns.pop("words")
    return Example(place, words=words, columns=columns)
