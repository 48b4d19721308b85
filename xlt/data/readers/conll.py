"""Reads CoNLL columns (CoNLL-2003, MasakhaNER, UNER): a word with its tags per line, blank lines between sentences.

If a line has tabs, tabs separate its columns, so that a word can have spaces; otherwise ASCII spaces do. Any other
character, such as a no-break space or an invisible character, is part of the word (MasakhaNER has such words). All
lines of a file have the same number of columns.

Lines above a sentence that begin with `#` are comments if they have the form of one (`# sent_id = 3`, `# id 3f02`) or
another number of columns than the words have. So a word `#` stays a word.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from xlt.config import SourceConfig
from xlt.data.examples import Example
from xlt.data.files import lines_of, split_file
from xlt.data.records import fields_of
from xlt.data.where import rows_where
from xlt.errors import UsageError

CHOOSES_ROWS = True
DOCUMENT = "-DOCSTART-"
_BLANK = " \t"
COMMENT = re.compile(r"# +([\w.:-]+ *=|id\s)|#[\w.:-]+ += ")
Sentence = tuple[str, dict[str, list[str]]]


def files(source: SourceConfig) -> list[Path]:
    """Returns the file at `path`, or `SPLIT.txt`, `SPLIT.conll` or `SPLIT.iob2` in the folder `path`.

    Raises:
        UsageError: there is no such file, or `fields` are no numbers of columns.
    """
    _numbers(source)
    return [split_file(source, ("{split}.txt", "{split}.conll", "{split}.iob2"))]


def read(source: SourceConfig) -> Iterator[Example]:
    """Yields the sentences of the split, with the columns whose numbers `fields` has (from 0, or backwards from -1).

    The columns that `where` can name are the roles in `fields`; each holds a list.

    Raises:
        UsageError: a line is not UTF-8, or lacks a column or a word, or the words are the numbers of the lines; the
            message names file and line.
    """
    (file,) = files(source)
    at = _numbers(source)
    numbered: bool | None = None
    longest = 0
    for place, columns in rows_where(source, _sentences(file, at)):
        words = columns["words"]
        if "" in words:
            line = int(place.rpartition(":")[2]) + words.index("")
            raise UsageError(f"{file}:{line}: the line begins with a blank, but must begin with a word")
        numbered = numbered is not False and words == [str(number) for number in range(1, len(words) + 1)]
        yield Example(place, words=tuple(words), columns={role: tuple(columns[role]) for role in at if role != "words"})
        longest = max(longest, len(words))
    if numbered and longest > 1:
        raise UsageError(
            f"{file}: the words in column {at['words']} are 1, 2, 3 in every sentence; to take the words from the next "
            f"column, give the source fields.words={at['words'] + 1}"
        )


def _sentences(file: Path, at: dict[str, int]) -> Iterator[Sentence]:
    """Yields place and columns of each sentence: role -> cells."""
    rows: list[list[str]] = []
    start, width = 0, _width(file)
    for number, line in lines_of(file):
        cells = cells_of(line)
        if cells == [""] or cells[0] == DOCUMENT:
            if rows:
                yield f"{file}:{start}", _columns(rows, at)
            rows = []
            continue
        if not rows and line[0] == "#" and (len(cells) != width or COMMENT.match(line)):
            continue
        if len(cells) != width:
            raise UsageError(f"{file}:{number}: {len(cells)} columns, but the first line has {width}")
        if not rows:
            start = number
            _check_width(cells, at, f"{file}:{number}")
        rows.append(cells)
    if rows:
        yield f"{file}:{start}", _columns(rows, at)


def cells_of(line: str) -> list[str]:
    """Returns the cells of a line, without blanks around them: between its tabs if it has some, else between spaces."""
    line = line.rstrip(_BLANK)
    return [cell.strip(_BLANK) for cell in line.split("\t")] if "\t" in line else re.split(" +", line)


def _width(file: Path) -> int:
    """Returns the number of columns of the first line with a word, if possible of one that does not begin with `#`."""
    width = 0
    for _, line in lines_of(file):
        cells = cells_of(line)
        if cells == [""] or cells[0] == DOCUMENT or COMMENT.match(line):
            continue
        if line[0] != "#":
            return len(cells)
        width = width or len(cells)
    return width


def _numbers(source: SourceConfig) -> dict[str, int]:
    fields = fields_of(source)
    for role, column in fields.items():
        if not column.removeprefix("-").isdecimal():
            raise UsageError(f"fields.{role}={column}: must be the number of a column, from 0, or -1 for the last")
    if "words" not in fields:
        raise UsageError(f"fields={fields}: no column of words; set for example fields.words=0")
    return {role: int(column) for role, column in fields.items()}


def _check_width(cells: list[str], at: dict[str, int], place: str) -> None:
    places = [number if number >= 0 else len(cells) + number for number in at.values()]
    if not all(0 <= number < len(cells) for number in places) or len(set(places)) < len(places):
        fields = ", ".join(f"{role}={number}" for role, number in at.items())
        raise UsageError(f"{place}: {len(cells)} columns are too few for fields {fields}")


def _columns(rows: list[list[str]], at: dict[str, int]) -> dict[str, list[str]]:
    return {role: [row[number] for row in rows] for role, number in at.items()}
