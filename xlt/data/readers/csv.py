"""Reads comma-separated values of RFC 4180, in which cells in double quotes can have commas, quotes and line breaks.

With the source's key `delimiter` another character separates the cells.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from xlt.config import SourceConfig
from xlt.data.examples import Example
from xlt.data.files import split_file
from xlt.data.records import fields_of
from xlt.data.tables import quoted_rows, table_examples

CHOOSES_ROWS = True
USES = ("delimiter",)


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
    yield from table_examples(source, file, quoted_rows(file, source.delimiter_character))
