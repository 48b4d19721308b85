"""Recognises the scheme in which the tags of entities are written, and converts tags to IOB2.

| scheme | tags | first word of an entity | last word |
|---|---|---|---|
| IO | I, or plain types | I | I |
| IOB1 (CoNLL-2003) | I, B | I; B after an entity of the same type | I |
| IOB2 | B, I | B | I |
| IOBES, also BIOES | B, I, E, S | B | E; S if it is the only word |
| BILOU | B, I, L, U | B | L; U if it is the only word |
| BMES | B, M, E, S | B | E; S if it is the only word |

Tags of one scheme are never read as those of another one: a source whose tags break every scheme is refused, with the
places of the tags that contradict each other. In IO, IOB1 and IOB2 a sequence that is valid in two of them stands for
the same entities in both, so the scheme of a source with few tags need not be known exactly.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from xlt.data.examples import Example
from xlt.errors import UsageError

OUTSIDE = "O"
_TAG = re.compile(r"([BIESLUM])-(.+)", re.DOTALL)
_LETTERS = {"IOBES": "BIES", "BILOU": "BILU", "BMES": "BMES", "IOB": "BI", "IOB1": "BI", "IOB2": "BI", "IO": "I"}
_LAST, _ALONE, _MIDDLE = "EL", "SU", "IM"


def is_tag(label: str) -> bool:
    """Returns whether a label is a tag of one of the schemes, such as O or B-PER."""
    return label == OUTSIDE or _TAG.fullmatch(label) is not None


def recognised_scheme(examples: Iterable[Example], column: str, key: str) -> str | None:
    """Returns the scheme of the tags in a column, or None if it has no tag of an entity.

    Args:
        examples: of a whole source.
        column: of the tags.
        key: of the source, for messages.
    Raises:
        UsageError: the tags are of two schemes, or of none; the message names the places of two tags.
    """
    letters: dict[str, str] = {}
    inside_begins = begin_follows_nothing = ""
    for example in examples:
        before = ("", "")
        for number, label in enumerate(example.columns.get(column, ()), start=1):
            tag = _parsed(label)
            if tag[0]:
                letters.setdefault(tag[0], _place(example, number, label))
            if tag[0] == "I" and tag[1] != before[1]:
                inside_begins = inside_begins or _place(example, number, label)
            if tag[0] == "B" and not before[1]:
                begin_follows_nothing = begin_follows_nothing or _place(example, number, label)
            before = tag
    if not letters:
        return None
    for scheme in ("IO", "IOB", "IOBES", "BILOU", "BMES"):
        if set(letters) <= set(_LETTERS[scheme]):
            break
    else:
        odd = [letters[letter] for letter in sorted(letters, key="BIMESLU".index)]
        raise UsageError(
            f"{key}: column {column} has tags of two schemes: {', '.join(odd)}; IOBES has B I E S, BILOU B I L U, "
            "BMES B M E S, IOB1 and IOB2 B I; correct the file"
        )
    if scheme != "IOB":
        return scheme
    if inside_begins and begin_follows_nothing:
        raise UsageError(
            f"{key}: column {column} has tags of two schemes: {inside_begins} begins an entity, as in IOB1, and "
            f"{begin_follows_nothing} begins one that follows none, as in IOB2; correct the file, or give the source "
            "scheme=IOB, which reads an I- that continues no entity as the beginning of one, as conlleval does"
        )
    return "IOB1" if inside_begins else "IOB2"


def in_iob2(example: Example, column: str, scheme: str) -> tuple[str, ...]:
    """Converts the tags of an example to IOB2; labels that are no tags stay as they are.

    Args:
        example: its column holds the tags.
        column: of the tags.
        scheme: of the tags, one of `xlt.config.data.SCHEMES`.
    Raises:
        UsageError: the tags are not valid in the scheme; the message names the place of the first wrong one.
    """
    convert = _with_ends if scheme in ("IOBES", "BILOU", "BMES") else _without_ends
    return tuple(convert(example, example.columns[column], scheme))


def _without_ends(example: Example, labels: Sequence[str], scheme: str) -> Iterator[str]:
    """Converts tags of IO, IOB1, IOB2 or IOB."""
    before = ""
    for number, label in enumerate(labels, start=1):
        letter, kind = _parsed(label)
        if scheme == "IO" and not letter and label != OUTSIDE:
            letter, kind = "I", label
        if letter and letter not in _LETTERS[scheme]:
            raise _wrong(example, number, label, scheme, f"whose tags are {' '.join(_LETTERS[scheme])} O")
        if scheme == "IOB1" and letter == "B" and not before:
            raise _wrong(example, number, label, scheme, "where B- follows an entity of the same type")
        if scheme == "IOB2" and letter == "I" and kind != before:
            raise _wrong(example, number, label, scheme, "where an entity begins with B-; IOB reads both")
        yield f"{'I' if letter == 'I' and kind == before else 'B'}-{kind}" if letter else label
        before = kind


def _with_ends(example: Example, labels: Sequence[str], scheme: str) -> Iterator[str]:
    """Converts tags of IOBES, BILOU or BMES."""
    open_kind = ""
    for number, label in enumerate(labels, start=1):
        letter, kind = _parsed(label)
        if letter and letter not in _LETTERS[scheme]:
            raise _wrong(example, number, label, scheme, f"whose tags are {' '.join(_LETTERS[scheme])} O")
        begins = letter == "B" or letter in _ALONE
        if open_kind and (begins or kind != open_kind):
            raise _wrong(example, number, label, scheme, f"because the entity {open_kind} before it has no end")
        if letter and not open_kind and not begins:
            raise _wrong(example, number, label, scheme, "because no entity of its type has begun")
        yield (f"B-{kind}" if begins else f"I-{kind}") if letter else label
        open_kind = kind if letter and (letter == "B" or letter in _MIDDLE) else ""
    if open_kind:
        raise _wrong(example, len(labels), labels[-1], scheme, f"because the entity {open_kind} has no end")


def _parsed(label: str) -> tuple[str, str]:
    """Returns letter and type of a tag; both are empty for O, and for a label that is no tag."""
    match = _TAG.fullmatch(label)
    return (match.group(1), match.group(2)) if match else ("", "")


def _place(example: Example, number: int, label: str) -> str:
    word = f" {example.words[number - 1]!r}" if example.words else ""
    return f"{label} ({example.place} word {number}{word})"


def _wrong(example: Example, number: int, label: str, scheme: str, why: str) -> UsageError:
    return UsageError(f"{example.place} word {number}: tag {label!r} is not valid in {scheme}, {why}")
