"""Compiles the date and time patterns of one language to renderers that also say which fields they show.

Fields follow the date field symbol table of UTS 35, part 4. Weeks, time zones, days of the year, week years, cyclic
years, numeric weekdays and fractions of a second are not supported; patterns with them are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from xlt.data.locale_expressions.cldr import OwnData
from xlt.data.locale_expressions.digits import NumberWriter
from xlt.data.locale_expressions.patterns import date_tokens, slot_tokens
from xlt.data.locale_expressions.pieces import Piece, piece
from xlt.data.locale_expressions.values import Moment

Step = Piece | Callable[[Moment], Piece]

_WIDTHS = {1: "abbreviated", 2: "abbreviated", 3: "abbreviated", 4: "wide", 5: "narrow", 6: "short"}
_SHOWS = {"u": "y", "L": "M", "c": "E", "e": "E", "q": "Q", "H": "h", "K": "h", "k": "h", "b": "a", "B": "a"}


class Unrenderable(Exception):
    """A pattern needs a field that is not supported, or a name that is not in the language's own data."""


class DatePattern:
    """A compiled date or time pattern.

    Attributes:
        shows: the fields that a reader sees, one letter each: G y Q M d E h m s, and a for any period of the day.
        half_day: whether it writes the hour from 1 to 12.
    """

    def __init__(self, steps: list[Step], shows: frozenset[str], half_day: bool) -> None:
        self._steps = steps
        self.shows = shows
        self.half_day = half_day

    def render(self, value: Moment) -> list[Piece]:
        return [step if isinstance(step, tuple) else step(value) for step in self._steps]


def join_patterns(glue: str, parts: list[DatePattern]) -> DatePattern:
    """Puts compiled patterns into the slots of a glue pattern such as "{1} 'at' {0}"."""
    steps: list[Step] = []
    for token in slot_tokens(glue, quoted=True):
        if isinstance(token, int):
            steps += parts[token]._steps
        else:
            steps.append(piece(token, "other"))
    shows = frozenset[str]().union(*(part.shows for part in parts))
    return DatePattern(steps, shows, any(part.half_day for part in parts))


class DateWriter:
    """A compiler of the date patterns of one language."""

    def __init__(self, own: OwnData, numbers: NumberWriter) -> None:
        self._own = own
        self._numbers = numbers
        self._steps: dict[str, Step] = {}

    def compile(self, pattern: str) -> DatePattern:
        """Compiles one pattern.

        Raises:
            Unrenderable: a field is not supported, or the language has no name for it.
        """
        steps: list[Step] = []
        shows: set[str] = set()
        half_day = False
        for kind, text in date_tokens(pattern):
            if kind == "literal":
                steps.append(piece(text, "other"))
                continue
            if text not in self._steps:
                self._steps[text] = self._field(text[0], len(text))
            steps.append(self._steps[text])
            shows.add(_SHOWS.get(text[0], text[0]))
            half_day = half_day or text[0] in "hK"
        return DatePattern(steps, frozenset(shows), half_day)

    def _field(self, letter: str, count: int) -> Step:
        number = self._number
        match letter:
            case "y" | "u":
                if count == 2:
                    return number("year", 2, lambda value: value.year % 100)
                return number("year", count, lambda value: value.year)
            case "M" | "L" if count <= 2:
                return number("month", count, lambda value: value.month)
            case "Q" | "q" if count <= 2:
                return number("other", count, lambda value: value.quarter)
            case "d":
                return number("day", count, lambda value: value.day)
            case "h":
                return number("hour", count, lambda value: value.hour % 12 or 12)
            case "H":
                return number("hour", count, lambda value: value.hour)
            case "K":
                return number("hour", count, lambda value: value.hour % 12)
            case "k":
                return number("hour", count, lambda value: value.hour or 24)
            case "m":
                return number("minute", count, lambda value: value.minute)
            case "s":
                return number("second", count, lambda value: value.second)
            case "G":
                eras = self._pieces(self._own.eras(_width(count)), "era")
                return lambda value: eras[value.era]
            case "M" | "L":
                months = self._names("months", letter == "L", count, "month")
                return lambda value: months[value.month]
            case "Q" | "q":
                quarters = self._names("quarters", letter == "q", count, "other")
                return lambda value: quarters[value.quarter]
            case "E" | "c" | "e" if letter == "E" or count >= 3:
                days = self._names("days", letter == "c", count, "weekday")
                return lambda value: days[value.weekday]
            case "a":
                return self._half_day(count)
            case "b" | "B":
                return self._day_period(letter, count)
        raise Unrenderable(f"field {letter * count}")

    def _number(self, label: str, width: int, read: Callable[[Moment], int]) -> Step:
        cached_pieces: dict[int, Piece] = {}

        def step(value: Moment) -> Piece:
            number = read(value)
            if number not in cached_pieces:
                cached_pieces[number] = piece(self._numbers.pad(number, width), label)
            return cached_pieces[number]

        return step

    def _names(self, kind: str, stand_alone: bool, count: int, label: str) -> Mapping[int, Piece]:
        context = "stand-alone" if stand_alone else "format"
        return self._pieces(self._own.names(kind, context, _width(count)), label)

    def _pieces(self, names: Mapping[int, str] | None, label: str) -> Mapping[int, Piece]:
        if names is None:
            raise Unrenderable(label)
        return {key: piece(name, label) for key, name in names.items()}

    def _half_day(self, count: int) -> Step:
        names = self._own.periods(_width(count))
        if not {"am", "pm"} <= names.keys():
            raise Unrenderable("am and pm")
        morning, afternoon = piece(names["am"], "period"), piece(names["pm"], "period")
        return lambda value: afternoon if value.hour >= 12 else morning

    def _day_period(self, letter: str, count: int) -> Step:
        """Returns a renderer of periods of the day: noon and midnight if the language names them, or the hour's.

        babel's get_period_id treats "b" like the flexible periods; in UTS 35 it is am and pm with noon and midnight.
        """
        names = {period: piece(name, "period") for period, name in self._own.periods(_width(count)).items()}
        rules = self._own.table("day_period_rules", None)
        exact = {rule["at"]: names[p] for p, spans in rules.items() for rule in spans if "at" in rule and p in names}
        hours: list[str] = [""] * 24
        if letter == "b":
            hours = ["am"] * 12 + ["pm"] * 12
        else:
            for period, spans in rules.items():
                for span in spans:
                    if "from" in span:
                        for hour in _span_hours(span["from"] // 3600, span["before"] // 3600):
                            hours[hour] = period
        if not names.keys() >= set(hours):
            raise Unrenderable("periods of the day")
        by_hour = [names[period] for period in hours]

        def step(value: Moment) -> Piece:
            if not value.minute and not value.second:
                return exact.get(value.hour * 3600, by_hour[value.hour])
            return by_hour[value.hour]

        return step


def _span_hours(start: int, before: int) -> list[int]:
    return [hour % 24 for hour in range(start, before if before > start else before + 24)]


def _width(count: int) -> str:
    if count not in _WIDTHS:
        raise Unrenderable(f"a width of {count} letters")
    return _WIDTHS[count]
