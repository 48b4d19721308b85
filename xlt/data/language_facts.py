"""Facts about a language that explain its scores: its script and family, and how a tokenizer cuts its text."""

from __future__ import annotations

import importlib.resources
import importlib.util
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

import numpy as np
import pycountry
import regex

from xlt.data.encoding import Encoder
from xlt.data.typology import Typology
from xlt.data.words import word_count
from xlt.language_codes import MACROLANGUAGES
from xlt.languages import code_without_script

_PACKAGE = "urielplus"
_LETTER = regex.compile(r"\p{L}")
_JAPANESE = {"Hira", "Kana"}


@dataclass(frozen=True)
class LanguageFacts:
    """Facts about the language of an evaluation source.

    Attributes:
        language: its code.
        script: ISO 15924 code of the script of most letters of its text; Chinese is Hani, whichever its characters.
        family: the name of its family in URIEL; None if URIEL has none or is not installed.
        similarity: cosine similarity of its typological vector in URIEL to that of the source language; None if one
            of them has no vector.
        pieces_per_word: pieces of the tokenizer for a word. In scripts without spaces two letters count as a word.
        unknown_share: share of pieces, in [0, 1], that are the unknown token.
    """

    language: str
    script: str | None
    family: str | None
    similarity: float | None
    pieces_per_word: float
    unknown_share: float


def language_facts(
    language: str, texts: Iterable[str], encoder: Encoder, typology: Typology | None, source_language: str
) -> LanguageFacts:
    """Computes the facts about a language from some of its text.

    Args:
        language: its code.
        texts: at least one.
        encoder: the tokenizer.
        typology: URIEL's vectors; None if there are none here.
        source_language: code of the language that a model is trained on.
    """
    texts = list(texts)
    pieces = [token for ids in encoder.lines(texts) for token in ids]
    words = sum(map(word_count, texts))
    unknown = encoder.tokenizer.unk_token_id
    similarity = None
    if typology is not None and language in typology and source_language in typology:
        similarity = typology.similarity(language, source_language)
    return LanguageFacts(
        language=language,
        script=script_of_text(texts),
        family=family_of(language),
        similarity=similarity,
        pieces_per_word=len(pieces) / max(words, 1),
        unknown_share=pieces.count(unknown) / max(len(pieces), 1) if unknown is not None else 0.0,
    )


def script_of_text(texts: Iterable[str]) -> str | None:
    """Returns the ISO 15924 code of the script of most letters; None without letters.

    A text with kana is Japanese (Jpan), though many of its letters are Chinese characters.
    """
    letters = Counter(letter for text in texts for letter in _LETTER.findall(text))
    scripts: Counter[str] = Counter()
    for letter, count in letters.items():
        if (script := _script_of_letter(letter)) is not None:
            scripts[script] += count
    total = scripts.total()
    if sum(scripts[script] for script in _JAPANESE) > 0.1 * total:
        return "Jpan"
    return max(scripts, key=scripts.__getitem__) if total else None


@cache
def _script_of_letter(letter: str) -> str | None:
    return next((code for code, pattern in _patterns().items() if pattern.match(letter)), None)


@cache
def _patterns() -> dict[str, regex.Pattern[str]]:
    """Returns ISO 15924 code -> pattern of a letter of the script, for the scripts that Unicode has letters of."""
    patterns = {}
    for script in pycountry.scripts:
        if script.alpha_4 not in ("Zyyy", "Zinh", "Zzzz"):
            try:
                patterns[script.alpha_4] = regex.compile(rf"\p{{sc={script.alpha_4}}}")
            except regex.error:  # Unicode does not tell it apart, as Hans from Hant
                continue
    return patterns


def script_name(script: str | None) -> str:
    """Returns the English name of a script, in one or two words."""
    if script is None:
        return "unknown"
    if script in ("Hani", "Jpan"):
        return {"Hani": "Chinese", "Jpan": "Japanese"}[script]
    found = pycountry.scripts.get(alpha_4=script)
    return script if found is None else str(found.name).split(" (")[0].split(",")[0]


def family_of(language: str) -> str | None:
    """Returns the name of a language's family in URIEL, which has it from Glottolog; None if URIEL does not know.

    URIEL lists all groups of a language, from its family down to its own branch. The family is the one with the most
    languages. A language that URIEL lists only as a part of a macrolanguage (nob, nno of nor) has the macrolanguage's
    family.
    """
    code = code_without_script(language)
    macro = next((macro for macro, members in MACROLANGUAGES.items() if code in members), code)
    return _families().get(code) or _families().get(macro)


@cache
def _families() -> dict[str, str]:
    if importlib.util.find_spec(_PACKAGE) is None:
        return {}
    file = importlib.resources.files(_PACKAGE) / "database" / "original_uriel" / "family_features.npz"
    with file.open("rb") as stream, np.load(stream, allow_pickle=False) as table:
        codes, names, data = table["langs"], table["feats"], table["data"].max(axis=2) > 0
    sizes = data.sum(axis=0)
    largest = np.where(data, sizes, -1).argmax(axis=1)
    has_family = data.any(axis=1)
    families = (str(names[column]).removeprefix("F_") for column in largest)
    return {str(code): family for code, family, known in zip(codes, families, has_family, strict=True) if known}
