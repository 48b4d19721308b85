"""Which training examples repeat text that must not be learned from, word for word or edited.

NusaX was made from SMSA texts, many of them edited first; the thesis leaves every such example out of training "in its
original or modified form" (Table 6.1). Equal is: the same letters and digits, case apart. Edited is: the two texts
share a fifth of their word trigrams (Jaccard index). Of SMSA's 11,000 training texts 219 so equal a NusaX test text and
156 more share a fifth or more with one; nearly all others share less than a tenth.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator

from xlt.data.examples import Example
from xlt.data.words import letters, words

_EDITED = 0.2
_SPAN = 3


class Overlap:
    """An index of texts.

    Args:
        texts: those that must not be learned from.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        self._letters: set[str] = set()
        self._sizes: list[int] = []
        self._texts_with: dict[tuple[str, ...], list[int]] = defaultdict(list)
        self._found: dict[str, set[int]] = {}
        for text in texts:
            trigrams = _trigrams(text)
            if (same := letters(text)) in self._letters:
                continue
            self._letters.add(same)
            for trigram in trigrams:
                self._texts_with[trigram].append(len(self._sizes))
            self._sizes.append(len(trigrams))

    def holds(self, example: Example) -> bool:
        """Whether a text of the example equals one of the index, or is an edited copy, or a translation of either."""
        return any(self._holds(text) for text in (*texts_of(example), *example.untranslated))

    def apart(self, content: str, examples: Iterable[Example]) -> Iterator[Example]:
        """The examples that the index does not hold.

        Args:
            content: names the examples; those by a name that were gone through before are not compared again.
            examples: what is read; the same ones, in the same order, for the same name.
        """
        known = self._found.get(content)
        found = set()
        for number, example in enumerate(examples):
            if (number in known) if known is not None else self.holds(example):
                found.add(number)
            else:
                yield example
        self._found[content] = found

    def _holds(self, text: str) -> bool:
        if letters(text) in self._letters:
            return True
        trigrams = _trigrams(text)
        shared = Counter(number for trigram in trigrams for number in self._texts_with.get(trigram, ()))
        return any(count >= _EDITED * (len(trigrams) + self._sizes[number] - count) for number, count in shared.items())


def texts_of(example: Example) -> list[str]:
    """The running texts of an example; its words joined where it has only them."""
    texts = [text for text in (example.text, example.pair) if text is not None]
    return texts or [" ".join(example.words or ())]


def _trigrams(text: str) -> set[tuple[str, ...]]:
    found = words(text)
    return {tuple(found[at : at + _SPAN]) for at in range(max(1, len(found) - _SPAN + 1))}
