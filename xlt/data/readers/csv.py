"""Reads comma-separated values of RFC 4180, in which cells in double quotes can have commas, quotes and line breaks."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from xlt.config import SourceConfig
from xlt.data.examples import Example
from xlt.data.files import lines_of, split_file
from xlt.data.records import fields_of
from xlt.data.tables import table_examples
from xlt.errors import UsageError

CHOOSES_ROWS = True
_MAX_CELL = 2**31 - 1  # a cell can be a document; the csv module's own limit is 131,072 characters


def files(source: SourceConfig) -> list[Path]:
    """Returns the file at `path`, or `SPLIT.csv` in the folder `path`.

    Raises:
        UsageError: there is no such file, or `fields` names no column.
    """
    fields_of(source)
    return [split_file(source, ("{split}.csv",))]


def read(source: SourceConfig) -> Iterator[Example]:
    """Yields one example per record; blank lines are skipped, and line breaks in quotes become a line feed.

    Raises:
        UsageError: a record is broken or a quote is not closed; the message names the line where the record begins.
    """
    (file,) = files(source)
    yield from table_examples(source, file, _records(file))


def _records(file: Path) -> Iterator[tuple[int, list[str]]]:
    csv.field_size_limit(_MAX_CELL)
    reader = csv.reader((line + "\n" for _, line in lines_of(file)), strict=True)
    while True:
        start = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise UsageError(f"{file}:{start}: not a CSV record: {error}") from error
        if cells:
            yield start, cells
