"""Finds training examples whose texts are also in evaluation data."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from xlt.data.examples import Example
from xlt.data.overlap import texts_of
from xlt.data.words import letters, word_count

_MIN_WORDS = 4


class EvaluationTexts:
    """An index of evaluation texts.

    Texts count as equal if their letters and digits are equal, without regard to case. Texts of fewer than four words
    are not indexed, because they occur anywhere by chance.

    Args:
        examples: name of the source -> its examples.
    """

    def __init__(self, examples: Mapping[str, Iterable[Example]]) -> None:
        self._places = {
            text: f"{name} ({example.place})"
            for name, source_examples in examples.items()
            for example in source_examples
            for text in _comparable_texts(example)
        }

    def leaks(self, examples: Iterable[Example]) -> Iterator[tuple[str, str]]:
        """Yields, for each example with an evaluation text, its place and the place of the text in the evaluation."""
        for example in examples:
            texts = _comparable_texts(example)
            evaluation_place = next((self._places[text] for text in texts if text in self._places), None)
            if evaluation_place is not None:
                yield example.place, evaluation_place


def leak_fault(name: str, leaks: Iterable[tuple[str, str]]) -> str | None:
    """Returns one line about a training source with leaks; None if there are none.

    Args:
        name: config key of the source.
        leaks: as `EvaluationTexts.leaks` yields them.
    """
    places = list(leaks)
    if not places:
        return None
    place, evaluation_place = places[0]
    more = f" ({len(places) - 1} more examples are there, too)" if len(places) > 1 else ""
    return (
        f"{name}: {place}: its text is also in the evaluation data, in {evaluation_place}{more}; choose another split, "
        "list the evaluation's source in data.excluded, or set data.leaks=allow"
    )


def _comparable_texts(example: Example) -> Iterator[str]:
    """Yields the normalised texts that people wrote; translations are left out, as they can be equal by chance."""
    for text in example.untranslated or texts_of(example):
        if word_count(text) >= _MIN_WORDS:
            yield letters(text)
