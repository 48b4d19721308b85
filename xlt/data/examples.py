"""Examples, which readers yield: a labelled or unlabelled text, and its place in a file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer to a question: a span of the context, an example's `pair`.

    Attributes:
        text: of the span.
        start: number of its first character (code point) in the context, from 0.
    """

    text: str
    start: int


@dataclass(frozen=True, slots=True)
class Turn:
    """A turn of a conversation; `role` is system, user or assistant."""

    role: str
    text: str


@dataclass(frozen=True, slots=True)
class Example:
    """A sentence, a line, a pair of texts, a question, or a conversation.

    Attributes:
        place: "file:line" or similar, for messages about this example.
        text: running text, premise or question; None if the source has words only. It need not spell every word of
            `words`: the words `di` and `la` stand for `della`.
        pair: hypothesis, translation, or the context of a question; None if there is one text only.
        words: word forms; None if the source has running text only.
        columns: column name -> word-level labels, as many as `words`.
        label: of the whole example.
        answers: all accepted answers to a question.
        id: the data set's own name of the example, if it has one.
        turns: of a conversation.
        choices: the answers to choose from, if a question has several; `label` is the number of the right one, from 1.
        languages: ISO 639-3 codes of `text` and `pair` if one is a translation of the other.
        untranslated: the original texts, if a model has translated some.
        title: of the document that `pair` is from.
        entities: label and text of each named entity; None if the source marks none by spans.
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
    choices: tuple[str, ...] = ()
    title: str | None = None
    entities: tuple[tuple[str, str], ...] | None = None


# Labels that real words of underscores can have: those of punctuation and symbols, and of no entity.
_OF_UNDERSCORES = {"PUNCT", "SYM", "X", "O"}


def is_stripped(example: Example) -> bool:
    """Returns whether a sentence has labels but no text: all its words are underscores.

    So are treebanks distributed whose text has another licence. A single word of underscores can be a real one, and so
    can several, such as a line to fill in, if all their labels are those of punctuation or of no entity.
    """
    words = example.words or ()
    labels = {label for name, tags in example.columns.items() if name not in ("head", "deprel") for label in tags}
    has_only_underscores = len(words) > 1 and all(set(word) == {"_"} for word in words)
    return has_only_underscores and (not labels or not labels <= _OF_UNDERSCORES)
