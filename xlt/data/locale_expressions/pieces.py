"""Labelled pieces of text, and the sentence they make.

Every function of this package renders to pieces, never to a string: the label travels with the text from the pattern's
field to the word, so that nothing has to be guessed from a rendered string.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

LABELS: tuple[str, ...] = (
    "weekday",
    "month",
    "day",
    "year",
    "era",
    "hour",
    "minute",
    "second",
    "period",
    "number",
    "currency",
    "unit",
    "other",
)

Piece = tuple[str, tuple[tuple[str, str], ...]]
"""Surface text with its own spacing, and its words with their labels. A word of invisible marks has the label ""."""


def piece(text: str, label: str) -> Piece:
    """Splits `text` at white space of any width (also no-break spaces) and gives each word the `label`."""
    return text, tuple((word, "" if _is_invisible(word) else label) for word in text.split())


def _is_invisible(word: str) -> bool:
    return all(unicodedata.category(char) == "Cf" for char in word)


def assemble(pieces: Iterable[Piece]) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
    """Joins pieces to one sentence.

    Directional marks that stand alone in a pattern join the word after them (the last one, at the end), so the words
    without spaces are the text without spaces.

    Returns:
        The text, its words, and one label a word.
    """
    texts: list[str] = []
    words: list[str] = []
    labels: list[str] = []
    marks = ""
    for text, tagged in pieces:
        texts.append(text)
        for word, label in tagged:
            if not label:
                marks += word
                continue
            words.append(marks + word if marks else word)
            labels.append(label)
            marks = ""
    if marks and words:
        words[-1] += marks
    return "".join(texts).strip(), tuple(words), tuple(labels)
