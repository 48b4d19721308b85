"""Generates locale expressions of one language, or pairs with the same values in two languages."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import accumulate
from random import Random
from typing import Any

from xlt.data.locale_expressions.forms import Form, ListPattern
from xlt.data.locale_expressions.inventory import Inventory, inventory, shared_inventory
from xlt.data.locale_expressions.languages import LANGUAGES
from xlt.data.locale_expressions.pieces import Piece, assemble
from xlt.data.locale_expressions.values import SPLITS

CORPUS_VERSION = "1"
"""Changes whenever the same call would return another text; with babel's version it identifies the corpus."""

MOST_EXPRESSIONS = 1_000_000

_MIN_WORDS, _MAX_WORDS = 4, 16
_KIND_WEIGHTS = {
    "date": 24,
    "time": 9,
    "datetime": 10,
    "interval": 14,
    "number": 7,
    "percent": 4,
    "compact": 5,
    "amount": 13,
    "measure": 10,
    "duration": 4,
}
_LIST_WEIGHTS = {"standard": 10, "or": 4, "standard-short": 2}
_ITEM_COUNTS = (1, 2, 3, 4)
_ITEM_WEIGHTS = (3, 7, 10, 11)  # cumulative
_MAX_REJECTIONS = 10_000  # number of consecutive unusable texts after which a call gives up


@dataclass(frozen=True)
class Expression:
    """A text of dates, numbers and the like, with its labelled words.

    Attributes:
        text: with the language's own spacing, digits and directional marks.
        words: without white space; joined without spaces they are the text without spaces. Fields and literals of a
            pattern are separate words, even in scripts without spaces.
        labels: one of `LABELS` for each word.
        kind: the kinds of its values, joined by "+": "date", "amount+measure", ...
    """

    text: str
    words: tuple[str, ...]
    labels: tuple[str, ...]
    kind: str

    @property
    def first_kind(self) -> str:
        """The kind of the first value."""
        return self.kind.partition("+")[0]


def available_languages() -> tuple[str, ...]:
    """Returns the ISO 639-3 codes of all languages with expressions, sorted."""
    return tuple(LANGUAGES)


def expressions(language: str, split: str, count: int, seed: int = 0) -> list[Expression]:
    """Generates `count` expressions with distinct texts.

    With the same version of babel, the same arguments give the same list on every machine, and a longer list begins
    with the shorter one. No value of a split is in another split, in any language, with any seed.

    Args:
        language: ISO 639-3 code.
        split: "train", "dev", "test", or "text" (for language modelling).
        count: number of expressions.
        seed: of the draws.
    Raises:
        ValueError: language or split is unknown, or the count is negative or too large.
    """
    forms = inventory(_locale("language", language))
    rng = Random(f"{language}/{split}/{seed}")
    return [sentence.expression for sentence in _distinct_sentences(rng, split, forms, count)]


def parallel_expressions(
    source: str, target: str, split: str, count: int, seed: int = 0
) -> list[tuple[Expression, Expression]]:
    """Generates `count` pairs of expressions with the same values and kinds of pattern in two languages.

    Source texts are distinct; determinism and splits are as for `expressions`. Only forms that both languages have are
    used, so a language with little data gives short and similar pairs.

    Args:
        source, target: ISO 639-3 codes.
        split, count, seed: as for `expressions`.
    Raises:
        ValueError: as for `expressions`, or source and target are the same.
    """
    first, second = _locale("source", source), _locale("target", target)
    if source == target:
        raise ValueError(f"target={target}: must differ from the source")
    shared, forms = shared_inventory(first, second), inventory(second)
    rng = Random(f"{source}-{target}/{split}/{seed}")
    return [
        (sentence.expression, sentence.translate(forms)) for sentence in _distinct_sentences(rng, split, shared, count)
    ]


@dataclass(frozen=True)
class _Sentence:
    """An expression with its origin: the keys of its forms with their values, and the style of the list."""

    expression: Expression
    items: tuple[tuple[str, Any], ...]
    style: str

    def translate(self, forms: Inventory) -> Expression:
        """Renders the same values in another language, which must have all the forms."""
        rendered = [forms.by_key[key].render(value) for key, value in self.items]
        return _expression(rendered, forms.lists[self.style], self.expression.kind)


def _distinct_sentences(rng: Random, split: str, forms: Inventory, count: int) -> list[_Sentence]:
    if split not in SPLITS:
        raise ValueError(f"split={split}: must be one of {', '.join(SPLITS)}{_nearest(split, SPLITS)}")
    if not 0 <= count <= MOST_EXPRESSIONS:
        raise ValueError(f"count={count}: must be in [0, {MOST_EXPRESSIONS}]")
    kinds = [kind for kind in _KIND_WEIGHTS if kind in forms.forms]
    kind_weights = list(accumulate(_KIND_WEIGHTS[kind] for kind in kinds))
    styles = [style for style in _LIST_WEIGHTS if style in forms.lists]
    style_weights = list(accumulate(_LIST_WEIGHTS[style] for style in styles))

    sentences: dict[str, _Sentence] = {}
    rejections = 0
    while len(sentences) < count:
        items, rendered = _draw_items(rng, split, forms, kinds, kind_weights)
        style = rng.choices(styles, cum_weights=style_weights)[0]
        expression = _expression(rendered, forms.lists[style], "+".join(form.kind for form, _ in items))
        if expression.text in sentences or not _MIN_WORDS <= len(expression.words) <= _MAX_WORDS:
            rejections += 1
            if rejections > _MAX_REJECTIONS:
                raise ValueError(f"count={count}: only {len(sentences)} distinct expressions were found; ask for fewer")
            continue
        rejections = 0
        sentences[expression.text] = _Sentence(expression, tuple((form.key, value) for form, value in items), style)
    return list(sentences.values())


def _draw_items(
    rng: Random, split: str, forms: Inventory, kinds: list[str], weights: list[int]
) -> tuple[list[tuple[Form, Any]], list[list[Piece]]]:
    """Draws values until there are enough values and words; a value that would make the sentence too long ends it."""
    item_count = rng.choices(_ITEM_COUNTS, cum_weights=_ITEM_WEIGHTS)[0]
    items: list[tuple[Form, Any]] = []
    rendered: list[list[Piece]] = []
    words = 0
    while len(items) < item_count or words < _MIN_WORDS:
        form = rng.choice(rng.choice(forms.forms[rng.choices(kinds, cum_weights=weights)[0]]))
        value = form.draw(rng, split)
        pieces = form.render(value)
        size = sum(len(words_of) for _, words_of in pieces)
        if items and words + size >= _MAX_WORDS:
            break
        items.append((form, value))
        rendered.append(pieces)
        words += size
    return items, rendered


def _expression(rendered: list[list[Piece]], pattern: ListPattern, kind: str) -> Expression:
    text, words, labels = assemble(pattern.join(rendered))
    return Expression(text, words, labels, kind)


def _locale(argument: str, language: str) -> str:
    if language in LANGUAGES:
        return LANGUAGES[language].locale
    by_any_name = {code: code for code in LANGUAGES}
    for code, entry in LANGUAGES.items():
        by_any_name |= {entry.locale: code, entry.name.lower(): code}
    hint = _nearest(language.lower(), by_any_name)
    for name, code in by_any_name.items():
        hint = hint.replace(f"mean {name}?", f"mean {code} ({LANGUAGES[code].name})?")
    raise ValueError(f"{argument}={language}: not one of the {len(LANGUAGES)} languages with locale expressions{hint}")


def _nearest(word: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {near[0]}?" if near else ""
