"""The embedded corpus: dates, times, amounts and units as Unicode CLDR says that a language writes them."""

from __future__ import annotations

from pathlib import Path

import babel

from xlt.config import SourceConfig, UsageError
from xlt.data.examples import Example
from xlt.data.locale_expressions import CORPUS_VERSION, available_languages, expressions

# Examples of a source without a cap: as many as a run of a nano model can use.
_DEFAULT_COUNT = 2000


def files(source: SourceConfig) -> list[Path]:
    """No file: the corpus is rendered from the `babel` package."""
    _check(source)
    return []


def identity(source: SourceConfig) -> str:
    """What determines the text: corpus and babel version, language, split and count."""
    return f"cldr {CORPUS_VERSION} babel {babel.__version__} {source.language} {source.split} {_count(source)}"


def read(source: SourceConfig) -> list[Example]:
    """`cap` expressions of the split, with text, words and column `field`."""
    _check(source)
    found = expressions(source.language, source.split, _count(source))
    return [
        Example(f"cldr:{source.language}/{source.split}:{number}", item.text, item.words, {"field": item.labels})
        for number, item in enumerate(found, start=1)
    ]


def _count(source: SourceConfig) -> int:
    return source.cap if source.cap is not None else _DEFAULT_COUNT


def _check(source: SourceConfig) -> None:
    if source.language not in available_languages():
        known = " ".join(available_languages())
        raise UsageError(f"language={source.language}: the embedded corpus does not have it; it has {known}")
