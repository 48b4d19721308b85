"""Lists the languages of which a data set has data: those of its folder, or those that its config names."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path

from xlt.errors import UsageError
from xlt.languages import language_fault

EVERY = "*"
"""In a source's `languages`: every language of which the data set has data."""

_CODE = "{code}"
_LIKE_A_LANGUAGE = re.compile(r"[a-z]{2,3}([_-][A-Za-z]{4})?")


def languages_in(path: str, codes: Mapping[str, str], taken: Collection[Path] = ()) -> list[str]:
    """Returns the languages for which there is a file or folder at `path`, sorted.

    Names that cannot be meant as a language, such as README.md, are no languages.

    Args:
        path: with {code} in place of the data set's code of the language.
        codes: language -> the data set's code, where the two differ.
        taken: files and folders that are read for other entries; they are left out.
    Raises:
        UsageError: `path` has no {code}, or no language is there, or the name of a file or folder looks like a language
            but is none.
    """
    parts = Path(path).expanduser().parts
    at = next((number for number, part in enumerate(parts) if _CODE in part), None)
    if at is None:
        raise UsageError(f"languages=[{EVERY}]: path={path} has no {_CODE}, so that one place has all languages")
    folder = Path(*parts[:at])
    if not folder.is_dir():
        raise UsageError(f"languages=[{EVERY}]: {folder}: no such folder, whose content would be the languages")
    pattern = re.compile(re.escape(parts[at]).replace(re.escape(_CODE), "(?P<code>.+)", 1))
    names = {match["code"] for entry in folder.iterdir() if (match := pattern.fullmatch(entry.name)) is not None}
    language_of = {code: language for language, code in codes.items()}
    languages, faults = [], []
    for name in sorted(names):
        place = Path(path.replace(_CODE, name)).expanduser()
        language = language_of.get(name, name)
        if not place.exists() or place in taken or (name in codes and name not in language_of):
            continue
        fault = language_fault(language)
        if fault is None:
            languages.append(language)
        elif _LIKE_A_LANGUAGE.fullmatch(name):
            faults.append(f"languages=[{EVERY}]: {place}: {name} is {fault}; name its language in `codes`")
    if faults:
        raise UsageError(*faults)
    if not languages:
        raise UsageError(f"languages=[{EVERY}]: {folder} has no data of any language at {parts[at]}")
    return sorted(languages)
