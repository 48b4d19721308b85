"""One language's own data in CLDR, without what it inherits from other languages or from the root locale.

CLDR leaves out whatever a language inherits, so an absent word means that CLDR does not know it. Fallbacks *within* a
language (abbreviated months that are not abbreviated, stand-alone forms equal to the format forms) are CLDR's aliases
and are followed here. Punctuation that holds no words (number symbols, digit grouping, a bare comma) may come from
the root locale: there, absent means "as the root has it".
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
    """An instance of babel's reader with a cache of its own.

    `load(merge_inherited=False)` leaves unmerged data in the cache that `Locale` reads, which would break every other
    user of babel in the process.
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
    """What CLDR says about one language itself.

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
        """The mapping at `path`, empty where the language has none of its own (an alias is not its own)."""
        return _table(self._data, path)

    def value(self, *path: Any) -> Any:
        """The entry at `path`, or None."""
        return self.table(*path[:-1]).get(path[-1])

    def punctuation(self, *path: Any) -> Mapping[Any, Any]:
        """As `table`, completed with the root's: for entries without words only."""
        return {**_table(self._root, path), **self.table(*path)}

    def names(self, kind: str, context: str, width: str) -> Mapping[int, str] | None:
        """Names of months (1-12), days (Monday 0), or quarters (1-4), with CLDR's aliases inside the language.

        Args:
            kind: "months", "days" or "quarters".
            context: "format" or "stand-alone".
            width: "wide", "abbreviated", "narrow", or for days "short".
        Returns:
            None if a name is missing or is a bare key.
        """
        found: dict[int, str] = {}
        for source in reversed(_alias_chain(context, width)):
            found.update(self.table(kind, *source))
        complete = len(found) == _CALENDAR_SIZES[kind]
        if not complete or any(not name.strip() or _BARE_KEY.fullmatch(name) for name in found.values()):
            return None
        return found

    def is_foreign(self, text: str) -> bool:
        """Whether `text` is in Latin letters and the language is not: an English word left where none was known."""
        if self._writes_latin is None:
            months = self.names("months", "format", "wide") or {}
            self._writes_latin = any(_is_latin(char) for name in months.values() for char in name)
        letters = [char for char in text if char.isalpha()]
        return not self._writes_latin and bool(letters) and all(_is_latin(char) for char in letters)

    def eras(self, width: str) -> Mapping[int, str] | None:
        """Names of the era before (0) and of the common one (1)."""
        found = {**self.table("eras", "abbreviated"), **self.table("eras", width)}
        return found if {0, 1} <= found.keys() else None

    def periods(self, width: str) -> Mapping[str, str]:
        """Names of the periods of the day ("am", "pm", "noon", "morning1", ...) the language itself has.

        Where a width has no name, another has: Korean writes its own words, not the AM and PM of the root locale.
        """
        found: dict[str, str] = {}
        for fallback in (*reversed(_WIDTHS), width):
            found.update(self.table("day_periods", "format", fallback))
        return {period: name for period, name in found.items() if name.strip()}

    @property
    def numbering_system(self) -> str:
        return self._data.get("default_numbering_system") or "latn"

    def number_symbols(self) -> Mapping[str, str]:
        """Symbols of the language's default numbering system."""
        system = self.numbering_system
        symbols = dict(self.punctuation("number_symbols", "latn"))
        if system != "latn":
            symbols.update(self.punctuation("number_symbols", system))
        return symbols


def _is_latin(char: str) -> bool:
    return unicodedata.name(char, "").startswith("LATIN")


def _table(data: Mapping[Any, Any], path: tuple[Any, ...]) -> Mapping[Any, Any]:
    for key in path:
        found = data.get(key)
        if isinstance(found, tuple):  # babel: an alias and what the locale itself adds to it
            found = found[1]
        if not isinstance(found, dict):
            return {}
        data = found
    return data


def _alias_chain(context: str, width: str) -> list[tuple[str, str]]:
    """Where CLDR's root locale says to look, nearest first."""
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
