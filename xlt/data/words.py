"""Words and letters of a text in any script, for telling whether two texts are the same."""

from __future__ import annotations

import regex

# Scripts that put no space between words.
_UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tibetan}"
_WORDS = regex.compile(rf"(?V1)[[\p{{L}}\p{{N}}]&&[{_UNSPACED}]]\p{{M}}*|[[\p{{L}}\p{{M}}\p{{N}}_]--[{_UNSPACED}]]+")
_OTHERS = regex.compile(r"[^\p{L}\p{M}\p{N}]+")
_UNSPACED_LETTER = regex.compile(rf"[{_UNSPACED}]")


def words(text: str) -> list[str]:
    """The words, case apart; a letter with its marks where a script puts no space between words."""
    return _WORDS.findall(text.casefold())


def word_count(text: str) -> int:
    """How many words there are, about: two letters make one where a script puts no space between words."""
    found = words(text)
    unspaced = sum(1 for word in found if _UNSPACED_LETTER.match(word))
    return len(found) - unspaced + unspaced // 2


def letters(text: str) -> str:
    """Letters, their marks, and digits, case apart, and nothing between them."""
    return _OTHERS.sub("", text.casefold())
