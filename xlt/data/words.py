"""Splits texts of any script into words or letters, to decide whether two texts are the same."""

from __future__ import annotations

import unicodedata

import regex

# Scripts without spaces between words.
_UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tibetan}"
_WORDS = regex.compile(rf"(?V1)[[\p{{L}}\p{{N}}]&&[{_UNSPACED}]]\p{{M}}*|[[\p{{L}}\p{{M}}\p{{N}}_]--[{_UNSPACED}]]+")
# Among the others are the letters that have the form of an apostrophe, because texts have either.
_OTHERS = regex.compile(r"[^\p{L}\p{M}\p{N}]+|[\u02b9\u02bb\u02bc\u02bd\u02c8\ua78c]+")
_UNSPACED_LETTER = regex.compile(rf"[{_UNSPACED}]")

# Characters without effect on what is written: soft hyphens, joiners, direction marks, variation selectors; and Arabic
# letters drawn longer (tatweel).
_INVISIBLE = regex.compile(r"[\p{Default_Ignorable_Code_Point}\u0640]+")
# Letters whose single characters Unicode does not decompose to the sequences that were written before they existed:
# Malayalam chillu letters, Bengali khanda ta. Turkish has two letters i, whose capitals are I and İ.
_SAME = {0x0D7A: "\u0d23\u0d4d", 0x0D7B: "\u0d28\u0d4d", 0x0D7C: "\u0d30\u0d4d", 0x0D7D: "\u0d32\u0d4d"}
_SAME |= {0x0D7E: "\u0d33\u0d4d", 0x0D7F: "\u0d15\u0d4d", 0x09CE: "\u09a4\u09cd"}
_SAME[0x0131] = "i"


def comparable(text: str) -> str:
    """Returns the form of a text in which it is compared with others.

    Texts that differ only in case, normalisation (NFC, NFD, NFKC, NFKD), width, presentation forms or invisible
    characters have the same form (Unicode, D146: compatibility caseless matching).
    """
    if text.isascii():
        return text.casefold()
    visible = _INVISIBLE.sub("", unicodedata.normalize("NFKD", text)).translate(_SAME)
    folded = unicodedata.normalize("NFKD", visible.casefold()).casefold()
    return unicodedata.normalize("NFC", folded).replace("i\u0307", "i")


def words(text: str) -> list[str]:
    """Returns the words without regard to case; in a script without spaces each letter, with its marks, is a word."""
    return _WORDS.findall(comparable(text))


def word_count(text: str) -> int:
    """Estimates the number of words; in a script without spaces two letters count as one word."""
    text_words = words(text)
    unspaced = sum(1 for word in text_words if _UNSPACED_LETTER.match(word))
    return len(text_words) - unspaced + unspaced // 2


def letters(text: str) -> str:
    """Returns the letters with their marks, and the digits, without regard to case and without anything between."""
    return _OTHERS.sub("", comparable(text))
