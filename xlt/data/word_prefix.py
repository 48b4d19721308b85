"""Removes the text that stands before every word of a source, such as the language code in WikiANN's files."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator

from xlt.config import SourceConfig
from xlt.data.examples import Example
from xlt.errors import UsageError

# Number of different words that must begin alike before their beginning is taken for a prefix; for one that looks like
# a code and a colon, two are enough.
_DIFFERENT_WORDS = 20
_CODE = re.compile(r"\w{2,}:")


def without_prefix(examples: Iterable[Example], source: SourceConfig, name: str) -> Iterator[Example]:
    """Removes the source's `word_prefix` from all words.

    Args:
        examples: of the source.
        source: its settings.
        name: of the source, for messages.
    Raises:
        UsageError: a word does not begin with it, or consists of nothing else; or no prefix is given, and all words
            begin alike, as those in WikiANN's files do (`en:London`). This can be said only after the last example.
    """
    if source.word_prefix is not None:
        prefix = source.word_prefix.replace("{code}", source.code)
        yield from (_cut(example, prefix) if example.words and prefix else example for example in examples)
        return
    shared: str | None = None
    different: set[str] = set()
    for example in examples:
        yield example
        for word in () if shared == "" else example.words or ():
            shared = word if shared is None else _shared_beginning(shared, word)
            if len(different) < _DIFFERENT_WORDS:
                different.add(word)
    if shared and len(different) >= (2 if _CODE.match(shared) else _DIFFERENT_WORDS):
        raise UsageError(
            f"{name}: every word begins with {shared!r}, as in files of WikiANN; give the source "
            f"word_prefix={shared!r} to remove it, or word_prefix='' to keep it"
        )


def _shared_beginning(one: str, other: str) -> str:
    if other.startswith(one):
        return one
    return one[: next(at for at in range(len(one)) if at >= len(other) or one[at] != other[at])]


def _cut(example: Example, prefix: str) -> Example:
    words = example.words or ()
    for number, word in enumerate(words, start=1):
        if not word.startswith(prefix) or word == prefix:
            raise UsageError(
                f"{example.place}: word {number} {word!r} does not begin with word_prefix={prefix!r} and more letters"
            )
    return dataclasses.replace(example, words=tuple(word[len(prefix) :] for word in words))
