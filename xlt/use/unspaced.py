"""Notices texts in scripts that have no spaces between words, before a task labels their words."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import regex

from xlt.escapes import say
from xlt.use.texts import Entry

# Unicode's name of a script -> the name in messages. In the first ones `words_of` takes each letter for a word, in the
# others all that stands between two blanks. Kana stand before Han, because Japanese has both.
_LETTERS = {
    "Hiragana": "Japanese", "Katakana": "Japanese", "Han": "Chinese", "Thai": "Thai", "Lao": "Lao", "Khmer": "Khmer",
    "Myanmar": "Burmese", "Tibetan": "Tibetan",
}  # fmt: skip
_WHOLE = {
    "Javanese": "Javanese", "Balinese": "Balinese", "Tai_Le": "Tai Le", "New_Tai_Lue": "New Tai Lue",
    "Tai_Tham": "Tai Tham", "Tai_Viet": "Tai Viet", "Yi": "Yi",
}  # fmt: skip
# Two letters side by side; a single one can be a word in other text.
_PAIRS = {name: regex.compile(rf"\p{{{name}}}\p{{M}}*\p{{{name}}}") for name in (*_LETTERS, *_WHOLE)}
_ANY = regex.compile("|".join(pair.pattern for pair in _PAIRS.values()))


@dataclass
class UnspacedTexts:
    """Counts texts whose words were taken from a script without spaces between them.

    Attributes:
        texts: number of texts that were looked at.
        found: number of those in such a script.
        place: of the first of them.
        script: Unicode's name of its script.
    """

    texts: int = 0
    found: int = 0
    place: str = ""
    script: str = ""

    def look_at(self, entries: Iterable[Entry]) -> None:
        """Counts the entries whose words were split from their text."""
        for entry in entries:
            if entry.example is None or not entry.was_split:
                continue
            self.texts += 1
            if _ANY.search(text := str(entry.example.text)) is not None:
                self.found += 1
                self.place = self.place or entry.example.place
                self.script = self.script or next(name for name, pair in _PAIRS.items() if pair.search(text))

    def say(self) -> None:
        """Prints a line if there are such texts: what is labelled, and what to do."""
        if not self.found:
            return
        what = "each letter" if self.script in _LETTERS else "all that stands between two blanks"
        name = {**_LETTERS, **_WHOLE}[self.script]
        of = f"{self.found:,} of {self.texts:,} texts, first {self.place}" if self.texts > 1 else self.place
        say(
            f"xlt: {of}: the {name} script has no spaces between words, so {what} is labelled as one word; split the "
            "texts into words first, and give them with blanks between the words and --from words"
        )
