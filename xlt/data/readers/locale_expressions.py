"""Reads the embedded corpus: dates, times, amounts and units, written as Unicode CLDR defines for each language."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import babel

from xlt.config import SourceConfig
from xlt.data.examples import Example
from xlt.data.locale_expressions import CORPUS_VERSION, available_languages, expressions, parallel_expressions
from xlt.errors import UsageError

# Number of examples of a source without a cap, as many as a run of a nano model can use.
_DEFAULT_COUNT = 2000


def files(source: SourceConfig) -> list[Path]:
    """Returns no file, because the corpus is generated from the `babel` package."""
    _check(source)
    return []


def identity(source: SourceConfig) -> str:
    """Returns everything that determines the text: versions of corpus and babel, language, split and count."""
    return f"cldr {CORPUS_VERSION} babel {babel.__version__} {source.language} {source.split} {_count(source)}"


def read(source: SourceConfig) -> Iterator[Example]:
    """Yields `cap` expressions of the split, with text, words and column `field`; for parallel text pairs of texts."""
    _check(source)
    if source.parallel is not None:
        yield from _pairs(*source.parallel, source.split, _count(source))
        return
    yield from _examples(source.language, source.split, _count(source))


@lru_cache(maxsize=512)
def _examples(language: str, split: str, count: int) -> tuple[Example, ...]:
    """Generates the expressions once per process, because the runs of a table share most of them."""
    return tuple(
        Example(f"cldr:{language}/{split}:{number}", item.text, item.words, {"field": item.labels})
        for number, item in enumerate(expressions(language, split, count), start=1)
    )


@lru_cache(maxsize=512)
def _pairs(language: str, other: str, split: str, count: int) -> tuple[Example, ...]:
    """Generates pairs of the same values in two languages; with one language both texts of a pair are equal."""
    if language == other:
        return tuple(dataclasses.replace(one, pair=one.text, words=None) for one in _examples(language, split, count))
    pairs = parallel_expressions(language, other, split, count)
    return tuple(
        Example(f"cldr:{language}-{other}/{split}:{number}", one.text, pair=two.text)
        for number, (one, two) in enumerate(pairs, start=1)
    )


def _count(source: SourceConfig) -> int:
    return source.cap if source.cap is not None else _DEFAULT_COUNT


def _check(source: SourceConfig) -> None:
    for language in source.parallel or (source.language,):
        if language in available_languages():
            continue
        near = difflib.get_close_matches(language, available_languages(), n=3, cutoff=0.6)
        raise UsageError(
            f"language={language}: not one of the {len(available_languages())} languages of the embedded corpus"
            + (f"; similar codes are {', '.join(near)}" if near else "")
        )
