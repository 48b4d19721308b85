"""Converts rows of text cells to examples; the common part of the readers of CSV and TSV files."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from pathlib import Path

from xlt.config import SourceConfig
from xlt.data.examples import Example
from xlt.data.files import lines_of
from xlt.data.records import examples_of, fields_of
from xlt.errors import UsageError

_MAX_CELL = 2**31 - 1  # a cell can be a document; the csv module's own limit is 131,072 characters
_MOST_NAMES, _LONGEST_NAME = 50, 100  # of columns in a message
_DELIMITERS = {"\t": "tab", ";": ";", "|": "|", ",": ","}


def quoted_rows(file: Path, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Yields the rows of a file as `quoted_cells` does."""
    return quoted_cells((line for _, line in lines_of(file)), str(file), delimiter)


def quoted_cells(lines: Iterable[str], name: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Yields the number of the first line and the cells of each record, in which cells can be in quotes (RFC 4180).

    Args:
        lines: from the first one on, without line ends.
        name: of the file, for messages.
        delimiter: the character between cells.
    Raises:
        UsageError: a record is broken or a quote is not closed; the message names the line where the record begins.
    """
    csv.field_size_limit(_MAX_CELL)
    reader = csv.reader((line + "\n" for line in lines), strict=True, delimiter=delimiter)
    while True:
        start = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise UsageError(f"{name}:{start}: not a CSV record: {error}") from error
        if cells:
            yield start, cells


def table_examples(source: SourceConfig, file: Path, rows: Iterable[tuple[int, list[str]]]) -> Iterator[Example]:
    """Yields one example for each row that has the values of the source's `where`.

    The first row is the header. If every value of the source's `fields` is a number, there is no header, and the
    numbers count columns from 0, or from the last column backwards from -1.

    Args:
        source: its `fields` name the columns.
        file: with the rows, for messages.
        rows: number of the line at which each row begins, and its cells.
    Raises:
        UsageError: the file is empty, the header repeats a name or lacks one of `fields`, or a row has another width.
    """
    fields = fields_of(source)
    numbered = all(column.removeprefix("-").isdecimal() for column in fields.values())
    remaining = iter(rows)
    line, cells = next(remaining, (0, []))
    if not line:
        expected = "rows" if numbered else f"a header with {', '.join(dict.fromkeys(fields.values()))}"
        raise UsageError(f"{file}: the file has no line; expected {expected}")
    place = f"{file}:{line}"
    if numbered:
        fields = {role: _position(column, role, cells, place) for role, column in fields.items()}
        header, remaining = [str(number) for number in range(len(cells))], chain([(line, cells)], remaining)
    else:
        header = _check_header(cells, fields, place)
    yield from examples_of(_records(file, header, remaining, numbered), fields, source)


def _records(
    file: Path, header: list[str], rows: Iterable[tuple[int, list[str]]], numbered: bool
) -> Iterator[tuple[str, dict[str, str]]]:
    for line, cells in rows:
        if len(cells) != len(header):
            first_row = "the first row" if numbered else "the header"
            fault = f"{file}:{line}: the row has {len(cells)} columns, but {first_row} has {len(header)}"
            if any('"' in cell for cell in cells):
                fault += "; if the cells of this TSV file are in quotes, give the source quoting=rfc"
            raise UsageError(fault)
        yield f"{file}:{line}", dict(zip(header, cells, strict=True))


def _check_header(names: list[str], fields: dict[str, str], place: str) -> list[str]:
    repeated = sorted(name for name, count in Counter(names).items() if count > 1)
    if repeated:
        raise UsageError(f"{place}: the header has {_listed(map(repr, repeated), len(repeated))} more than once")
    for role, column in fields.items():
        if column not in names:
            raise UsageError(
                f"{place}: no column {column!r} (fields.{role}); the header has {_listed(names, len(names))}"
                f"{_separated(names)}"
            )
    return names


def _listed(names: Iterable[str], count: int) -> str:
    """Returns the first names of `count`, each cut if it is long, and how many more there are."""
    shown = [f"{name[:_LONGEST_NAME]}..." if len(name) > _LONGEST_NAME else name for name in islice(names, _MOST_NAMES)]
    return ", ".join(shown) + (f" and {count - _MOST_NAMES} more" if count > _MOST_NAMES else "")


def _separated(names: list[str]) -> str:
    """Returns how to read the file if its only cell looks like several that another character separates."""
    other = next((character for character in _DELIMITERS if len(names) == 1 and character in names[0]), None)
    if other is None:
        return ""
    name = _DELIMITERS[other]
    return f"; if {name} separates the columns, read the file with reader=csv and delimiter={name}"


def _position(column: str, role: str, cells: list[str], place: str) -> str:
    number = int(column) if int(column) >= 0 else len(cells) + int(column)
    if not 0 <= number < len(cells):
        raise UsageError(
            f"{place}: no column {column} (fields.{role}); the first row has columns 0 to {len(cells) - 1}"
            f"{_separated(cells)}"
        )
    return str(number)
