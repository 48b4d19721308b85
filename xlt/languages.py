"""What a language is: an ISO 639-3 code, if need be with a script.

A language is written as its ISO 639-3 code (`ace`), or as a variety in one script, which adds the script's ISO 15924
code (`ace_Arab`). `ace`, `ace_Arab` and `ace_Latn` are three languages: each has its own data, module and column.
Readers translate the codes of their data sets.
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import cache

import pycountry

from xlt.language_codes import MACROLANGUAGES, NO_LANGUAGE, OTHER_CODES, RETIRED, SPLIT

# Collective codes of ISO 639-5 under which data sets of the field file several varieties.
_COLLECTIVE = {"nah": "Nahuatl languages", "oto": "Otomian languages"}
# Codes of ISO 15924 that name no script: symbols, unwritten or unknown text, codes for private use.
_NO_SCRIPT = re.compile("Z(inh|mth|sye|sym|xxx|yyy|zzz)|Q[a-z]{3}")
_PRIVATE_USE = re.compile("q[a-t][a-z]")
# What may follow language and script in a tag of BCP 47: a region, a variant, an extension or a private part.
_REGION = re.compile("[a-z]{2}|[0-9]{3}")
_FURTHER = re.compile("[a-z0-9]{5,8}|[0-9][a-z0-9]{3}|[a-z]")
_CHINESE_SCRIPTS = {"cn": "Hans", "sg": "Hans", "tw": "Hant", "hk": "Hant", "mo": "Hant"}
_NOT_A_CODE = "not an ISO 639-3 code"


def code_without_script(language: str) -> str:
    """Returns the ISO 639-3 code of a language: `ace` for `ace_Arab` and for `ace`."""
    return language.partition("_")[0]


def script_of(language: str) -> str | None:
    """Returns the ISO 15924 code of a language's script: `Arab` for `ace_Arab`; None where the language names none."""
    return language.partition("_")[2] or None


def near_languages(language: str, among: Iterable[str]) -> list[str]:
    """Returns the languages of `among` that `language` may have been taken for, sorted.

    They are the same code with or without another script, or are the macrolanguage or one of its languages: for `ace`
    these are `ace_Arab` and `ace_Latn`; for `swa` they are `swh` and `swh_Latn`, and the other way round.
    """
    code = code_without_script(language)
    members = MACROLANGUAGES.get(code, [])

    def is_near(other: str) -> bool:
        other_code = code_without_script(other)
        return other_code == code or other_code in members or code in MACROLANGUAGES.get(other_code, [])

    return sorted({other for other in among if other != language and is_near(other)})


@cache
def language_name(language: str) -> str:
    """Returns the English name of a language, for instance "Achinese" or "Achinese (Arabic script)".

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
    """Returns why `language` is no language, with what is surely meant; None if it is one.

    What is meant is a code in use for a retired one, a two-letter one, one of other catalogues (`bat-smg`) or a tag of
    BCP 47 (`az-Arab`), or the code of a language by its name. Codes that only look alike are not suggested.
    """
    code, separator, script = language.partition("_")
    if _is_code(code) and (not separator or _is_script(script)):
        return None
    parts = [part for part in re.split("[-_]", language.lower()) if part] or [""]
    tag = "-".join(parts)
    if tag in NO_LANGUAGE:
        return f"{_NOT_A_CODE}, and none has this meaning"
    if tag in OTHER_CODES:
        return f"{_NOT_A_CODE}; did you mean {_one_of(OTHER_CODES[tag])}?"
    codes = _codes(parts[0])
    if len(parts) == 1 or not codes or _plain(tag) in _names():
        return _code_fault(tag)
    return _tag_fault(codes, parts[1:])


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


def _codes(code: str) -> list[str]:
    """Returns the ISO 639-3 codes that a code in small letters means; several for a split language, or none."""
    if _is_code(code):
        return [code]
    known = pycountry.languages.get(alpha_2=code) or pycountry.languages.get(bibliographic=code)
    return [known.alpha_3] if known is not None else next((t[code] for t in _TABLES if code in t), [])


_TABLES = (RETIRED, SPLIT, OTHER_CODES)


def _code_fault(code: str) -> str:
    """Returns why a word in small letters, which may be a code or a name, is no ISO 639-3 code as it is written."""
    if code in RETIRED:
        return f"no longer an ISO 639-3 code; {_one_of(RETIRED[code])} took its place"
    if code in SPLIT:
        return f"no longer an ISO 639-3 code; it was split into {_listed(SPLIT[code], 'and')}"
    if (short := pycountry.languages.get(alpha_2=code)) is not None:
        return f"{_NOT_A_CODE}; {short.name.split(' (')[0]} is {short.alpha_3}"
    if (family := pycountry.language_families.get(alpha_3=code)) is not None and not _is_code(code):
        return f"{_NOT_A_CODE} but that of a group, {family.name}; choose one of its languages"
    if _PRIVATE_USE.fullmatch(code):
        return f"{_NOT_A_CODE}: qaa to qtz are for private use"
    meant = sorted({*_codes(code), *_names().get(_plain(code), ())})
    return _NOT_A_CODE + (f"; did you mean {_one_of(meant)}?" if meant else "")


def _tag_fault(codes: Sequence[str], rest: Sequence[str]) -> str:
    """Returns the fault of a tag of several parts, in small letters.

    Args:
        codes: ISO 639-3 codes that the first part means.
        rest: the other parts, such as a script and a region.
    """
    fault = "neither an ISO 639-3 code nor one with a script"
    if rest[0] in {member for code in codes for member in MACROLANGUAGES.get(code, [])}:
        codes, rest = [rest[0]], rest[1:]  # zh-yue
    script = ""
    if rest and re.fullmatch("[a-z]{4}", rest[0]):
        script, rest = rest[0].title(), rest[1:]
        if not _is_script(script):
            return f"not a language in a script: {script} is not an ISO 15924 code of a script"
    if rest and _REGION.fullmatch(rest[0]):
        if not script and list(codes) == ["zho"]:
            script = _CHINESE_SCRIPTS.get(rest[0], "")
        rest = rest[1:]
    if rest and not _FURTHER.fullmatch(rest[0]):
        return fault
    meant = [f"{code}_{script}" if script else code for code in codes]
    return f"{fault}; did you mean {_one_of(meant)}?"


@cache
def _names() -> dict[str, set[str]]:
    """Returns English name -> codes of the languages that ISO 639-3 or CLDR calls so.

    Only equal names count: the most similar name is often that of another language (Aromanian, Romanian).
    """
    import babel

    names: dict[str, set[str]] = defaultdict(set)
    for language in pycountry.languages:
        for name in (language.name, language.name.split(" (")[0], getattr(language, "common_name", "")):
            names[_plain(name)].add(language.alpha_3)
    for tag, name in babel.Locale("en").languages.items():
        if "_" not in tag:
            names[_plain(name)].update(_codes(tag))
    names.pop("", None)
    return dict(names)


def _plain(name: str) -> str:
    """Returns the letters of a name in small letters, without marks: a name as somebody types it."""
    return "".join(letter for letter in unicodedata.normalize("NFD", name.lower()) if letter.isalpha())


def _one_of(languages: Sequence[str]) -> str:
    return _listed(languages, "or")


def _listed(words: Sequence[str], last: str) -> str:
    return f" {last} ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
