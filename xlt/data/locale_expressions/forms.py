"""The common part of all forms; a form draws values of one split and renders them in one language."""

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
    """A way to write a type of value in one language.

    Attributes:
        kind: one of `KINDS`.
        group: part of a kind; a group is drawn before a form of it, so that a hundred currencies do not outweigh one
            pattern.
        key: name that is the same in all languages; forms of two languages with equal `key` and `shows` write the same
            values.
        draw: returns a value of the given split, from a random generator.
        render: renders a value that `draw` returned, in this or another language.
        shows: the fields of a date or time that a reader sees.
    """

    kind: str
    group: str
    key: str
    draw: Callable[[Random, str], Any]
    render: Callable[[Any], list[Piece]]
    shows: frozenset[str] = frozenset()


def draw_within(rng: Random, split: str, make: Callable[[Random], str], *key: object) -> str:
    """Draws numbers with `make` until the value, identified by `key` and the number, belongs to `split`.

    "12" and "12.00" are the same value.
    """
    while True:
        digits = make(rng)
        number = digits.rstrip("0").rstrip(".") if "." in digits else digits
        if split_of(*key, number) == split:
            return digits


def number_drawer(make: Callable[[Random], str], *key: str) -> Callable[[Random, str], str]:
    """Returns a function that draws with `draw_within`, for a form's `draw`."""
    return lambda rng, split: draw_within(rng, split, make, *key)


# The styles from which a list pattern takes its missing parts (CLDR's root locale).
_FALLBACKS: dict[str, tuple[str, ...]] = {
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
        """Joins rendered expressions; a single one is returned unchanged."""
        if len(items) == 1:
            return items[0]
        if len(items) == 2:
            return _fill(self._parts["2"], items[0], items[1])
        joined = _fill(self._parts["start"], items[0], items[1])
        for item in items[2:-1]:
            joined = _fill(self._parts["middle"], joined, item)
        return _fill(self._parts["end"], joined, items[-1])


def list_patterns(own: OwnData) -> dict[str, ListPattern]:
    """Returns style -> list pattern of a language; "standard" always exists, if necessary with a bare comma only."""
    by_style: dict[str, ListPattern] = {}
    for style, fallbacks in _FALLBACKS.items():
        if style != "standard" and not own.table("list_patterns", style):
            continue
        # A missing part of a list with "and" is the root's bare comma; the root's "or" is an English word.
        parts = {"start": _BARE_COMMA, "middle": _BARE_COMMA}
        if style != "or":
            parts |= {"2": _BARE_COMMA, "end": _BARE_COMMA}
        for fallback in reversed(fallbacks):
            patterns = own.table("list_patterns", fallback)
            parts.update({name: pattern for name, pattern in patterns.items() if not own.is_foreign(pattern)})
        if {"2", "end"} <= parts.keys():
            by_style[style] = ListPattern(parts)
    return by_style


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
