"""Values, and the split each belongs to.

A value is what an expression shows: a date with its day and month, a time with its hour and minute, a number, an
amount of one currency, a quantity of one unit. It belongs to exactly one split, whatever the language, the pattern or
the seed. Days of the year and minutes of the day are dealt out within their month and hour, so that every split knows
every month and hour; a date belongs where its day and month do, so that no rendering of it, with or without the year,
can be seen in two splits. Everything else is assigned by a hash.
"""

from __future__ import annotations

import datetime
import hashlib
from functools import cache
from random import Random
from typing import NamedTuple

# Cumulative shares, in percent. "text" is for unlabelled language modelling, the others for labelled tasks.
SPLIT_SHARES: dict[str, int] = {"train": 40, "dev": 10, "test": 20, "text": 30}
SPLITS: tuple[str, ...] = tuple(SPLIT_SHARES)

YEARS = range(1950, 2050)  # one century, so that a year of two digits is one year
ANCIENT_YEARS = range(1, 1000)  # only beside an era


class Moment(NamedTuple):
    """A date and a time; weekday 0 is Monday, era 1 the common one."""

    year: int
    month: int
    day: int
    weekday: int
    hour: int
    minute: int
    second: int
    era: int = 1

    @property
    def quarter(self) -> int:
        return (self.month + 2) // 3


def split_of(*key: object) -> str:
    """The split of the value named by `key`; equal on every machine."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    ticket = int.from_bytes(digest, "big") % 100
    for split, share in SPLIT_SHARES.items():
        if ticket < share:
            return split
        ticket -= share
    raise AssertionError("shares do not add up to 100")


def _deal(cells: list[tuple[int, int]], salt: str) -> dict[str, list[tuple[int, int]]]:
    """Deals out the cells of one month or hour by rank of their hash, so that no split goes without."""
    ranked = sorted(cells, key=lambda cell: hashlib.blake2b(f"{salt}{cell}".encode(), digest_size=8).digest())
    hands: dict[str, list[tuple[int, int]]] = {}
    dealt, total = 0, 0
    for split, share in SPLIT_SHARES.items():
        total += share
        end = round(len(ranked) * total / 100)
        hands[split] = sorted(ranked[dealt:end])
        dealt = end
    return hands


@cache
def days_of(split: str) -> tuple[tuple[tuple[int, int], ...], ...]:
    """For each month, its (month, day)s in `split`."""
    return tuple(
        tuple(_deal([(month, day) for day in range(1, _month_length(month) + 1)], "day")[split])
        for month in range(1, 13)
    )


@cache
def minutes_of(split: str) -> tuple[tuple[tuple[int, int], ...], ...]:
    """For each hour of the day, its (hour, minute)s in `split`."""
    return tuple(tuple(_deal([(hour, minute) for minute in range(60)], "minute")[split]) for hour in range(24))


def _month_length(month: int) -> int:
    return 29 if month == 2 else 30 if month in (4, 6, 9, 11) else 31


def moment(year: int, day: tuple[int, int], time: tuple[int, int], second: int) -> Moment:
    """Puts a moment together; 29 February moves to a leap year near by."""
    if day == (2, 29):
        year -= year % 4
        year = 1952 if year < YEARS.start else year
    weekday = datetime.date(year, *day).weekday()
    return Moment(year, *day, weekday, *time, second)


def draw_moment(rng: Random, split: str) -> Moment:
    """A moment whose day of the year and minute of the day both belong to `split`."""
    day = rng.choice(rng.choice(days_of(split)))
    time = rng.choice(rng.choice(minutes_of(split)))
    return moment(rng.choice(YEARS), day, time, rng.randrange(60))


def draw_number(rng: Random) -> str:
    """Digits of a number: small ones, numbers that look like years, large ones, decimals with a point."""
    kind = rng.random()
    if kind < 0.35:
        return str(rng.randint(1, 31))
    if kind < 0.5:
        return str(rng.randint(0, 99))
    if kind < 0.65:
        return str(rng.randint(1900, 2060))
    if kind < 0.75:
        return str(rng.randint(100, 9_999))
    if kind < 0.85:
        return str(rng.randint(10_000, 9_999_999))
    return f"{rng.randint(0, 999)}.{rng.randint(1, 99):02d}" if kind < 0.93 else draw_tenths(rng)


def draw_tenths(rng: Random) -> str:
    """A number below 100 with one decimal, never zero."""
    return f"{rng.randint(0, 99)}.{rng.randint(1, 9)}"
