"""Parses CLDR's patterns: dates (UTS 35, part 4), numbers (part 3), and the slots of lists, units and glue."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

Token = tuple[str, str]
"""("field", repeated letter) or ("literal", text)."""


@cache
def date_tokens(pattern: str) -> tuple[Token, ...]:
    """Splits a date pattern into fields (runs of one ASCII letter) and literals.

    Text between single quotes is literal, two single quotes are one. Neighbouring literals become one, so that a word
    written half inside and half outside the quotes (Maltese 'ta' and an apostrophe) stays one word.

    Raises:
        ValueError: a quote is not closed.
    """
    tokens: list[Token] = []
    literal = ""
    position = 0
    while position < len(pattern):
        char = pattern[position]
        if char == "'":
            text, position = _quoted(pattern, position)
            literal += text
        elif char.isascii() and char.isalpha():
            end = position
            while end < len(pattern) and pattern[end] == char:
                end += 1
            if literal:
                tokens.append(("literal", literal))
                literal = ""
            tokens.append(("field", pattern[position:end]))
            position = end
        else:
            literal += char
            position += 1
    if literal:
        tokens.append(("literal", literal))
    return tuple(tokens)


def _quoted(pattern: str, start: int) -> tuple[str, int]:
    """Reads the quotation that opens at `start`; returns its text and the position after it."""
    if pattern[start + 1 : start + 2] == "'":
        return "'", start + 2
    text = ""
    position = start + 1
    while position < len(pattern):
        if pattern[position] != "'":
            text += pattern[position]
            position += 1
        elif pattern[position + 1 : position + 2] == "'":
            text += "'"
            position += 2
        else:
            return text, position + 1
    raise ValueError(f"date pattern {pattern!r}: the quote at {start} is not closed")


_SLOT = re.compile(r"\{(\d)\}")


@cache
def slot_tokens(pattern: str, quoted: bool = False) -> tuple[str | int, ...]:
    """Splits a pattern such as "{0}, og {1}" into literals and slot numbers.

    Args:
        quoted: whether single quotes quote, as they do where a date is glued to a time; in lists and units an
            apostrophe is an apostrophe.
    """
    tokens: list[str | int] = []
    for position, part in enumerate(_SLOT.split(pattern)):
        if position % 2:
            tokens.append(int(part))
        elif part:
            tokens.append(unquote(part) if quoted else part)
    return tuple(tokens)


def unquote(pattern: str) -> str:
    """Removes the quoting of a pattern that has no fields left in it."""
    text = ""
    position = 0
    while position < len(pattern):
        if pattern[position] == "'":
            quotation, position = _quoted(pattern, position)
            text += quotation
        else:
            text += pattern[position]
            position += 1
    return text


@dataclass(frozen=True)
class NumberShape:
    """A number pattern for values that are not negative: `prefix`, grouped digits, `suffix`.

    Prefix and suffix are unquoted and may hold "¤" (currency) or "%". `primary` and `secondary` are the sizes of the
    last group of the integer digits and of those before it, 0 for no grouping; `zeros` counts the integer "0"s.
    """

    prefix: str
    suffix: str
    primary: int
    secondary: int
    zeros: int


@cache
def number_shape(pattern: str) -> NumberShape:
    """Parses the positive half of a number pattern.

    Raises:
        ValueError: the pattern has no digits, or more than one run of them.
    """
    cells: list[tuple[str, bool]] = []  # (char, is part of the pattern's syntax)
    position = 0
    while position < len(pattern):
        if pattern[position] == "'":
            text, position = _quoted(pattern, position)
            cells += [(char, False) for char in text]
        elif pattern[position] == ";":
            break
        else:
            cells.append((pattern[position], pattern[position] in "#0,."))
            position += 1
    digits = [index for index, (_, syntax) in enumerate(cells) if syntax]
    if not digits or digits[-1] - digits[0] + 1 != len(digits):
        raise ValueError(f"number pattern {pattern!r}: expected one run of digits")
    text = "".join(char for char, _ in cells)
    first, last = digits[0], digits[-1] + 1
    integer = text[first:last].split(".")[0]
    groups = integer.split(",")
    primary = len(groups[-1]) if len(groups) > 1 else 0
    secondary = len(groups[-2]) if len(groups) > 2 else primary
    return NumberShape(text[:first], text[last:], primary, secondary, integer.count("0"))
