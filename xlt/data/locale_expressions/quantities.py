"""The forms of numbers, percentages, measurements and durations."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import Decimal
from random import Random

from xlt.data.locale_expressions.amounts import amount_forms
from xlt.data.locale_expressions.cldr import OwnData
from xlt.data.locale_expressions.digits import NumberWriter
from xlt.data.locale_expressions.forms import Form, ListPattern, number_drawer
from xlt.data.locale_expressions.patterns import number_shape, slot_tokens
from xlt.data.locale_expressions.pieces import Piece, piece
from xlt.data.locale_expressions.values import draw_number, draw_tenths, split_of

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

_DURATIONS: dict[str, tuple[int, ...]] = {  # units of time -> the maximum number of each
    "year+month": (40, 11),
    "month+day": (11, 30),
    "week+day": (20, 6),
    "day+hour": (60, 23),
    "hour+minute": (23, 59),
    "minute+second": (59, 59),
    "day+hour+minute": (30, 23, 59),
    "hour+minute+second": (23, 59, 59),
}

_COMPACT_POWERS = range(3, 13)


def quantity_forms(own: OwnData, numbers: NumberWriter, lists: Mapping[str, ListPattern]) -> Iterator[Form]:
    """Yields the forms of kinds number, percent, compact, amount, measure and duration."""
    percent = own.punctuation("percent_formats")[None].pattern

    def render_percent(value: str) -> list[Piece]:
        return numbers.fill(value, percent, "%", numbers.percent_sign, "unit")

    yield Form("number", "", "number", number_drawer(draw_number, "number"), lambda value: [numbers.number(value)])
    yield Form("percent", "", "percent", number_drawer(_small_number, "percent"), render_percent)
    yield from _compact_forms(own, numbers)
    yield from amount_forms(own, numbers)
    for width in ("long", "short"):
        writers = {unit: writer for unit in _UNITS if (writer := _unit_writer(own, numbers, unit, width))}
        for unit, writer in writers.items():
            yield Form("measure", width, f"measure:{width}:{unit}", number_drawer(_measure_number(unit), unit), writer)
        yield from _duration_forms(writers, width, lists.get("unit", lists["standard"]))


def _compact_forms(own: OwnData, numbers: NumberWriter) -> Iterator[Form]:
    """Yields forms such as "12 thousand"; a value is two significant digits and the power of ten of the first."""
    for width in ("long", "short"):
        patterns = own.table("compact_decimal_formats", width)
        for power in _COMPACT_POWERS:
            key = f"compact:{width}:{power}"
            # Keyed without the width: "3 million" and "3M" are one value.
            draw = number_drawer(lambda rng: str(rng.randint(10, 99)), "compact", str(power))
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
        digits = numbers.write(mantissa, least=2)  # as ICU does: "1200 million" is not grouped
        pieces = [piece(prefix, "number"), piece(digits, "number"), piece(suffix, "number")]
        return [made for made in pieces if made[0]]

    return render


def _unit_writer(own: OwnData, numbers: NumberWriter, unit: str, width: str) -> Callable[[str], list[Piece]] | None:
    """Returns a renderer of numbers with a unit; None if the language has no pattern of its own.

    In some singulars and duals the number is part of the word (Arabic "يومان", two days); then no word is a number.
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
    """Yields forms of durations with two or three units, joined by the language's pattern for lists of units."""
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
    """Returns a function that draws numbers for a unit: temperatures can be negative, times are mostly whole."""
    if unit.startswith("duration-"):
        return lambda rng: draw_tenths(rng) if rng.random() < 0.1 else str(rng.randint(1, 120))
    if unit == "temperature-kelvin" or not unit.startswith("temperature-"):
        return draw_number
    return lambda rng: f"{'-' if rng.random() < 0.3 else ''}{rng.randint(1, 60)}"
