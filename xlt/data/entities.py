"""Named entities as pairs of label and text: from tags of words, from spans of bytes, and written as one text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from xlt.data.running_text import joined
from xlt.errors import UsageError

Entity = tuple[str, str]
"""Label and text of an entity."""

NO_ENTITIES = "none"
"""The text of a sentence without entities."""
_BETWEEN = " $$ "


def entities_of_tags(words: Sequence[str], tags: Sequence[str]) -> tuple[Entity, ...]:
    """Returns the entities of a sentence in the order of the text.

    Args:
        words: of the sentence.
        tags: in IOB2, as many as words; an `I-` that continues no entity begins one.
    """
    found: list[tuple[str, list[str]]] = []
    before = ""
    for word, tag in zip(words, tags, strict=True):
        begins, _, label = tag.partition("-")
        if label and (begins == "B" or label != before):
            found.append((label, []))
        if label:
            found[-1][1].append(word)
        before = label
    return tuple((label, joined(parts)) for label, parts in found)


def entities_of_spans(text: str, spans: Any, column: str, place: str) -> tuple[Entity, ...]:
    """Returns the entities that XTREME-UP marks by bytes of the UTF-8 text.

    Args:
        text: of the sentence.
        spans: a list of mappings with `start_byte`, `limit_byte` and `label`.
        column: with the spans, for messages.
        place: of the record, for messages.
    Raises:
        UsageError: the spans have another form, or are no characters of the text.
    """
    coded = text.encode()
    entities = []
    try:
        for span in spans:
            start, limit, label = int(span["start_byte"]), int(span["limit_byte"]), str(span["label"]).strip()
            if not (0 <= start < limit <= len(coded) and label and ":" not in label):
                raise UsageError(
                    f"{place}: column {column!r} has the span {start} to {limit} with label {label!r}; the text has "
                    f"{len(coded)} bytes, and a label is a name without a colon"
                )
            entities.append((label, coded[start:limit].decode()))
    except UnicodeDecodeError as error:
        raise UsageError(f"{place}: a span of column {column!r} ends inside a character of the text") from error
    except (TypeError, KeyError, ValueError) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(
            f"{place}: column {column!r} must hold a list of mappings start_byte, limit_byte and label"
        ) from error
    return tuple(entities)


def written(entities: Sequence[Entity]) -> str:
    """Writes entities as one text, `PER: Ada Lovelace $$ LOC: London`; `none` without entities (XTREME-UP: no text)."""
    return _BETWEEN.join(f"{label}: {' '.join(text.split())}" for label, text in entities) or NO_ENTITIES


def parsed(text: str) -> list[Entity]:
    """Returns the entities of a text as `written` writes it; what has no colon or no text is none.

    The label ends at the first colon. XTREME-UP's code leaves out every entity whose own text has a colon, on both
    sides of the comparison.
    """
    parts = (part.partition(":") for part in text.split(_BETWEEN.strip()))
    pairs = [(label.strip(), " ".join(entity.split())) for label, _, entity in parts]
    return [(label, entity) for label, entity in pairs if label and entity]


def renamed_entities(entities: Iterable[Entity], labels: Mapping[str, Any]) -> tuple[Entity, ...]:
    """Gives labels the names that `labels` has for them; an entity that becomes `O` is left out."""
    named = ((str(labels.get(label, label)), text) for label, text in entities)
    return tuple((label, text) for label, text in named if label != "O")
