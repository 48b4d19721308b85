"""The values of expressions, and the split to which each belongs.

A value is what an expression shows: a date with its day and month, a time with its hour and minute, a number, an amount
of one currency, or a quantity of one unit. It belongs to exactly one split, whatever the language, the pattern or the
seed. The days of each month and the minutes of each hour are distributed over all splits, so that every split has every
month and hour. The split of a date is that of its day and month, so that no rendering of it, with or without the year,
can be in two splits. All other values are assigned by a hash.
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
    """A date and a time; weekday 0 is Monday, and era 1 is the common era."""

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
    """Returns the split of the value that `key` identifies; the same on every machine."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    ticket = int.from_bytes(digest, "big") % 100
    for split, share in SPLIT_SHARES.items():
        if ticket < share:
            return split
        ticket -= share
    raise AssertionError("the shares of the splits do not add up to 100")


def _deal(cells: list[tuple[int, int]], salt: str) -> dict[str, list[tuple[int, int]]]:
    """Distributes the cells of one month or hour over the splits, in the order of their hashes."""
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
    """Builds a moment; 29 February is moved to a near leap year."""
    if day == (2, 29):
        year -= year % 4
        year = 1952 if year < YEARS.start else year
    weekday = datetime.date(year, *day).weekday()
    return Moment(year, *day, weekday, *time, second)


def draw_moment(rng: Random, split: str) -> Moment:
    """Draws a moment whose day of the year and minute of the day both belong to `split`."""
    day = rng.choice(rng.choice(days_of(split)))
    time = rng.choice(rng.choice(minutes_of(split)))
    return moment(rng.choice(YEARS), day, time, rng.randrange(60))


def draw_number(rng: Random) -> str:
    """Draws the digits of a number: a small one, one that looks like a year, a large one, or a decimal."""
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
    """Draws a number below 100 with one decimal, never zero."""
    return f"{rng.randint(0, 99)}.{rng.randint(1, 9)}"
