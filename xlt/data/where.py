"""Leaves out the rows of a source that do not meet its `where`, and counts them."""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from xlt.config import SourceConfig
from xlt.config.where import RULES, where_rules
from xlt.data.examples import Example
from xlt.data.words import word_count
from xlt.errors import UsageError

Row = Mapping[str, Any]


@dataclass
class RowCount:
    """The rows that the last complete pass over a source read.

    Attributes:
        rows: number of rows, with those left out.
        left_out: column -> number of rows that are left out because of its rules. A row counts for the first column
            whose rules it does not meet.
    """

    rows: int = 0
    left_out: Counter[str] = field(default_factory=Counter)


# Source, with all its settings -> count of its rows.
_COUNTS: dict[str, RowCount] = {}


def row_count(source: SourceConfig) -> RowCount | None:
    """Returns the rows that the last complete pass over a source read and left out; None if it has no `where`."""
    return _COUNTS.get(repr(source))


def rows_where(source: SourceConfig, rows: Iterable[tuple[str, Row]]) -> Iterator[tuple[str, Row]]:
    """Yields the rows that meet the source's `where`, and counts the others.

    Args:
        source: its `where` names columns, with dots between the parts of a nested one.
        rows: place and columns of each row.
    Raises:
        UsageError: a row lacks a column of `where`, or a rule does not suit what the column holds; the message names
            the place.
    """
    rules = where_rules(source.where)
    if not rules:
        yield from rows
        return
    count = RowCount()
    for place, row in rows:
        count.rows += 1
        failed = next((column for column in rules if not _meets(row, column, rules[column], place)), None)
        if failed is None:
            yield place, row
        else:
            count.left_out[failed] += 1
    _COUNTS[repr(source)] = count


def examples_where(source: SourceConfig, examples: Iterable[Example]) -> Iterator[Example]:
    """Yields the examples that meet the source's `where`, whose columns are the parts that an example has.

    It serves readers that do not apply `where` to columns of their files.

    Raises:
        UsageError: as `rows_where` does.
    """
    rows = ((example.place, _Parts(example)) for example in examples)
    for _, parts in rows_where(source, rows):
        assert isinstance(parts, _Parts)
        yield parts.example


class _Parts(dict[str, Any]):
    """The parts of an example that are not empty, by name."""

    def __init__(self, example: Example) -> None:
        self.example = example
        parts = {name: getattr(example, name) for name in ("text", "pair", "label", "id", "words")}
        super().__init__({name: value for name, value in parts.items() if value is not None} | dict(example.columns))


def value_of(row: Row, column: str) -> Any:
    """Returns the value of a column; `translation.en` is the part `en` of column `translation`, if none has that name.

    Raises:
        KeyError: there is no such column or part.
    """
    if column in row:
        return row[column]
    name, _, part = column.partition(".")
    while part:
        if isinstance(inner := row.get(name), Mapping):
            return value_of(inner, part)
        before, _, part = part.partition(".")
        name = f"{name}.{before}"
    raise KeyError(column)


def columns_in(row: Row) -> str:
    """Lists the columns of a row for a message, those of nested columns with the names of their parts."""

    def names(row: Row, prefix: str = "") -> Iterator[str]:
        for name, value in row.items():
            if isinstance(value, Mapping) and value:
                yield from names(value, f"{prefix}{name}.")
            else:
                yield f"{prefix}{name}"

    return ", ".join(names(row)) or "none"


def _meets(row: Row, column: str, rules: Mapping[str, Any], place: str) -> bool:
    """Returns whether a row meets all rules of a column."""
    try:
        value = value_of(row, column)
    except KeyError as error:
        nested = f"; rules are {', '.join(RULES)}" if "." in column else ""
        raise UsageError(f"{place}: no column {column!r} (where); there are {columns_in(row)}{nested}") from error
    return all(_holds(value, name, wanted, f"{place}: where.{column}") for name, wanted in rules.items())


def _holds(value: Any, name: str, wanted: Any, key: str) -> bool:
    items = list(value) if isinstance(value, (list, tuple)) else None
    if name == "not_empty":
        return not _is_empty(value)
    if name in ("min_words", "max_words"):
        words = len(items) if items is not None else 0 if _is_empty(value) else word_count(_text(value, name, key))
        return words >= wanted if name == "min_words" else words <= wanted
    if name == "contains":
        if items is None:
            raise UsageError(f"{key}.contains={wanted}: the column holds {_kind(value)}, not a list")
        return any(_equal(item, wanted, key) for item in items)
    if name == "not":
        values = [value] if items is None else items
        return not any(_equal(one, unwanted, f"{key}.not") for one in values for unwanted in wanted)
    if items is not None or isinstance(value, Mapping):
        other = "contains, not, not_empty, min_words or max_words" if items is not None else "its parts, or not_empty"
        raise UsageError(f"{key}: the column holds {_kind(value)}, which this rule cannot be for; use {other}")
    if name == "is":
        return any(_equal(value, one, key) for one in wanted)
    if name == "matches":
        return not _is_empty(value) and re.search(wanted, _normal(_text(value, name, key))) is not None
    number = _number(value)
    if number is None and not _is_empty(value):
        raise UsageError(f"{key}.{name}={wanted}: the column holds {value!r}, not a number")
    return number is not None and (number >= wanted if name == "at_least" else number <= wanted)


def _equal(value: Any, wanted: Any, key: str) -> bool:
    """Returns whether a cell has a value of the config; text is compared in one Unicode form, numbers as numbers.

    Raises:
        UsageError: the cell holds text, but the config has true or false, which YAML makes of yes, no, on and off.
    """
    if isinstance(wanted, bool):
        if isinstance(value, str):
            raise UsageError(
                f"{key}={str(wanted).lower()}: the column holds text ({value!r}), but YAML reads yes, no, on, off, "
                "true and false as booleans; put the value in quotes"
            )
        return value is wanted
    if isinstance(value, bool):
        return isinstance(wanted, str) and str(value).lower() == wanted.lower()
    if value is None or wanted is None:
        return value is wanted
    if not isinstance(value, str) or not isinstance(wanted, str):
        number, other = _number(value), _number(wanted)
        if number is not None and other is not None:
            return number == other
    return _normal(str(value)) == _normal(str(wanted))


def _is_empty(value: Any) -> bool:
    """Returns whether a cell holds nothing: null, NaN, Infinity, blank text, an empty list, a list with an empty item.

    A mapping with a `text`, such as an answer, is as empty as its text; another one is empty if all its parts are.
    """
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return True
    if isinstance(value, str):
        return not value.strip()
    if isinstance(value, Mapping):
        return _is_empty(value["text"]) if "text" in value else all(map(_is_empty, value.values()))
    if isinstance(value, (list, tuple)):
        return not value or any(map(_is_empty, value))
    return False


def _number(value: Any) -> float | None:
    if isinstance(value, bool):
        return None
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def _text(value: Any, name: str, key: str) -> str:
    if not isinstance(value, (str, int, float)):
        raise UsageError(f"{key}.{name}: the column holds {_kind(value)}, not text")
    return str(value)


def _normal(text: str) -> str:
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def _kind(value: Any) -> str:
    return "a list" if isinstance(value, (list, tuple)) else type(value).__name__
