"""Finds the running text in which the words of a sentence stand, so that a tokenizer cuts them as in pre-training.

Most tokenizers cut a word otherwise without the text around it: in GPT-2's vocabulary `cat` at the start of a text and
` cat` after a space are two pieces. The words of a sentence are therefore never tokenized one by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from difflib import SequenceMatcher
from typing import Any, NamedTuple

import regex

# Chinese and Japanese letters and punctuation, which have no space at either side, also next to letters and digits of
# other scripts; and scripts without spaces between words, but with spaces between their words and those of others.
_CLOSED = (
    r"\p{Han}\p{Hiragana}\p{Katakana}\u3001-\u303F\u30FB\u30FC\uFF01-\uFF0F\uFF1A-\uFF20\uFF3B-\uFF40\uFF5B-\uFF65"
)
_CHAINED = r"\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tibetan}"
_LETTER, _CLOSED_LETTER = regex.compile(r"\p{L}"), regex.compile(rf"(?V1)[\p{{L}}&&[{_CLOSED}]]")
# Matches the end of a text, a line feed, and the first character of a word after it, if no space stands between them.
_NO_SPACE = regex.compile(rf"[{_CLOSED}]\p{{M}}*\n[{_CLOSED}]\Z|[{_CHAINED}]\p{{M}}*\n[{_CHAINED}]\Z")
_NO_SPACE_IN_CLOSED = regex.compile(rf"(?s)[{_CLOSED}]\p{{M}}*\n.\Z|\n[{_CLOSED}]\Z|{_NO_SPACE.pattern}")


class RunningText(NamedTuple):
    """A text that has all words of a sentence, in their order.

    Attributes:
        text: the text.
        starts: number of the character with which each word begins; None for a word of white space alone, which is
            not looked for in the text.
    """

    text: str
    starts: list[int | None]


def joined(words: Sequence[str]) -> str:
    """Joins words as their scripts are written: with a space, but without one in scripts that have none.

    A sentence is taken as Chinese or Japanese if at least half of its words have a letter of these scripts; words of
    other scripts and numbers then have no space at their sides, either.
    """
    return _build(words, None, []).text


def running_text(words: Sequence[str], text: str | None) -> RunningText:
    """Returns the text of a sentence with all its words.

    Where the text does not spell a word, the word replaces what the text has there: `della casa` with the words `di`,
    `la` and `casa` becomes `di la casa`. Text between words that spells none stays.

    Args:
        words: of the sentence.
        text: the text of the sentence as people wrote it; None: unknown, the words are joined (`joined`).
    """
    return _build(words, text, _places(words, text) if text is not None else [])


def _build(words: Sequence[str], text: str | None, places: Sequence[tuple[int, int] | None]) -> RunningText:
    """Writes the running text from left to right.

    Args:
        words: of the sentence.
        text: None or the text that `places` are places in.
        places: (start, end) of each word in `text`, None where it has no place; empty: no word has one.
    """
    closed, with_letters = (sum(1 for word in words if letter.search(word)) for letter in (_CLOSED_LETTER, _LETTER))
    no_space = _NO_SPACE_IN_CLOSED if 2 * closed >= with_letters else _NO_SPACE
    whole, starts = "", list[int | None]()
    at, replaces = 0, False  # end of the last word with a place; whether the word before has none
    for number, word in enumerate(words):
        place = places[number] if places else None
        if not word.strip():
            starts.append(None)
        elif text is not None and place is not None:
            between = text[at : place[0]]
            whole += _space(whole, word, no_space) if replaces else between
            starts.append(len(whole))
            whole += text[place[0] : place[1]]
            at, replaces = place[1], False
        else:
            whole += _space(whole, word, no_space)
            starts.append(len(whole))
            whole += word
            replaces = True
    return RunningText(whole if replaces or text is None else whole + text[at:], starts)


def _space(before: str, word: str, no_space: Any) -> str:
    """Returns what stands between a text and the word after it: a space or nothing."""
    ends_open = not before or before[-1].isspace()
    return "" if ends_open or no_space.search(f"{before[-8:]}\n{word[0]}") else " "


def _places(words: Sequence[str], text: str) -> list[tuple[int, int] | None]:
    """Finds each word's (start, end) in the text, whatever the white space in either; None for words not in the text.

    If the words do not make up the text, characters of both are aligned by the longest common blocks. A word has a
    place if it lies in one block.
    """
    at = [place for place, character in enumerate(text) if not character.isspace()]
    visible = "".join(text[place] for place in at)
    bare = ["".join(word.split()) for word in words]
    spelled = "".join(bare)
    if spelled == visible:
        blocks = [(0, 0, len(visible))]
    else:
        matches = SequenceMatcher(None, spelled, visible, autojunk=False).get_matching_blocks()
        blocks = [(block.a, block.b, block.size) for block in matches]
    result: list[tuple[int, int] | None] = []
    start, block = 0, 0
    for word in bare:
        end = start + len(word)
        while block < len(blocks) and blocks[block][0] + blocks[block][2] < end:
            block += 1
        place = None
        if word and block < len(blocks) and blocks[block][0] <= start:
            first = blocks[block][1] + start - blocks[block][0]
            place = (at[first], at[first + len(word) - 1] + 1)
        result.append(place)
        start = end
    return result
