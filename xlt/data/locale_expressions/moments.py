"""The forms of dates, times and intervals, from all patterns that a language has of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from random import Random

from xlt.data.locale_expressions.cldr import OwnData
from xlt.data.locale_expressions.dates import DatePattern, DateWriter, Unrenderable, join_patterns
from xlt.data.locale_expressions.digits import NumberWriter
from xlt.data.locale_expressions.forms import Form
from xlt.data.locale_expressions.values import (
    ANCIENT_YEARS,
    YEARS,
    Moment,
    days_of,
    draw_moment,
    minutes_of,
    moment,
    split_of,
)

_WIDTHS = ("full", "long", "medium", "short")
_FIELD_SIZES = {"y": len(YEARS), "Q": 4, "M": 12, "d": 31, "E": 7, "h": 24, "m": 60, "s": 60}
_MIN_VALUES = 60  # a type with fewer values cannot be divided into four splits

Interval = tuple[Moment, Moment]


def moment_forms(own: OwnData, numbers: NumberWriter) -> Iterator[Form]:
    """Yields the forms of kinds date, time, datetime and interval."""
    writer = DateWriter(own, numbers)
    dates, times = _standard(own, writer, "date_formats"), _standard(own, writer, "time_formats")
    for width, pattern in dates.items():
        yield from _moment_form(pattern, "formats", width)
    for width, pattern in times.items():
        yield from _moment_form(pattern, "formats", width)
    for width, glue in own.table("datetime_formats").items():
        if width not in dates:
            continue
        for time_width, time in times.items():
            yield from _moment_form(join_patterns(glue, [time, dates[width]]), "formats", f"{width}+{time_width}")
    for skeleton, pattern in own.table("datetime_skeletons").items():
        if compiled := _compiled(writer, pattern.pattern):
            yield from _moment_form(compiled, "skeletons", skeleton)
    for skeleton, by_field in own.table("interval_formats").items():
        if skeleton is not None:
            for field, halves in by_field.items():
                yield from _interval_form(writer, skeleton, field, halves)


def _standard(own: OwnData, writer: DateWriter, name: str) -> dict[str, DatePattern]:
    found: dict[str, DatePattern] = {}
    for width in _WIDTHS:
        pattern = own.value(name, width)
        if pattern is not None and (compiled := _compiled(writer, pattern.pattern)):
            found[width] = compiled
    return found


def _compiled(writer: DateWriter, pattern: str) -> DatePattern | None:
    try:
        return writer.compile(pattern)
    except Unrenderable:
        return None


def _moment_form(pattern: DatePattern, group: str, name: str) -> Iterator[Form]:
    shows = pattern.shows
    if pattern.half_day and "a" not in shows:
        return
    if not _anchored(shows) and _size(shows) < _MIN_VALUES:
        return
    kind = "time" if not shows & set("GyQMd") else "datetime" if "h" in shows else "date"

    def draw(rng: Random, split: str) -> Moment:
        while True:
            value = draw_moment(rng, split)
            if shows <= {"G", "y"} and "G" in shows and rng.random() < 0.4:
                value = value._replace(year=rng.choice(ANCIENT_YEARS), era=rng.randrange(2))
            if _anchored(shows) or split_of(*shown(value, shows)) == split:
                return value

    yield Form(kind, group, f"{kind}:{name}", draw, pattern.render, shows)


def _interval_form(writer: DateWriter, skeleton: str, field: str, halves: list[str]) -> Iterator[Form]:
    """Returns a form of intervals whose ends differ in `field` but in no larger field, as their patterns expect."""
    draw_pair = _PAIRS.get(field)
    if draw_pair is None or len(halves) != 2 or ("B" in skeleton and field == "h"):
        return
    # babel cuts an interval in two and quotes each run of letters anew, so that two quotations may touch. CLDR's
    # intervals have no straight apostrophe, which is what the two quotes between them would mean.
    first, second = (_compiled(writer, half.replace("''", "")) for half in halves)
    if first is None or second is None:
        return
    shows = first.shows | second.shows
    letter = {"H": "h", "B": "a"}.get(field, field)
    if letter not in first.shows & second.shows or ("a" not in shows and (first.half_day or second.half_day)):
        return
    alone, size = _size(shows) >= _MIN_VALUES, _size(shows)
    # "07. - 10." alone could be days, months or hours: texts of two values, perhaps of two splits.
    if not alone and not _anchored(shows) and (size * size // 2 < _MIN_VALUES or len(shows) == 1):
        return

    def draw(rng: Random, split: str) -> Interval:
        while True:
            start, end = draw_pair(rng, split)
            if _anchored(shows):
                return start, end
            if alone:
                fits = all(split_of(*shown(value, shows)) == split for value in (start, end))
            else:
                fits = split_of("interval", shown(start, shows), shown(end, shows)) == split
            if fits:
                return start, end

    yield Form(
        "interval",
        "times" if field in "ahHmB" else "dates",
        f"interval:{skeleton}:{field}",
        draw,
        lambda value: first.render(value[0]) + second.render(value[1]),
        shows,
    )


def shown(value: Moment, shows: frozenset[str]) -> tuple[object, ...]:
    """Returns what a reader sees of `value`: field letters, then numbers, without the common era and am or pm."""
    fields = {
        "y": value.year,
        "Q": value.quarter,
        "M": value.month,
        "d": value.day,
        "E": value.weekday,
        "h": value.hour,
        "m": value.minute,
        "s": value.second,
    }
    seen = {letter: number for letter, number in fields.items() if letter in shows}
    era = () if value.era else ("before the common era",)
    return ("".join(seen), *seen.values(), *era)


def _anchored(shows: frozenset[str]) -> bool:
    """Returns whether a reader sees day and month, or hour and minute, which determine the split."""
    return {"M", "d"} <= shows or {"h", "m"} <= shows


def _size(shows: frozenset[str]) -> int:
    size = 1
    for letter in shows:
        size *= _FIELD_SIZES.get(letter, 1)
    return size


def _two_days(rng: Random, split: str) -> Interval:
    start = draw_moment(rng, split)
    first, second = sorted(rng.sample(days_of(split)[start.month - 1], 2))
    time = start.hour, start.minute
    year = start.year if first[0] != 2 else 1952 + 4 * rng.randrange(24)  # both days of one February exist
    return moment(year, first, time, start.second), moment(year, second, time, start.second)


def _two_months(rng: Random, split: str) -> Interval:
    start = draw_moment(rng, split)
    first, second = (rng.choice(days_of(split)[month - 1]) for month in sorted(rng.sample(range(1, 13), 2)))
    time = start.hour, start.minute
    year = start.year if (2, 29) not in (first, second) else 1952 + 4 * rng.randrange(24)
    return moment(year, first, time, start.second), moment(year, second, time, start.second)


def _two_years(rng: Random, split: str) -> Interval:
    while True:
        start, end = draw_moment(rng, split), draw_moment(rng, split)
        if start.year < end.year:
            return start, end


def _two_times(choose_hours: Callable[[Random], tuple[int, int]]) -> Callable[[Random, str], Interval]:
    def draw(rng: Random, split: str) -> Interval:
        base = draw_moment(rng, split)
        first, second = choose_hours(rng)
        times = minutes_of(split)
        if first == second:
            start, end = sorted(rng.sample(times[first], 2))
        else:
            start, end = rng.choice(times[first]), rng.choice(times[second])
        return (
            base._replace(hour=start[0], minute=start[1]),
            base._replace(hour=end[0], minute=end[1]),
        )

    return draw


def _one_hour(rng: Random) -> tuple[int, int]:
    hour = rng.randrange(24)
    return hour, hour


def _hours_of_a_half(rng: Random) -> tuple[int, int]:
    first, second = sorted(rng.sample(range(12), 2))
    half = rng.choice((0, 12))
    return first + half, second + half


def _hours_of_a_day(rng: Random) -> tuple[int, int]:
    first, second = sorted(rng.sample(range(24), 2))
    return first, second


_PAIRS: dict[str, Callable[[Random, str], Interval]] = {
    "d": _two_days,
    "M": _two_months,
    "y": _two_years,
    "a": _two_times(lambda rng: (rng.randrange(12), rng.randrange(12, 24))),
    "B": _two_times(lambda rng: (rng.randrange(6, 11), rng.randrange(19, 23))),  # morning and evening everywhere
    "h": _two_times(_hours_of_a_half),
    "H": _two_times(_hours_of_a_day),
    "m": _two_times(_one_hour),
}
