"""What is common to all forms: a form draws values of one split and renders them in one language."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

from xlt.data.locale_expressions.cldr import OwnData
from xlt.data.locale_expressions.patterns import slot_tokens
from xlt.data.locale_expressions.pieces import Piece, piece
from xlt.data.locale_expressions.values import split_of

KINDS: tuple[str, ...] = (
    "date",
    "time",
    "datetime",
    "interval",
    "number",
    "percent",
    "compact",
    "amount",
    "measure",
    "duration",
)


@dataclass(frozen=True)
class Form:
    """One way of writing one type of value in one language.

    Attributes:
        kind: one of `KINDS`.
        group: forms of a kind are drawn by group first, so that a hundred currencies do not outweigh one pattern.
        key: the same in every language; two languages' forms of one key and equal `shows` write the same values.
        draw: takes a generator and a split, and returns a value of that split.
        render: takes a value that `draw` returned, here or in another language.
        shows: the fields of a date or time that a reader sees.
    """

    kind: str
    group: str
    key: str
    draw: Callable[[Random, str], Any]
    render: Callable[[Any], list[Piece]]
    shows: frozenset[str] = frozenset()


def draw_within(rng: Random, split: str, make: Callable[[Random], str], *key: object) -> str:
    """Draws a number with `make` until the value, named by `key` and the number, belongs to `split`.

    "12" and "12.00" are one value.
    """
    while True:
        made = make(rng)
        number = made.rstrip("0").rstrip(".") if "." in made else made
        if split_of(*key, number) == split:
            return made


def number_drawer(make: Callable[[Random], str], *key: str) -> Callable[[Random, str], str]:
    """`draw_within` as a form's `draw`."""
    return lambda rng, split: draw_within(rng, split, make, *key)


# Which style lends a list pattern its missing parts (CLDR's root locale).
_LENDERS: dict[str, tuple[str, ...]] = {
    "standard": ("standard",),
    "or": ("or",),
    "standard-short": ("standard-short", "standard"),
    "unit": ("unit", "unit-short", "standard"),
    "unit-short": ("unit-short", "standard"),
}
_BARE_COMMA = "{0}, {1}"


class ListPattern:
    """A language's pattern for joining two or more expressions."""

    def __init__(self, parts: dict[str, str]) -> None:
        self._parts = {name: _slots(pattern) for name, pattern in parts.items()}

    def join(self, items: list[list[Piece]]) -> list[Piece]:
        """Joins rendered expressions; one alone stays as it is."""
        if len(items) == 1:
            return items[0]
        if len(items) == 2:
            return _fill(self._parts["2"], items[0], items[1])
        joined = _fill(self._parts["start"], items[0], items[1])
        for item in items[2:-1]:
            joined = _fill(self._parts["middle"], joined, item)
        return _fill(self._parts["end"], joined, items[-1])


def list_patterns(own: OwnData) -> dict[str, ListPattern]:
    """The list patterns of a language by style; "standard" always, if need be CLDR's bare comma without a word."""
    found: dict[str, ListPattern] = {}
    for style, lenders in _LENDERS.items():
        if style != "standard" and not own.table("list_patterns", style):
            continue
        # What a list that joins by "and" lacks is the root's bare comma; the root's "or" is an English word.
        parts = {"start": _BARE_COMMA, "middle": _BARE_COMMA}
        if style != "or":
            parts |= {"2": _BARE_COMMA, "end": _BARE_COMMA}
        for lender in reversed(lenders):
            patterns = own.table("list_patterns", lender)
            parts.update({name: pattern for name, pattern in patterns.items() if not own.is_foreign(pattern)})
        if {"2", "end"} <= parts.keys():
            found[style] = ListPattern(parts)
    return found


def _slots(pattern: str) -> tuple[Piece | int, ...]:
    return tuple(token if isinstance(token, int) else piece(token, "other") for token in slot_tokens(pattern))


def _fill(slots: tuple[Piece | int, ...], first: list[Piece], second: list[Piece]) -> list[Piece]:
    pieces: list[Piece] = []
    for slot in slots:
        if not isinstance(slot, int):
            pieces.append(slot)
        else:
            pieces += second if slot else first
    return pieces
