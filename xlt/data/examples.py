"""What readers yield: one labelled or raw piece of text, and where it stands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Answer:
    """A span of an example's `pair`: `text` begins at its character (code point) number `start`."""

    text: str
    start: int


@dataclass(frozen=True, slots=True)
class Turn:
    """What one side of a conversation says; `role` is system, user or assistant."""

    role: str
    text: str


@dataclass(frozen=True, slots=True)
class Example:
    """A sentence, a line, a pair of them, a question, or a conversation.

    Attributes:
        place: "file:line" (or its like), for messages about this example.
        text: running text, premise or question; None where the source has words only.
        pair: hypothesis, or the context that a question is about; None where there is one text.
        words: word forms; None where the source has running text only.
        columns: word-level labels by column name, each as long as `words`.
        label: of the whole example.
        answers: all accepted answers to a question, in the context.
        id: the data set's own name of the example, where it has one.
        turns: of a conversation.
        languages: of `text` and `pair`, where one translates the other.
        untranslated: the texts that it had before a model translated some of them.
    """

    place: str
    text: str | None = None
    words: tuple[str, ...] | None = None
    columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    pair: str | None = None
    label: str | None = None
    answers: tuple[Answer, ...] = ()
    id: str | None = None
    turns: tuple[Turn, ...] = ()
    languages: tuple[str, str] | None = None
    untranslated: tuple[str, ...] = ()
