"""Reads plain text with one sentence, verse or paragraph per line; empty lines are skipped."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from xlt.config import SourceConfig
from xlt.data.examples import Example
from xlt.data.files import lines_of, split_file


def files(source: SourceConfig) -> list[Path]:
    """Returns the file at `path`, or `{code}.txt` or `{split}.txt` in the folder `path`."""
    return [split_file(source, ("{code}.txt", "{split}.txt"))]


def read(source: SourceConfig) -> Iterator[Example]:
    """Yields all lines that are not blank.

    Raises:
        UsageError: a line is not UTF-8; the message names file and line.
    """
    (file,) = files(source)
    for number, line in lines_of(file):
        if text := line.strip():
            yield Example(f"{file}:{number}", text=text)
