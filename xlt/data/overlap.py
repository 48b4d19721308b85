"""Finds training examples that repeat a text which must not be learned, literally or edited.

NusaX consists of translations of SMSA texts, many of them edited. The thesis leaves every such example out of training
"in its original or modified form" (Table 6.1). Two texts count as equal if their letters and digits are, without regard
to case. One counts as an edited copy of the other if they share a fifth of their word trigrams (Jaccard index). Of
SMSA's 11,000 training texts, 219 equal a NusaX test text in this sense and 156 more share a fifth or more of the
trigrams with one; nearly all others share less than a tenth.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator

from xlt.data.examples import Example
from xlt.data.running_text import joined
from xlt.data.words import letters, words

_MIN_SHARED = 0.2
_WORDS_OF_TRIGRAM = 3


class Overlap:
    """An index of texts that must not be learned.

    Args:
        texts: of the index.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        self._letters: set[str] = set()
        self._sizes: list[int] = []
        self._texts_with: dict[tuple[str, ...], list[int]] = defaultdict(list)
        self._overlapping: dict[str, set[int]] = {}
        for text in texts:
            trigrams = _trigrams(text)
            if (same := letters(text)) in self._letters:
                continue
            self._letters.add(same)
            for trigram in trigrams:
                self._texts_with[trigram].append(len(self._sizes))
            self._sizes.append(len(trigrams))

    def holds(self, example: Example) -> bool:
        """Returns whether a text of the example, or its original, equals an indexed one or is an edited copy of it."""
        return any(self._holds(text) for text in (*texts_of(example), *example.untranslated))

    def apart(self, content: str, examples: Iterable[Example]) -> Iterator[Example]:
        """Yields the examples that the index does not hold.

        Args:
            content: cache key; a known key reuses the earlier result.
            examples: for the same key always the same ones, in the same order.
        """
        cached = self._overlapping.get(content)
        overlapping = set()
        for number, example in enumerate(examples):
            if (number in cached) if cached is not None else self.holds(example):
                overlapping.add(number)
            else:
                yield example
        self._overlapping[content] = overlapping

    def _holds(self, text: str) -> bool:
        if letters(text) in self._letters:
            return True
        trigrams = _trigrams(text)
        shared = Counter(number for trigram in trigrams for number in self._texts_with.get(trigram, ()))
        return any(
            count >= _MIN_SHARED * (len(trigrams) + self._sizes[number] - count) for number, count in shared.items()
        )


def texts_of(example: Example) -> list[str]:
    """Returns the running texts of an example; if it has words only, the words joined as their scripts are written."""
    texts = [text for text in (example.text, example.pair) if text is not None]
    return texts or [joined(example.words or ())]


def _trigrams(text: str) -> set[tuple[str, ...]]:
    """Returns the trigrams of a text; a text of fewer than three words is one trigram."""
    text_words = words(text)
    return {
        tuple(text_words[at : at + _WORDS_OF_TRIGRAM]) for at in range(max(1, len(text_words) - _WORDS_OF_TRIGRAM + 1))
    }
