"""The one table of languages: ISO 639-3 codes and names. Readers translate the codes of their data sets."""

from __future__ import annotations

import difflib
from functools import cache

import pycountry

# Collective codes of ISO 639-5 under which data sets of the field file several varieties.
_COLLECTIVE = {"nah": "Nahuatl languages", "oto": "Otomian languages"}


@cache
def language_name(code: str) -> str:
    """English name of an ISO 639-3 code; ValueError where there is none."""
    if code in _COLLECTIVE:
        return _COLLECTIVE[code]
    found = pycountry.languages.get(alpha_3=code)
    if found is None:
        raise ValueError(f"language={code}: {language_fault(code)}")
    return str(found.name).split(" (")[0]


@cache
def language_fault(code: str) -> str | None:
    """Why `code` is not a language's ISO 639-3 code, with what may have been meant; None if it is one."""
    if code in _COLLECTIVE or pycountry.languages.get(alpha_3=code) is not None:
        return None
    if (short := pycountry.languages.get(alpha_2=code)) is not None:
        return f"not an ISO 639-3 code; {short.name} is {short.alpha_3}"
    try:
        return f"not an ISO 639-3 code; did you mean {pycountry.languages.lookup(code).alpha_3}?"
    except LookupError:
        names = {language.name.lower(): language.alpha_3 for language in pycountry.languages}
        near = difflib.get_close_matches(code.lower(), names, n=1)
        return "not an ISO 639-3 code" + (f"; did you mean {names[near[0]]} ({near[0].title()})?" if near else "")
