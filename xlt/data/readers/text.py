"""Plain text, one sentence, verse or paragraph a line; empty lines are passed over."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from xlt.config import SourceConfig
from xlt.data.examples import Example
from xlt.data.files import lines_of, split_file


def files(source: SourceConfig) -> list[Path]:
    """The file at `path`, or in the folder there `{code}.txt` or `{split}.txt`."""
    return [split_file(source, ("{code}.txt", "{split}.txt"))]


def read(source: SourceConfig) -> Iterator[Example]:
    """All lines that hold anything.

    Raises:
        UsageError: a line is not UTF-8; names file and line.
    """
    (file,) = files(source)
    for number, line in lines_of(file):
        if text := line.strip():
            yield Example(f"{file}:{number}", text=text)
