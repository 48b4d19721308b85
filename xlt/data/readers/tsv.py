"""Tab-separated values: a line is a record, a tab ends a cell, and quotes are letters like others."""

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
    """The file at `path`, or `SPLIT.tsv` in the folder there.

    Raises:
        UsageError: it is not there, or `fields` name no column.
    """
    fields_of(source)
    return [split_file(source, ("{split}.tsv",))]


def read(source: SourceConfig) -> Iterator[Example]:
    """An example a line; empty lines are passed over.

    Raises:
        UsageError: a line is broken; names it.
    """
    (file,) = files(source)
    yield from table_examples(source, file, ((number, line.split("\t")) for number, line in lines_of(file) if line))
