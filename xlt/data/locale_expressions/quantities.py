"""Forms of numbers, percentages, amounts of a currency, measurements and durations."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import Decimal
from functools import partial
from random import Random
from typing import TypeVar

from babel.core import get_global

from xlt.data.locale_expressions.cldr import OwnData
from xlt.data.locale_expressions.digits import NumberWriter
from xlt.data.locale_expressions.forms import Form, ListPattern, draw_within
from xlt.data.locale_expressions.patterns import number_shape, slot_tokens
from xlt.data.locale_expressions.pieces import Piece, piece
from xlt.data.locale_expressions.values import draw_number, draw_tenths, split_of

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

# Signs of the root locale that are signs, not abbreviations: a language without its own symbol still writes these.
_COMMON_SIGNS = {"EUR": "€", "GBP": "£", "INR": "₹", "KRW": "₩", "ILS": "₪", "VND": "₫", "PHP": "₱"}

_UNITS = [
    "duration-year",
    "duration-month",
    "duration-week",
    "duration-day",
    "duration-hour",
    "duration-minute",
    "duration-second",
    "duration-millisecond",
    "duration-century",
    "duration-decade",
    "length-kilometer",
    "length-meter",
    "length-centimeter",
    "length-millimeter",
    "length-mile",
    "length-foot",
    "length-inch",
    "length-yard",
    "length-nautical-mile",
    "length-light-year",
    "mass-kilogram",
    "mass-gram",
    "mass-milligram",
    "mass-tonne",
    "mass-ton",
    "mass-pound",
    "mass-ounce",
    "mass-carat",
    "volume-liter",
    "volume-milliliter",
    "volume-cubic-meter",
    "volume-gallon",
    "volume-cup",
    "volume-tablespoon",
    "volume-teaspoon",
    "area-square-kilometer",
    "area-square-meter",
    "area-hectare",
    "area-acre",
    "temperature-celsius",
    "temperature-fahrenheit",
    "temperature-kelvin",
    "speed-kilometer-per-hour",
    "speed-meter-per-second",
    "speed-mile-per-hour",
    "speed-knot",
    "digital-byte",
    "digital-kilobyte",
    "digital-megabyte",
    "digital-gigabyte",
    "digital-bit",
    "energy-kilowatt-hour",
    "energy-calorie",
    "energy-kilocalorie",
    "energy-joule",
    "power-watt",
    "power-kilowatt",
    "power-horsepower",
    "electric-volt",
    "electric-ampere",
    "electric-ohm",
    "frequency-hertz",
    "frequency-megahertz",
    "pressure-bar",
    "pressure-hectopascal",
    "angle-degree",
    "angle-radian",
    "concentr-percent",
    "concentr-karat",
    "force-newton",
    "light-lux",
    "graphics-pixel",
]

_DURATIONS: dict[str, tuple[int, ...]] = {  # units of time and the most of each
    "year+month": (40, 11),
    "month+day": (11, 30),
    "week+day": (20, 6),
    "day+hour": (60, 23),
    "hour+minute": (23, 59),
    "minute+second": (59, 59),
    "day+hour+minute": (30, 23, 59),
    "hour+minute+second": (23, 59, 59),
}

_Name = TypeVar("_Name")

_COMPACT_POWERS = range(3, 13)


def quantity_forms(own: OwnData, numbers: NumberWriter, lists: Mapping[str, ListPattern]) -> Iterator[Form]:
    """Yields the forms of kinds number, percent, compact, amount, measure and duration."""
    percent = own.punctuation("percent_formats")[None].pattern

    def render_percent(value: str) -> list[Piece]:
        return numbers.fill(value, percent, "%", numbers.percent_sign, "unit")

    yield Form("number", "", "number", _drawer(draw_number, "number"), lambda value: [numbers.number(value)])
    yield Form("percent", "", "percent", _drawer(_small_number, "percent"), render_percent)
    yield from _compact_forms(own, numbers)
    yield from _amount_forms(own, numbers)
    for width in ("long", "short"):
        writers = {unit: writer for unit in _UNITS if (writer := _unit_writer(own, numbers, unit, width))}
        for unit, writer in writers.items():
            yield Form("measure", width, f"measure:{width}:{unit}", _drawer(_measure_number(unit), unit), writer)
        yield from _duration_forms(writers, width, lists.get("unit", lists["standard"]))


def _drawer(make: Callable[[Random], str], *key: str) -> Callable[[Random, str], str]:
    return lambda rng, split: draw_within(rng, split, make, *key)


def _compact_forms(own: OwnData, numbers: NumberWriter) -> Iterator[Form]:
    """Numbers such as "12 thousand". A value is two significant digits and the power of ten of the first."""
    for width in ("long", "short"):
        patterns = own.table("compact_decimal_formats", width)
        for power in _COMPACT_POWERS:
            key = f"compact:{width}:{power}"
            # Keyed without the width: "3 million" and "3M" are one value.
            draw = _drawer(lambda rng: str(rng.randint(10, 99)), "compact", str(power))
            render = _compact_writer(numbers, patterns, power)
            if render is not None:
                yield Form("compact", width, key, draw, render)


def _compact_writer(
    numbers: NumberWriter, patterns: Mapping[str, Mapping[str, object]], power: int
) -> Callable[[str], list[Piece]] | None:
    by_category: dict[str, tuple[str, int, str]] = {}
    for category, by_magnitude in patterns.items():
        pattern = getattr(by_magnitude.get(str(10**power)), "pattern", "")
        if pattern.strip("0;"):
            try:
                shape = number_shape(pattern)
            except ValueError:  # a word for "a thousand" alone, without digits
                continue
            by_category[category] = shape.prefix, shape.zeros, shape.suffix
    if "other" not in by_category:
        return None

    def render(value: str) -> list[Piece]:
        zeros = by_category["other"][1]
        mantissa = f"{Decimal(value).scaleb(zeros - 2).normalize():f}"
        prefix, own_zeros, suffix = by_category.get(numbers.plural(mantissa), by_category["other"])
        if own_zeros != zeros:
            prefix, _, suffix = by_category["other"]
        pieces = [piece(prefix, "number"), numbers.number(mantissa), piece(suffix, "number")]
        return [made for made in pieces if made[0]]

    return render


def _amount_forms(own: OwnData, numbers: NumberWriter) -> Iterator[Form]:
    """Amounts with the currency's symbol, its ISO code, and its name in the plural form that the number asks for."""
    pattern = own.punctuation("currency_formats")["standard"].pattern
    symbols = _distinct({code: _symbol(own, code) for code in _CURRENCIES})
    names = _distinct({code: _currency_names(own, code) for code in _CURRENCIES})
    unit_patterns = own.table("currency_unit_patterns")
    slots = {category: slot_tokens(text) for category, text in unit_patterns.items()}
    default = slots.get("other") or slot_tokens("{0} {1}")

    def render_symbol(symbol: str) -> Callable[[str], list[Piece]]:
        return lambda value: numbers.fill(value, pattern, "¤", symbol, "currency")

    def render_name(by_category: Mapping[str, str]) -> Callable[[str], list[Piece]]:
        made = {category: piece(name, "currency") for category, name in by_category.items()}

        def render(value: str) -> list[Piece]:
            category = numbers.plural(value)
            name = made.get(category) or made["other"]
            return [
                piece(slot, "other") if isinstance(slot, str) else name if slot else numbers.number(value)
                for slot in slots.get(category, default)
            ]

        return render

    for code in _CURRENCIES:
        decimals = _currency_decimals(code)
        exact = _drawer(partial(_money, decimals=decimals, whole=False), code)
        loose = _drawer(partial(_money, decimals=decimals, whole=True), code)
        yield Form("amount", "code", f"amount:code:{code}", exact, render_symbol(code))
        if code in symbols:
            yield Form("amount", "symbol", f"amount:symbol:{code}", exact, render_symbol(symbols[code]))
        if code in names:
            yield Form("amount", "name", f"amount:name:{code}", loose, render_name(dict(names[code])))


def _symbol(own: OwnData, code: str) -> str | None:
    symbol = own.value("currency_symbols", code) or _COMMON_SIGNS.get(code)
    return None if symbol == code else symbol


def _currency_names(own: OwnData, code: str) -> tuple[tuple[str, str], ...] | None:
    """(plural category, name) pairs with at least "other", which is the plain name where CLDR has no plural.

    None where the language has no name of its own: none at all, the code, or English words. A single word may be the
    same in English and the language ("euro"); two or more in a row are a copy.
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
    """Drops what two currencies share: "kr" would be two values of perhaps two splits under one text."""
    found = [name for name in names.values() if name is not None]
    return {code: name for code, name in names.items() if name is not None and found.count(name) == 1}


def _unit_writer(own: OwnData, numbers: NumberWriter, unit: str, width: str) -> Callable[[str], list[Piece]] | None:
    """Renders a number with a unit; None where the language has no pattern of its own.

    Some singulars and duals hold the number in the word (Arabic "يومان", two days): then no word is a number.
    """
    patterns = own.table("unit_patterns", unit, width)
    if "other" not in patterns or "{0}" not in patterns["other"]:
        return None
    if width == "long" and own.is_foreign(patterns["other"].replace("{0}", "")):
        return None
    slots = {
        category: [token if isinstance(token, int) else piece(token, "unit") for token in slot_tokens(pattern)]
        for category, pattern in patterns.items()
        if category != "per"
    }

    def render(value: str) -> list[Piece]:
        chosen = slots.get(numbers.plural(value), slots["other"])
        return [numbers.number(value) if isinstance(slot, int) else slot for slot in chosen]

    return render


def _duration_forms(
    writers: Mapping[str, Callable[[str], list[Piece]]], width: str, joint: ListPattern
) -> Iterator[Form]:
    """Durations of two or three units, joined by the language's pattern for lists of units."""
    for name, most in _DURATIONS.items():
        units = [writers.get(f"duration-{unit}") for unit in name.split("+")]
        known = [unit for unit in units if unit is not None]
        if len(known) < len(units):
            continue

        def draw(rng: Random, split: str, name: str = name, most: tuple[int, ...] = most) -> tuple[str, ...]:
            while True:
                value = tuple(str(rng.randint(1, limit)) for limit in most)
                if split_of("duration", name, *value) == split:
                    return value

        def render(value: tuple[str, ...], units: Sequence[Callable[[str], list[Piece]]] = known) -> list[Piece]:
            return joint.join([unit(number) for unit, number in zip(units, value, strict=True)])

        yield Form("duration", width, f"duration:{width}:{name}", draw, render)


def _small_number(rng: Random) -> str:
    kind = rng.random()
    return str(rng.randint(1, 100)) if kind < 0.6 else draw_tenths(rng) if kind < 0.9 else str(rng.randint(101, 999))


def _measure_number(unit: str) -> Callable[[Random], str]:
    """Numbers that suit a unit: temperatures may be below zero, times are short and mostly whole."""
    if unit.startswith("duration-"):
        return lambda rng: draw_tenths(rng) if rng.random() < 0.1 else str(rng.randint(1, 120))
    if unit == "temperature-kelvin" or not unit.startswith("temperature-"):
        return draw_number
    return lambda rng: f"{'-' if rng.random() < 0.3 else ''}{rng.randint(1, 60)}"


def _money(rng: Random, decimals: int, whole: bool) -> str:
    """Digits of an amount; with as many decimals as the currency has, or now and then none if it may be `whole`."""
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
