"""Writes numbers, percentages and amounts with a language's own digits, grouping and patterns."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from decimal import Decimal

from xlt.data.locale_expressions.cldr import OwnData
from xlt.data.locale_expressions.patterns import NumberShape, number_shape
from xlt.data.locale_expressions.pieces import Piece, piece

# The digit zero of those positional numbering systems that are a language's default (CLDR, numberingSystems.xml).
_ZEROS = {
    "adlm": "\U0001e950",
    "arab": "\u0660",
    "arabext": "\u06f0",
    "beng": "\u09e6",
    "cakm": "\U00011136",
    "deva": "\u0966",
    "hmnp": "\U0001e140",
    "latn": "0",
    "mtei": "\uabf0",
    "mymr": "\u1040",
    "nkoo": "\u07c0",
    "olck": "\u1c50",
    "tibt": "\u0f20",
}

# CLDR's minimumGroupingDigits where it is not 1; babel does not have it.
_MINIMUM_GROUPING = {
    **dict.fromkeys(["be", "bg", "es", "et", "hu", "hy", "ia", "ie", "it", "ka", "lv", "pl", "sl", "sq"], 2),
    "ee": 3,
}


class NumberWriter:
    """A writer of numbers in one language.

    Its input are plain digits with an optional minus and point ("-12.50"); it writes exactly these digits.
    """

    def __init__(self, own: OwnData) -> None:
        self.digits = str.maketrans("0123456789", _digits(own.numbering_system))
        symbols = own.number_symbols()
        self._decimal = symbols["decimal"]
        self._group = symbols["group"]
        self._minus = symbols["minusSign"]
        self.percent_sign = symbols["percentSign"]
        self.shape = number_shape(own.punctuation("decimal_formats")[None].pattern)
        self._minimum = _MINIMUM_GROUPING.get(own.locale, 1)
        self._plural: Callable[[Decimal], str] = own.value("plural_form") or (lambda _: "other")
        self._categories: dict[str, str] = {}

    def plural(self, number: str) -> str:
        """Returns CLDR's plural category of a number as it is written; "1" and "1.0" can differ."""
        category = self._categories.get(number)
        if category is None:
            category = self._categories[number] = self._plural(abs(Decimal(number)))
        return category

    def write(self, number: str, shape: NumberShape | None = None, least: int = 1) -> str:
        """Groups and translates digits.

        Args:
            number: plain digits.
            shape: of the pattern whose grouping is used; None means that of the language's plain decimals.
            least: minimum number of digits before the first group, unless the language has a greater minimum.
        """
        shape = shape or self.shape
        negative = number.startswith("-")
        integer, _, fraction = number.lstrip("-").partition(".")
        if shape.primary and len(integer) >= shape.primary + max(self._minimum, least):
            head, groups = integer[: -shape.primary], [integer[-shape.primary :]]
            while len(head) > shape.secondary:
                groups.append(head[-shape.secondary :])
                head = head[: -shape.secondary]
            groups.append(head)
            integer = self._group.join(reversed(groups))
        text = f"{integer}{self._decimal}{fraction}" if fraction else integer
        return (self._minus if negative else "") + text.translate(self.digits)

    def pad(self, number: int, width: int) -> str:
        """Writes a field of a date, without grouping and with leading zeros."""
        return str(number).rjust(width, "0").translate(self.digits)

    def number(self, number: str) -> Piece:
        return piece(self.write(number), "number")

    def fill(self, number: str, pattern: str, sign: str, symbol: str, label: str) -> list[Piece]:
        """Renders a number pattern, in which `symbol` replaces `sign` ("%" or "¤").

        Between a currency's letter and a digit it inserts a no-break space (CLDR's currencySpacing).
        """
        shape = number_shape(pattern)
        written = self.write(number, shape)
        if sign not in shape.prefix + shape.suffix:
            raise ValueError(f"number pattern {pattern!r}: no {sign!r} beside the digits")
        before, after = shape.prefix, shape.suffix
        if sign == "¤" and before.endswith(sign) and _needs_space(symbol[-1]):
            before += "\u00a0"
        if sign == "¤" and after.startswith(sign) and _needs_space(symbol[0]):
            after = "\u00a0" + after
        pieces = _around(before, sign, symbol, label)
        pieces.append(piece(written, "number"))
        return pieces + _around(after, sign, symbol, label)


def _around(affix: str, sign: str, symbol: str, label: str) -> list[Piece]:
    """Returns the pieces of a pattern's prefix or suffix: `symbol` with its label, the rest with "other"."""
    literal, found, rest = affix.partition(sign)
    pieces = [piece(literal, "other")] if literal else []
    if found:
        pieces.append(piece(symbol, label))
    return pieces + ([piece(rest, "other")] if rest else [])


def _needs_space(char: str) -> bool:
    return unicodedata.category(char)[0] not in "SZ"


def _digits(system: str) -> str:
    if system not in _ZEROS:
        raise ValueError(f"numbering system {system!r}: not one of {', '.join(_ZEROS)}")
    zero = ord(_ZEROS[system])
    return "".join(chr(zero + digit) for digit in range(10))
