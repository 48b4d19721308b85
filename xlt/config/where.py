"""The rules of a source's key `where`, which says what rows are read: their names, and the faults of a config's rules.

A rule is a value (`label: neutral`), a list of values (`label: [neutral, entailment]`), or a mapping of the names below
(`text: {min_words: 3, not: "?"}`), all of which a row must meet. A mapping with other names holds rules for the parts
of a nested column.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

RULES = {
    "not": "a value, or a list of values, that no row may have; in a list of words or tags, no item",
    "contains": "a value that must be an item of a list of words or tags",
    "not_empty": "true: no empty text or list, null or NaN; in a list, no empty item",
    "min_words": "smallest number of words",
    "max_words": "largest number of words",
    "at_least": "smallest number",
    "at_most": "largest number",
    "matches": "a regular expression that must occur in the text",
}
"""Name of a rule -> its value, in words."""

Rules = dict[str, dict[str, Any]]
"""Column, with dots between the parts of a nested one -> name of a rule -> its value; `is` has a list of values."""


def where_rules(where: Mapping[str, Any], prefix: str = "") -> Rules:
    """Returns the rules for each column, in one form."""
    rules: Rules = {}
    for column, rule in where.items():
        name = f"{prefix}{column}"
        if not isinstance(rule, Mapping):
            rules[name] = {"is": _listed(rule)}
        elif rule and not set(rule) & set(RULES):
            rules |= where_rules(rule, f"{name}.")
        else:
            rules[name] = {key: _listed(value) if key == "not" else value for key, value in rule.items()}
    return rules


def where_faults(where: Mapping[str, Any], prefix: str) -> Iterator[str]:
    """Yields a line for each rule that has no such name, or a value of the wrong type.

    Args:
        where: of a source.
        prefix: key of `where` in the whole config.
    """
    for column, rules in where_rules(where).items():
        for name, value in rules.items():
            if name == "is":
                if not value:
                    yield f"{prefix}.{column}=[]: no row has one of no values; list the values that are read"
                continue
            fault = _fault(name, value)
            if fault is not None:
                yield f"{prefix}.{column}.{name}={value}: {fault}"
        if not rules:
            yield f"{prefix}.{column}={{}}: no rule; there are {', '.join(RULES)}"


def _fault(name: str, value: Any) -> str | None:
    """Returns why a rule with this name cannot have this value."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if name not in RULES:
        return f"no such rule; there are {', '.join(RULES)}"
    if name == "not_empty" and value is not True:
        return "must be true; leave the rule out if empty rows are wanted"
    if name in ("min_words", "max_words") and not (number and isinstance(value, int) and value >= 0):
        return "must be a whole number, from 0"
    if name in ("at_least", "at_most") and not number:
        return "must be a number"
    if name == "contains" and not isinstance(value, (str, int, float)):
        return "must be one value"
    if name == "matches":
        try:
            re.compile(value)
        except (re.error, TypeError) as error:
            return f"not a regular expression: {error}"
    return None


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value]
