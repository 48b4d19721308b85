"""Plain text, one sentence, verse or paragraph a line; empty lines are passed over."""

from __future__ import annotations

from pathlib import Path

from xlt.config import SourceConfig, UsageError
from xlt.data.examples import Example

_BYTE_ORDER_MARK = "\ufeff"


def files(source: SourceConfig) -> list[Path]:
    """The file at `path`."""
    path = source.location()
    if not path.is_file():
        raise UsageError(f"{path}: no such file; reader text wants one with a sentence a line")
    return [path]


def read(source: SourceConfig) -> list[Example]:
    """All lines that hold anything.

    Raises:
        UsageError: a line is not UTF-8; names file and line.
    """
    (file,) = files(source)
    examples = []
    for number, raw in enumerate(file.read_bytes().split(b"\n"), start=1):
        try:
            line = raw.decode("utf-8").removeprefix(_BYTE_ORDER_MARK).strip()
        except UnicodeDecodeError as error:
            raise UsageError(f"{file}:{number}: not UTF-8") from error
        if line:
            examples.append(Example(f"{file}:{number}", text=line))
    return examples
