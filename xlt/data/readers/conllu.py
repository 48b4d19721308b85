"""Reads CoNLL-U treebanks (Universal Dependencies): words with their tags, heads and relations.

Lines of multi-word tokens (`3-4`) and empty nodes (`5.1`) are not syntactic words and are skipped, as in the CoNLL
evaluations. Examples have no running text, because the syntactic words of a multi-word token do not occur in it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from xlt.config import SourceConfig
from xlt.data.examples import Example
from xlt.data.files import lines_of, split_file
from xlt.errors import UsageError

_COLUMNS = 10
_UPOS, _HEAD, _RELATION = 3, 6, 7


def files(source: SourceConfig) -> list[Path]:
    """Returns the file of the split: `path` itself, or `*-ud-SPLIT.conllu` or `SPLIT.conllu` in the folder `path`."""
    return [split_file(source, ("*-ud-{split}.conllu", "{split}.conllu"))]


def read(source: SourceConfig) -> Iterator[Example]:
    """Yields all sentences of the split, with columns `upos`, `head` and `deprel` as in the file.

    Raises:
        UsageError: a line is not UTF-8, lacks columns, or breaks the numbering of words; the message names file and
            line.
    """
    (file,) = files(source)
    rows: list[list[str]] = []
    start = 0
    for number, line in lines_of(file):
        if not line.strip():
            if rows:
                yield _sentence(f"{file}:{start}", rows)
            rows = []
            continue
        if line.startswith("#"):
            continue
        fields = line.split("\t")
        if len(fields) != _COLUMNS:
            raise UsageError(f"{file}:{number}: {len(fields)} tab-separated columns, but CoNLL-U has {_COLUMNS}")
        if "-" in fields[0] or "." in fields[0]:
            continue
        if fields[0] != str(len(rows) + 1):
            raise UsageError(f"{file}:{number}: word id {fields[0]!r}, expected {len(rows) + 1}")
        if not fields[1]:
            raise UsageError(f"{file}:{number}: the FORM column is empty")
        if not rows:
            start = number
        rows.append(fields)
    if rows:
        yield _sentence(f"{file}:{start}", rows)


def _sentence(place: str, rows: list[list[str]]) -> Example:
    columns = {
        name: tuple(row[at] for row in rows) for name, at in (("upos", _UPOS), ("head", _HEAD), ("deprel", _RELATION))
    }
    return Example(place, words=tuple(row[1] for row in rows), columns=columns)
