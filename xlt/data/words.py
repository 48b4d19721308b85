"""Splits texts of any script into words or letters, to decide whether two texts are the same."""

from __future__ import annotations

import regex

# Scripts without spaces between words.
_UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tibetan}"
_WORDS = regex.compile(rf"(?V1)[[\p{{L}}\p{{N}}]&&[{_UNSPACED}]]\p{{M}}*|[[\p{{L}}\p{{M}}\p{{N}}_]--[{_UNSPACED}]]+")
_OTHERS = regex.compile(r"[^\p{L}\p{M}\p{N}]+")
_UNSPACED_LETTER = regex.compile(rf"[{_UNSPACED}]")


def words(text: str) -> list[str]:
    """Returns the words without regard to case; in a script without spaces each letter, with its marks, is a word."""
    return _WORDS.findall(text.casefold())


def word_count(text: str) -> int:
    """Estimates the number of words; in a script without spaces two letters count as one word."""
    text_words = words(text)
    unspaced = sum(1 for word in text_words if _UNSPACED_LETTER.match(word))
    return len(text_words) - unspaced + unspaced // 2


def letters(text: str) -> str:
    """Returns the letters with their marks, and the digits, without regard to case and without anything between."""
    return _OTHERS.sub("", text.casefold())
