"""Reads CoNLL-U treebanks (Universal Dependencies): words with their tags, heads and relations.

The words are the syntactic words, as in the CoNLL evaluations: not multi-word tokens (`3-4`), nor empty nodes (`5.1`).
The running text is that of `# text`. If a sentence lacks it, the text is made up of the tokens, of which those with
`SpaceAfter=No` have no space after them; it then has multi-word tokens in place of their words.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import regex

from xlt.config import SourceConfig
from xlt.data.examples import Example
from xlt.data.files import lines_of, split_file
from xlt.data.running_text import joined
from xlt.errors import UsageError

_COLUMNS = 10
_UPOS, _HEAD, _RELATION, _MISC = 3, 6, 7, 9
_TEXT = regex.compile(r"#\s*text\s*=\s*(.*\S)")


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
    yield from sentences(lines_of(file), str(file))


def sentences(lines: Iterable[tuple[int, str]], file: str) -> Iterator[Example]:
    """Yields the sentences of lines, which are numbers and texts without line ends; `file` is its name for messages.

    Raises:
        UsageError: as `read`.
    """
    rows: list[list[str]] = []
    tokens: list[list[str]] = []  # lines of words, and of multi-word tokens before their words
    text: str | None = None
    start = 0
    for number, line in lines:
        if not line.strip():
            if rows:
                yield _sentence(f"{file}:{start}", rows, tokens, text)
            rows, tokens, text = [], [], None
            continue
        if line.startswith("#"):
            if given := _TEXT.fullmatch(line.rstrip()):
                text = given[1]
            continue
        fields = line.split("\t")
        if len(fields) != _COLUMNS:
            raise UsageError(f"{file}:{number}: {len(fields)} tab-separated columns, but CoNLL-U has {_COLUMNS}")
        if "." in fields[0]:
            continue
        tokens.append(fields)
        if "-" in fields[0]:
            first, _, last = fields[0].partition("-")
            if first != str(len(rows) + 1) or not last.isdecimal():
                raise UsageError(f"{file}:{number}: token id {fields[0]!r}, expected {len(rows) + 1}-LAST")
            continue
        if fields[0] != str(len(rows) + 1):
            raise UsageError(f"{file}:{number}: word id {fields[0]!r}, expected {len(rows) + 1}")
        if not fields[1]:
            raise UsageError(f"{file}:{number}: the FORM column is empty")
        if not rows:
            start = number
        rows.append(fields)
    if rows:
        yield _sentence(f"{file}:{start}", rows, tokens, text)


def _sentence(place: str, rows: list[list[str]], tokens: list[list[str]], text: str | None) -> Example:
    columns = {
        name: tuple(row[at] for row in rows) for name, at in (("upos", _UPOS), ("head", _HEAD), ("deprel", _RELATION))
    }
    return Example(place, _text_of(tokens) if text is None else text, tuple(row[1] for row in rows), columns)


def _text_of(tokens: list[list[str]]) -> str | None:
    """Returns the text that words and multi-word tokens make up; None if they say no more than the words."""
    shown: list[tuple[str, bool]] = []  # token, and whether there is a space after it
    covered = 0  # number of the last word of a multi-word token
    for token in tokens:
        number, _, last = token[0].partition("-")
        if last or int(number) > covered:
            shown.append((token[1], "SpaceAfter=No" not in token[_MISC].split("|")))
            covered = int(last or number)
    if not all(has_space for _, has_space in shown):
        return "".join(f"{token} " if has_space else token for token, has_space in shown).strip()
    return joined([token for token, _ in shown]) if len(shown) < len(tokens) else None
