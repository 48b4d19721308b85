"""Reads tab-separated values: a line is a record, a tab ends a cell, and quotes have no special meaning."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from xlt.config import SourceConfig
from xlt.data.examples import Example
from xlt.data.files import lines_of, split_file
from xlt.data.records import fields_of
from xlt.data.tables import table_examples

CHOOSES_ROWS = True


def files(source: SourceConfig) -> list[Path]:
    """Returns the file at `path`, or `SPLIT.tsv` in the folder `path`.

    Raises:
        UsageError: there is no such file, or `fields` names no column.
    """
    fields_of(source)
    return [split_file(source, ("{split}.tsv",))]


def read(source: SourceConfig) -> Iterator[Example]:
    """Yields one example per line; empty lines are skipped.

    Raises:
        UsageError: a line is broken; the message names it.
    """
    (file,) = files(source)
    yield from table_examples(source, file, ((number, line.split("\t")) for number, line in lines_of(file) if line))
