"""Reads the embedded corpus: dates, times, amounts and units, written as Unicode CLDR defines for each language."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import babel

from xlt.config import SourceConfig
from xlt.data.examples import Example
from xlt.data.locale_expressions import (
    CORPUS_VERSION,
    LANGUAGES,
    available_languages,
    expressions,
    parallel_expressions,
)
from xlt.errors import UsageError
from xlt.languages import code_without_script, near_languages, script_of

# Number of examples of a source without a cap, as many as a run of a nano model can use.
_DEFAULT_COUNT = 2000


def files(source: SourceConfig) -> list[Path]:
    """Returns no file, because the corpus is generated from the `babel` package."""
    _check(source)
    return []


def identity(source: SourceConfig) -> str:
    """Returns everything that determines the text: versions of corpus and babel, language, split and count."""
    language = _corpus_code(source.language)
    return f"cldr {CORPUS_VERSION} babel {babel.__version__} {language} {source.split} {_count(source)}"


def read(source: SourceConfig) -> Iterator[Example]:
    """Yields `cap` expressions of the split, with text, words and column `field`; for parallel text pairs of texts.

    The label of an expression is the kind of its first value.
    """
    _check(source)
    if source.parallel is not None:
        yield from _pairs(*map(_corpus_code, source.parallel), source.split, _count(source))
        return
    yield from _examples(_corpus_code(source.language), source.split, _count(source))


@lru_cache(maxsize=512)
def _examples(language: str, split: str, count: int) -> tuple[Example, ...]:
    """Generates the expressions once per process, because the runs of a table share most of them."""
    return tuple(
        Example(
            f"cldr:{language}/{split}:{number}", item.text, item.words, {"field": item.labels}, label=item.first_kind
        )
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
        if _corpus_code(language) in available_languages():
            continue
        near = near_languages(language, available_languages())
        scripts = ", ".join(f"{code} in script {LANGUAGES[code].script}" for code in near)
        raise UsageError(
            f"language={language}: not one of the {len(available_languages())} languages of the embedded corpus"
            + (f"; it has {scripts}" if near else "")
        )


def _corpus_code(language: str) -> str:
    """Returns the corpus's code of a language: of a variety in the script that the corpus has, the code alone."""
    known = LANGUAGES.get(code_without_script(language))
    return code_without_script(language) if known is not None and known.script == script_of(language) else language
