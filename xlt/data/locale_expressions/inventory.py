"""The inventory of all forms of a language, compiled once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property

from xlt.data.locale_expressions.cldr import OwnData
from xlt.data.locale_expressions.digits import NumberWriter
from xlt.data.locale_expressions.forms import KINDS, Form, ListPattern, list_patterns
from xlt.data.locale_expressions.moments import moment_forms
from xlt.data.locale_expressions.quantities import quantity_forms

_FEWEST_DATES = 3
_FEWEST_TIMED = 12
_FEWEST_NAMED = 3


@dataclass(frozen=True)
class Inventory:
    """The forms of one language, or the ones two languages share.

    Attributes:
        forms: by kind, then by group; sorted by key. Kinds without forms are absent.
        lists: list patterns by style.
    """

    forms: Mapping[str, tuple[tuple[Form, ...], ...]]
    lists: Mapping[str, ListPattern]

    def count(self, kind: str) -> int:
        return sum(len(group) for group in self.forms.get(kind, ()))

    @cached_property
    def by_key(self) -> dict[str, Form]:
        return {form.key: form for groups in self.forms.values() for group in groups for form in group}


@cache
def inventory(locale: str) -> Inventory:
    """Compiles the inventory of a language from the own data of its CLDR locale.

    Raises:
        OSError: babel has no such locale.
    """
    own = OwnData(locale)
    numbers = NumberWriter(own)
    lists = list_patterns(own)
    return Inventory(_grouped([*moment_forms(own, numbers), *quantity_forms(own, numbers, lists)]), lists)


@cache
def shared_inventory(source: str, target: str) -> Inventory:
    """Returns the source's forms that the target also has, for the same fields, with the source's list patterns."""
    first, second = inventory(source), inventory(target)
    others = second.by_key
    common = [
        form
        for key, form in first.by_key.items()
        if key in others and others[key].shows == form.shows and others[key].kind == form.kind
    ]
    lists = {style: pattern for style, pattern in first.lists.items() if style in second.lists}
    return Inventory(_grouped(common), lists)


def _grouped(forms: Iterable[Form]) -> dict[str, tuple[tuple[Form, ...], ...]]:
    sorted_forms = sorted(forms, key=lambda form: form.key)
    grouped: dict[str, tuple[tuple[Form, ...], ...]] = {}
    for kind in KINDS:
        groups: dict[str, list[Form]] = {}
        for form in sorted_forms:
            if form.kind == kind:
                groups.setdefault(form.group, []).append(form)
        if groups:
            grouped[kind] = tuple(tuple(groups[name]) for name in sorted(groups))
    return grouped


def is_rich_enough(locale: str) -> bool:
    """Whether CLDR knows the language well enough to be in the corpus.

    It must name its months and weekdays, have a dozen patterns of its own with dates or times, at least three of them
    with dates, and a few currencies or units by name.
    """
    own = OwnData(locale)
    if own.names("months", "format", "wide") is None or own.names("days", "format", "wide") is None:
        return False
    forms = inventory(locale).by_key.values()
    dates = sum("M" in form.shows for form in forms)
    timed = sum(bool(form.shows) for form in forms)
    named = sum(form.kind == "measure" or (form.kind == "amount" and form.group == "name") for form in forms)
    return dates >= _FEWEST_DATES and timed >= _FEWEST_TIMED and named >= _FEWEST_NAMED
