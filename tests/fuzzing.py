"""Mutates files at random, and watches what reads them: it must take them or refuse them, quickly and in little memory.

`hypothesis` is not needed for it: a file that a stranger could send is a good one in which something has changed, and
what to change is known better here than to a general tool. Each case has a seed of its own, so that it can be repeated.
"""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

SECONDS = float(os.environ.get("XLT_FUZZ_SECONDS", "60"))
"""How long each of the slow tests searches."""
SEED = int(os.environ.get("XLT_FUZZ_SEED", "1"))
_MOST_MEMORY_KIB = 500_000
_HANG_SECONDS = 20
_NUMBERS = (0, 1, -1, 2, 7, 255, 256, 65535, 2**31 - 1, 2**31, 2**32, 2**53, 2**63 - 1, 2**63, 2**64, 10**30, 10**400)
_PIECES = (
    *(b"\0", b"\xff\xfe", b"\xc3\x28", b"\r\n", b"\n\n", b"\t", b'"', b"'", b"{", b"[" * 50, b"}", b"\x1b[2J", b"nan"),
    *(b"NaN", b"Infinity", b"1e400", b"null", b"true", b"${oc.env:HOME}", b"!!python/object:os.system", b"&a *a", b"-"),
    *(b"\xe2\x80\xa8", b"\xef\xbb\xbf", b"../" * 4, b"9" * 5000, b"_", b"#", b"\\", b"\\u0000", b"\\ud800"),
)


class Hung(BaseException):
    """A case that did not end; no handler of ordinary exceptions catches it."""


def mutated(raw: bytes, draw: random.Random, others: Sequence[bytes] = ()) -> bytes:
    """Returns the bytes with one to four changes: of bits, bytes, pieces, numbers; cut, moved, or from other files."""
    data = bytearray(raw)
    for _ in range(draw.choice((1, 1, 2, 4))):
        at = draw.randrange(len(data) + 1)
        size = min(len(data) - at, draw.choice((1, 1, 2, 4, 8, 64, 1000)))
        kind = draw.randrange(10)
        if kind == 0 and at < len(data):
            data[at] ^= 1 << draw.randrange(8)
        elif kind == 1 and at < len(data):
            data[at] = draw.randrange(256)
        elif kind == 2:
            del data[at : at + size]
        elif kind == 3:
            data[at:at] = draw.choice(_PIECES)
        elif kind == 4:
            data[at:at] = data[at : at + size] * draw.choice((1, 2, 30))
        elif kind == 5:
            del data[at:]
        elif kind == 6 and others:
            other = draw.choice(others)
            begin = draw.randrange(len(other) + 1)
            data[at : at + size] = other[begin : begin + size]
        elif kind == 7:
            number = draw.choice(_NUMBERS)
            width = draw.choice((1, 2, 4, 8))
            data[at : at + width] = (number % 256**width).to_bytes(width, draw.choice(("little", "big")))
        elif kind == 8:
            digits = [place for place, byte in enumerate(data) if 48 <= byte <= 57]
            if digits:
                place = draw.choice(digits)
                data[place : place + 1] = str(draw.choice(_NUMBERS)).encode()
        else:
            data[at : at + size] = draw.choice(_PIECES)
    return bytes(data)


def mutated_json(value: Any, draw: random.Random) -> Any:
    """Returns JSON values in which one to three are other ones, are missing, or are there twice under new keys."""
    value = json.loads(json.dumps(value))
    for _ in range(draw.choice((1, 1, 2, 3))):
        places = list(_places(value))
        if not places:
            return draw.choice((None, [], {}, 0))
        parent, key = draw.choice(places)
        kind = draw.randrange(6)
        if kind == 0:
            del parent[key]
        elif kind == 1 and isinstance(parent, dict):
            parent[draw.choice(("", "a\n| b", "\x1b[2J", f"{key}.0", "k" * 300))] = parent[key]
        elif kind == 2 and isinstance(parent[key], int | float):
            parent[key] = draw.choice((*_NUMBERS[:-2], -0.0, 0.5, -(2**40), float("inf"), float("nan")))
        elif kind == 3 and isinstance(parent[key], str):
            parent[key] = draw.choice(("", " ", "a\nb", "\x1b[31m", "\ud800", "x" * 10**5, parent[key].upper(), "../x"))
        else:
            parent[key] = draw.choice((None, True, 0, -1, 1.5, "a", [], {}, [1, 2], {"a": 1}, [[[]]], 10**30))
    return value


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in list(items):
        yield value, key
        yield from _places(part)


@contextmanager
def _alarm() -> Iterator[None]:
    def stop(number: int, frame: object) -> None:
        raise Hung

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, _HANG_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def fault_of(case: Callable[[], object], refusal: type[Exception], seconds: float = 2) -> str | None:
    """Carries out a case; returns what is wrong with how it ended, None if it was taken or refused as it should be.

    Args:
        case: reads something.
        refusal: type of the errors with which it may be refused, each with one line.
        seconds: of CPU time that it may take.
    """
    memory, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    try:
        with _alarm():
            case()
    except Hung:
        return "hung: " + " < ".join(traceback.format_exc().splitlines()[-6:])
    except refusal as error:
        lines = getattr(error, "lines", None) or [str(error)]
        if any("\n" in line or not line.strip() for line in lines):
            return f"a refusal of other than one line: {lines!r:.300}"
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)[-4:]
        where = " < ".join(f"{frame.filename.rpartition('/')[2]}:{frame.lineno}" for frame in frames)
        return f"{type(error).__name__}: {error!s:.200} at {where}"
    took, grown = time.process_time() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory
    if grown > _MOST_MEMORY_KIB:
        return f"took {grown / 1e6:.2f} GB"
    return f"took {took:.1f} s" if took > seconds else None


def search(
    make: Callable[[random.Random], Callable[[], object]],
    refusal: type[Exception],
    seconds: float,
    *,
    cases: int | None = None,
) -> tuple[int, list[str]]:
    """Carries out random cases, for `SECONDS` or until there are so many; returns their number and what was wrong.

    Args:
        make: makes a case from a random generator.
        refusal, seconds: see `fault_of`.
        cases: how many; None: as long as there is time.
    Returns:
        The number of cases, and a line for each kind of fault with the seed of its first case.
    """
    until, number, faults = time.monotonic() + SECONDS, 0, {}
    while number < cases if cases is not None else time.monotonic() < until:
        seed = f"{SEED}/{number}"
        fault = fault_of(make(random.Random(seed)), refusal, seconds)
        if fault is not None:
            faults.setdefault(fault.partition(" at ")[2] or fault[:60], f"case {seed}: {fault}")
        number += 1
    return number, list(faults.values())
