"""Rows of text cells to examples: what CSV and TSV files have in common."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from xlt.config import SourceConfig
from xlt.data.examples import Example
from xlt.data.records import examples_of, fields_of
from xlt.errors import UsageError


def table_examples(source: SourceConfig, file: Path, rows: Iterable[tuple[int, list[str]]]) -> Iterator[Example]:
    """An example a row that has the values of the source's `where`.

    The first row is the header, unless every value of the source's `fields` is a number: then there is none, columns
    count from 0, and from the last one backwards with -1.

    Args:
        source: its `fields` name the columns.
        file: for messages.
        rows: number of the line where each begins, and its cells.
    Raises:
        UsageError: an empty file, a header that repeats a name or lacks one of `fields`, a row of another width.
    """
    fields = fields_of(source)
    numbered = all(column.removeprefix("-").isdecimal() for column in fields.values())
    header: list[str] | None = None
    for line, cells in rows:
        if header is None:
            if not numbered:
                header = _checked_header(cells, fields, f"{file}:{line}")
                continue
            fields = {role: _position(column, role, cells, f"{file}:{line}") for role, column in fields.items()}
            header = [str(number) for number in range(len(cells))]
        if len(cells) != len(header):
            there = "the first row" if numbered else "the header"
            raise UsageError(f"{file}:{line}: {len(cells)} columns, {there} has {len(header)}")
        yield from examples_of([(f"{file}:{line}", dict(zip(header, cells, strict=True)))], fields, source.where)
    if header is None:
        wanted = "rows" if numbered else f"a header with {', '.join(dict.fromkeys(fields.values()))}"
        raise UsageError(f"{file}: has no line; wanted {wanted}")


def _checked_header(names: list[str], fields: dict[str, str], place: str) -> list[str]:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UsageError(f"{place}: the header has {', '.join(map(repr, twice))} more than once")
    for role, column in fields.items():
        if column not in names:
            raise UsageError(f"{place}: no column {column!r} (fields.{role}); the header has {', '.join(names)}")
    return names


def _position(column: str, role: str, cells: list[str], place: str) -> str:
    number = int(column) if int(column) >= 0 else len(cells) + int(column)
    if not 0 <= number < len(cells):
        raise UsageError(f"{place}: no column {column} (fields.{role}); the first row has {len(cells)}, from 0")
    return str(number)
