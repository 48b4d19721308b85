"""Locale expressions: dates, times, amounts and measurements as Unicode CLDR says each language writes them."""

from xlt.data.locale_expressions.corpus import (
    CORPUS_VERSION,
    Expression,
    available_languages,
    expressions,
    parallel_expressions,
)
from xlt.data.locale_expressions.languages import LANGUAGES, Language
from xlt.data.locale_expressions.pieces import LABELS

__all__ = [
    "CORPUS_VERSION",
    "LABELS",
    "LANGUAGES",
    "Expression",
    "Language",
    "available_languages",
    "expressions",
    "parallel_expressions",
]
