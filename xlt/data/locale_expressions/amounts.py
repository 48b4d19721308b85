"""The forms in which a language writes amounts of a currency."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from random import Random
from typing import TypeVar

from babel.core import get_global

from xlt.data.locale_expressions.cldr import OwnData
from xlt.data.locale_expressions.digits import NumberWriter
from xlt.data.locale_expressions.forms import Form, number_drawer
from xlt.data.locale_expressions.patterns import slot_tokens
from xlt.data.locale_expressions.pieces import Piece, piece

_Name = TypeVar("_Name")

_CURRENCIES = [
    "USD",
    "EUR",
    "GBP",
    "JPY",
    "CNY",
    "INR",
    "BRL",
    "RUB",
    "KRW",
    "TRY",
    "ZAR",
    "NGN",
    "KES",
    "ETB",
    "TZS",
    "UGX",
    "GHS",
    "XOF",
    "XAF",
    "MAD",
    "DZD",
    "EGP",
    "SAR",
    "AED",
    "IRR",
    "IQD",
    "ILS",
    "PKR",
    "BDT",
    "LKR",
    "NPR",
    "MMK",
    "THB",
    "VND",
    "IDR",
    "MYR",
    "PHP",
    "AUD",
    "NZD",
    "CAD",
    "MXN",
    "ARS",
    "CLP",
    "COP",
    "PEN",
    "BOB",
    "CHF",
    "SEK",
    "NOK",
    "DKK",
    "ISK",
    "PLN",
    "CZK",
    "HUF",
    "RON",
    "UAH",
    "KZT",
    "UZS",
    "GEL",
    "AMD",
    "AZN",
    "RWF",
    "MWK",
    "ZMW",
    "BWP",
    "MUR",
    "MGA",
    "SOS",
    "SDG",
    "GMD",
    "GNF",
    "LRD",
    "SLE",
    "NAD",
    "SZL",
    "LSL",
    "CDF",
    "BIF",
    "DJF",
    "ERN",
    "AOA",
    "MZN",
    "TND",
    "LYD",
]

# Signs of the root locale that are no abbreviations; languages without a symbol of their own write these, too.
_COMMON_SIGNS = {"EUR": "€", "GBP": "£", "INR": "₹", "KRW": "₩", "ILS": "₪", "VND": "₫", "PHP": "₱"}


def amount_forms(own: OwnData, numbers: NumberWriter) -> Iterator[Form]:
    """Yields forms of amounts with the currency's symbol, its ISO code, or its name in the number's plural form."""
    pattern = own.punctuation("currency_formats")["standard"].pattern
    symbols = _distinct({code: _symbol(own, code) for code in _CURRENCIES})
    names = _distinct({code: _currency_names(own, code) for code in _CURRENCIES})
    unit_patterns = own.table("currency_unit_patterns")
    slots = {category: slot_tokens(text) for category, text in unit_patterns.items()}
    default = slots.get("other") or slot_tokens("{0} {1}")

    def render_symbol(symbol: str) -> Callable[[str], list[Piece]]:
        return lambda value: numbers.fill(value, pattern, "¤", symbol, "currency")

    def render_name(by_category: Mapping[str, str]) -> Callable[[str], list[Piece]]:
        pieces = {category: piece(name, "currency") for category, name in by_category.items()}

        def render(value: str) -> list[Piece]:
            category = numbers.plural(value)
            name = pieces.get(category) or pieces["other"]
            return [
                piece(slot, "other") if isinstance(slot, str) else name if slot else numbers.number(value)
                for slot in slots.get(category, default)
            ]

        return render

    for code in _CURRENCIES:
        decimals = _currency_decimals(code)
        exact = number_drawer(partial(_money, decimals=decimals, whole=False), code)
        loose = number_drawer(partial(_money, decimals=decimals, whole=True), code)
        yield Form("amount", "code", f"amount:code:{code}", exact, render_symbol(code))
        if code in symbols:
            yield Form("amount", "symbol", f"amount:symbol:{code}", exact, render_symbol(symbols[code]))
        if code in names:
            yield Form("amount", "name", f"amount:name:{code}", loose, render_name(dict(names[code])))


def _symbol(own: OwnData, code: str) -> str | None:
    symbol = own.value("currency_symbols", code) or _COMMON_SIGNS.get(code)
    return None if symbol == code else symbol


def _currency_names(own: OwnData, code: str) -> tuple[tuple[str, str], ...] | None:
    """Returns pairs of plural category and name, among them "other", which is the plain name if CLDR has no plural.

    Returns None if the language has no name of its own, that is, no name, the code, or English words. A single word can
    be the same in English and in the language ("euro"); several equal words are a copy.
    """
    names = _all_names(own, code)
    english = {name.lower() for name in _all_names(OwnData("en"), code).values()} if own.locale != "en" else set()
    for name in names.values():
        copied = " " in name and name.lower() in english
        if copied or name == code or own.is_foreign(name) or set(name) & set("()0123456789"):
            return None
    return tuple(sorted(names.items())) if "other" in names else None


def _all_names(own: OwnData, code: str) -> dict[str, str]:
    names = dict(own.table("currency_names_plural", code))
    if "other" not in names and (name := own.value("currency_names", code)):
        names = {"other": name}
    return names


def _distinct(names: Mapping[str, _Name | None]) -> dict[str, _Name]:
    """Drops names that two currencies share, such as "kr": one text could be two values of different splits."""
    all_names = [name for name in names.values() if name is not None]
    return {code: name for code, name in names.items() if name is not None and all_names.count(name) == 1}


def _money(rng: Random, decimals: int, whole: bool) -> str:
    """Draws the digits of an amount, with the currency's decimals; if it may be `whole`, in most cases without."""
    size = rng.random()
    units = (
        rng.randint(1, 99) if size < 0.4 else rng.randint(100, 9_999) if size < 0.8 else rng.randint(10_000, 9_999_999)
    )
    if not decimals or (whole and rng.random() < 0.7):
        return str(units)
    part = 0 if rng.random() < 0.3 else rng.randrange(10**decimals)
    return f"{units}.{part:0{decimals}d}"


def _currency_decimals(code: str) -> int:
    fractions = get_global("currency_fractions")
    return int(fractions.get(code, fractions["DEFAULT"])[0])
