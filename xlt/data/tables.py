"""Converts rows of text cells to examples; the common part of the readers of CSV and TSV files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from xlt.config import SourceConfig
from xlt.data.examples import Example
from xlt.data.records import examples_of, fields_of
from xlt.errors import UsageError


def table_examples(source: SourceConfig, file: Path, rows: Iterable[tuple[int, list[str]]]) -> Iterator[Example]:
    """Yields one example for each row that has the values of the source's `where`.

    The first row is the header. If every value of the source's `fields` is a number, there is no header, and the
    numbers count columns from 0, or from the last column backwards from -1.

    Args:
        source: its `fields` name the columns.
        file: for messages.
        rows: number of the line at which each row begins, and its cells.
    Raises:
        UsageError: the file is empty, the header repeats a name or lacks one of `fields`, or a row has another width.
    """
    fields = fields_of(source)
    numbered = all(column.removeprefix("-").isdecimal() for column in fields.values())
    header: list[str] | None = None
    for line, cells in rows:
        if header is None:
            if not numbered:
                header = _check_header(cells, fields, f"{file}:{line}")
                continue
            fields = {role: _position(column, role, cells, f"{file}:{line}") for role, column in fields.items()}
            header = [str(number) for number in range(len(cells))]
        if len(cells) != len(header):
            first_row = "the first row" if numbered else "the header"
            raise UsageError(f"{file}:{line}: the row has {len(cells)} columns, but {first_row} has {len(header)}")
        yield from examples_of([(f"{file}:{line}", dict(zip(header, cells, strict=True)))], fields, source.where)
    if header is None:
        expected = "rows" if numbered else f"a header with {', '.join(dict.fromkeys(fields.values()))}"
        raise UsageError(f"{file}: the file has no line; expected {expected}")


def _check_header(names: list[str], fields: dict[str, str], place: str) -> list[str]:
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise UsageError(f"{place}: the header has {', '.join(map(repr, repeated))} more than once")
    for role, column in fields.items():
        if column not in names:
            raise UsageError(f"{place}: no column {column!r} (fields.{role}); the header has {', '.join(names)}")
    return names


def _position(column: str, role: str, cells: list[str], place: str) -> str:
    number = int(column) if int(column) >= 0 else len(cells) + int(column)
    if not 0 <= number < len(cells):
        raise UsageError(
            f"{place}: no column {column} (fields.{role}); the first row has columns 0 to {len(cells) - 1}"
        )
    return str(number)
