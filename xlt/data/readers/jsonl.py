"""Reads JSON lines: one object per line, with texts as strings, and words and their labels as lists."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from xlt.config import SourceConfig
from xlt.data.examples import Example
from xlt.data.files import lines_of, split_file
from xlt.data.records import examples_of, fields_of
from xlt.errors import UsageError

CHOOSES_ROWS = True


def files(source: SourceConfig) -> list[Path]:
    """Returns the file at `path`, or `SPLIT.jsonl` in the folder `path`.

    Raises:
        UsageError: there is no such file, or `fields` names no column.
    """
    fields_of(source)
    return [split_file(source, ("{split}.jsonl",))]


def read(source: SourceConfig) -> Iterator[Example]:
    """Yields one example per line; blank lines are skipped.

    Raises:
        UsageError: a line is no JSON object, or lacks a key in `fields`; the message names the line.
    """
    (file,) = files(source)
    return examples_of(_records(file), fields_of(source), source)


def _records(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, line in lines_of(file):
        if not line.strip():
            continue
        place = f"{file}:{number}"
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:  # also a number of thousands of digits
            raise UsageError(f"{place}: not JSON: {error}") from error
        if not isinstance(record, dict):
            raise UsageError(f"{place}: the line is a JSON {type(record).__name__}, expected an object")
        yield place, record
