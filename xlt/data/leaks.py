"""Training sentences that stand in an evaluation split, the same or in one's translation data."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from xlt.data.examples import Example
from xlt.data.overlap import texts_of
from xlt.data.words import letters, word_count

_FEWEST_WORDS = 4


class EvaluationTexts:
    """An index of the texts that something is evaluated on.

    A text is found again by its letters and digits, case apart. Those of fewer than four words are not held: anybody
    says them.

    Args:
        examples: by the name of their source.
    """

    def __init__(self, examples: Mapping[str, Iterable[Example]]) -> None:
        self._places = {
            text: f"{name} ({example.place})"
            for name, some in examples.items()
            for example in some
            for text in _kept(example)
        }

    def leaks(self, examples: Iterable[Example]) -> Iterator[tuple[str, str]]:
        """Place of each example with such a text, and the place that the text has in the evaluation."""
        for example in examples:
            found = next((self._places[text] for text in _kept(example) if text in self._places), None)
            if found is not None:
                yield example.place, found


def leak_fault(name: str, leaks: Iterable[tuple[str, str]]) -> str | None:
    """One line about a training source with leaks; None if there are none.

    Args:
        name: of the source's key.
        leaks: as from `EvaluationTexts.leaks`.
    """
    found = list(leaks)
    if not found:
        return None
    place, where = found[0]
    more = f", and {len(found) - 1} more such" if len(found) > 1 else ""
    return (
        f"{name}: {place}: its text is evaluated on, in {where}{more}; take another split, name the evaluation's "
        "source in data.excluded, or give data.leaks=allow"
    )


def _kept(example: Example) -> Iterator[str]:
    """The texts that people wrote: what a translator makes of one can be another by chance."""
    for text in example.untranslated or texts_of(example):
        if word_count(text) >= _FEWEST_WORDS:
            yield letters(text)
