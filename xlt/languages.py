"""The one table of languages: ISO 639-3 codes, if need be with a script, and their names.

A language is written as its ISO 639-3 code (`ace`), or as a variety in one script, which adds the script's ISO 15924
code (`ace_Arab`). `ace`, `ace_Arab` and `ace_Latn` are three languages: each has its own data, module and column.
Readers translate the codes of their data sets.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from functools import cache

import pycountry

# Collective codes of ISO 639-5 under which data sets of the field file several varieties.
_COLLECTIVE = {"nah": "Nahuatl languages", "oto": "Otomian languages"}
_PARTS = re.compile(r"([A-Za-z]{2,3})[_-]([A-Za-z]{4})")
# Codes of ISO 15924 that name no script: symbols, unwritten or unknown text, codes for private use.
_NO_SCRIPT = re.compile("Z(inh|mth|sye|sym|xxx|yyy|zzz)|Qa[ab][a-z]")


def code_without_script(language: str) -> str:
    """Returns the ISO 639-3 code of a language: `ace` for `ace_Arab` and for `ace`."""
    return language.partition("_")[0]


def script_of(language: str) -> str | None:
    """Returns the ISO 15924 code of a language's script: `Arab` for `ace_Arab`; None where the language names none."""
    return language.partition("_")[2] or None


def same_code(language: str, among: Iterable[str]) -> list[str]:
    """Returns the other languages of `among` that have the same ISO 639-3 code, sorted."""
    code = code_without_script(language)
    return sorted({other for other in among if code_without_script(other) == code and other != language})


@cache
def language_name(language: str) -> str:
    """Returns the English name of a language, for instance "Acehnese" or "Acehnese (Arabic script)".

    Raises:
        ValueError: there is no such language.
    """
    if (fault := language_fault(language)) is not None:
        raise ValueError(f"language={language}: {fault}")
    code, script = code_without_script(language), script_of(language)
    name = _COLLECTIVE.get(code) or str(pycountry.languages.get(alpha_3=code).name).split(" (")[0]
    return name if script is None else f"{name} ({_script_name(script)} script)"


@cache
def language_fault(language: str) -> str | None:
    """Returns why `language` is no language, with what may have been meant; None if it is one."""
    code, separator, script = language.partition("_")
    if _is_code(code) and (not separator or _is_script(script)):
        return None
    if (parts := _PARTS.fullmatch(language)) is not None:
        own_fault = language_fault(parts[1].lower())
        right_script = parts[2].title()
        if own_fault is None and _is_script(right_script):
            return f"not an ISO 639-3 code with a script; did you mean {parts[1].lower()}_{right_script}?"
        if own_fault is None:
            return f"{right_script} is not an ISO 15924 code of a script"
    if (short := pycountry.languages.get(alpha_2=code)) is not None:
        return f"not an ISO 639-3 code; {short.name} is {short.alpha_3}"
    try:
        return f"not an ISO 639-3 code; did you mean {pycountry.languages.lookup(code).alpha_3}?"
    except LookupError:
        names = {language.name.lower(): language.alpha_3 for language in pycountry.languages}
        near = difflib.get_close_matches(code.lower(), names, n=1)
        return "not an ISO 639-3 code" + (f"; did you mean {names[near[0]]} ({near[0].title()})?" if near else "")


def _is_code(code: str) -> bool:
    """Returns whether `code` is an ISO 639-3 code, in small letters; pycountry takes capital letters, too."""
    return code in _COLLECTIVE or (code.islower() and pycountry.languages.get(alpha_3=code) is not None)


def _is_script(script: str) -> bool:
    """Returns whether `script` is the ISO 15924 code of a script, written `Arab`."""
    return script.istitle() and not _NO_SCRIPT.fullmatch(script) and pycountry.scripts.get(alpha_4=script) is not None


def _script_name(script: str) -> str:
    """Returns the English name of a script, without the further names that ISO 15924 lists."""
    name = str(pycountry.scripts.get(alpha_4=script).name)
    variant = re.fullmatch(r"(.+) \((.+) variant\)", name)
    return f"{variant[2]} {variant[1]}" if variant is not None else re.split(r" \(|, ", name)[0]
