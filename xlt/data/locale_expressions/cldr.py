"""Reads a language's own data in CLDR, without data inherited from other languages or from the root locale.

CLDR leaves out inherited data, so a missing word means that CLDR does not know it. Fallbacks *within* a language
(abbreviated months that are not abbreviated, stand-alone forms equal to the format forms) are CLDR's aliases, which
this code follows. Punctuation without words (number symbols, digit grouping, a bare comma) can come from the root
locale, because there a missing entry means that the root's applies.
"""

from __future__ import annotations

import importlib.util
import re
import unicodedata
from collections.abc import Mapping
from functools import cache
from types import ModuleType
from typing import Any

_BARE_KEY = re.compile(r"M?\d+")
_CALENDAR_SIZES = {"months": 12, "days": 7, "quarters": 4}
_WIDTHS = ("abbreviated", "wide", "narrow")


@cache
def _reader() -> ModuleType:
    """Returns babel's reader with a cache of its own.

    `load(merge_inherited=False)` puts unmerged data into the cache that `Locale` reads, which would break every other
    use of babel in the process.
    """
    spec = importlib.util.find_spec("babel.localedata")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@cache
def _load(locale: str) -> dict[str, Any]:
    data: dict[str, Any] = _reader().load(locale, merge_inherited=False)
    return data


class OwnData:
    """The own data of one language in CLDR.

    Args:
        locale: CLDR's identifier, such as "fo".
    Raises:
        OSError: babel has no such locale.
    """

    def __init__(self, locale: str) -> None:
        self.locale = locale
        self._data = _load(locale)
        self._root = _load("root")
        self._writes_latin: bool | None = None

    def table(self, *path: Any) -> Mapping[Any, Any]:
        """Returns the mapping at `path`; empty if the language has none of its own (an alias does not count)."""
        return _table(self._data, path)

    def value(self, *path: Any) -> Any:
        """Returns the entry at `path`, or None."""
        return self.table(*path[:-1]).get(path[-1])

    def punctuation(self, *path: Any) -> Mapping[Any, Any]:
        """Returns the mapping at `path`, completed with the root locale's; only for entries without words."""
        return {**_table(self._root, path), **self.table(*path)}

    def names(self, kind: str, context: str, width: str) -> Mapping[int, str] | None:
        """Returns the names of months (1-12), days (Monday 0) or quarters (1-4), following aliases in the language.

        Args:
            kind: "months", "days" or "quarters".
            context: "format" or "stand-alone".
            width: "wide", "abbreviated", "narrow", or for days "short".
        Returns:
            None if a name is missing or is a bare key.
        """
        entries: dict[int, str] = {}
        for source in reversed(_alias_chain(context, width)):
            entries.update(self.table(kind, *source))
        complete = len(entries) == _CALENDAR_SIZES[kind]
        if not complete or any(not name.strip() or _BARE_KEY.fullmatch(name) for name in entries.values()):
            return None
        return entries

    def is_foreign(self, text: str) -> bool:
        """Returns whether `text` is in Latin letters although the language is not, that is, an English placeholder."""
        if self._writes_latin is None:
            months = self.names("months", "format", "wide") or {}
            self._writes_latin = any(_is_latin(char) for name in months.values() for char in name)
        letters = [char for char in text if char.isalpha()]
        return not self._writes_latin and bool(letters) and all(_is_latin(char) for char in letters)

    def eras(self, width: str) -> Mapping[int, str] | None:
        """Returns the names of the era before the common era (0) and of the common era (1)."""
        entries = {**self.table("eras", "abbreviated"), **self.table("eras", width)}
        return entries if {0, 1} <= entries.keys() else None

    def periods(self, width: str) -> Mapping[str, str]:
        """Returns the language's own names of periods of the day ("am", "pm", "noon", "morning1", ...).

        If a width has no name, another width's is used, so that Korean has its own words and not the root's AM and PM.
        """
        entries: dict[str, str] = {}
        for fallback in (*reversed(_WIDTHS), width):
            entries.update(self.table("day_periods", "format", fallback))
        return {period: name for period, name in entries.items() if name.strip()}

    @property
    def numbering_system(self) -> str:
        return self._data.get("default_numbering_system") or "latn"

    def number_symbols(self) -> Mapping[str, str]:
        """Returns the symbols of the language's default numbering system."""
        system = self.numbering_system
        symbols = dict(self.punctuation("number_symbols", "latn"))
        if system != "latn":
            symbols.update(self.punctuation("number_symbols", system))
        return symbols


def _is_latin(char: str) -> bool:
    return unicodedata.name(char, "").startswith("LATIN")


def _table(data: Mapping[Any, Any], path: tuple[Any, ...]) -> Mapping[Any, Any]:
    for key in path:
        entries = data.get(key)
        if isinstance(entries, tuple):  # in babel a tuple is an alias and the locale's own additions
            entries = entries[1]
        if not isinstance(entries, dict):
            return {}
        data = entries
    return data


def _alias_chain(context: str, width: str) -> list[tuple[str, str]]:
    """Returns the places to which the root locale's aliases lead, nearest first."""
    if width == "narrow":
        other = "stand-alone" if context == "format" else "format"
        return [(context, "narrow"), (other, "narrow")] if context == "format" else [(context, "narrow")]
    chain = [(context, width)]
    if context == "stand-alone":
        chain.append(("format", width))
    if width == "short":
        chain.append(("format", "abbreviated"))
    if width != "wide":
        chain.append(("format", "wide"))
    return chain
