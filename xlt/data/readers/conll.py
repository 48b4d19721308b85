"""CoNLL columns (CoNLL-2003, MasakhaNER): a word a line with its tags, sentences apart by blank lines.

Spaces and tabs of ASCII are between columns; any other character, a no-break space or an invisible one among them, is
part of the word (MasakhaNER has such words). Lines of a file have equally many columns.
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
    """The file at `path`, or `SPLIT.txt` or `SPLIT.conll` in the folder there.

    Raises:
        UsageError: it is not there, or `fields` do not number the columns.
    """
    _numbers(source)
    return [split_file(source, ("{split}.txt", "{split}.conll"))]


def read(source: SourceConfig) -> Iterator[Example]:
    """All sentences of the split, with the tag columns that `fields` number (from 0, or backwards from -1).

    Raises:
        UsageError: a line is not UTF-8, lacks a column or a word; names file and line.
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
            width = _checked_width(cells, at, f"{file}:{number}")
        if len(cells) != width:
            raise UsageError(f"{file}:{number}: {len(cells)} columns, the first line has {width}")
        if not cells[at["words"]]:
            raise UsageError(f"{file}:{number}: the line begins with a blank, where a word was due")
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
        raise UsageError(f"fields={fields}: no column of words; give for instance fields.words=0")
    return {role: int(column) for role, column in fields.items()}


def _checked_width(cells: list[str], at: dict[str, int], place: str) -> int:
    places = [number if number >= 0 else len(cells) + number for number in at.values()]
    if not all(0 <= number < len(cells) for number in places) or len(set(places)) < len(places):
        named = ", ".join(f"{role}={number}" for role, number in at.items())
        raise UsageError(f"{place}: {len(cells)} columns are too few for fields {named}")
    return len(cells)


def _sentence(place: str, rows: list[list[str]], at: dict[str, int]) -> Example:
    columns = {role: tuple(row[number] for row in rows) for role, number in at.items()}
    words = columns.pop("words")
    return Example(place, words=words, columns=columns)
