"""What a model translated of another source: an example a line, as `xlt.data.translation` writes it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from xlt.config import PlannedTranslation, SourceConfig
from xlt.data.examples import Example
from xlt.data.sources import reader_of
from xlt.data.translation import translated_examples
from xlt.errors import UsageError

CHOOSES_ROWS = True


def files(source: SourceConfig) -> list[Path]:
    """The files that the untranslated source is in.

    Raises:
        UsageError: as its reader.
    """
    original = source.untranslated()
    reader = reader_of(original)
    if source.where and not getattr(reader, "CHOOSES_ROWS", False):
        raise UsageError(f"where={dict(source.where)}: reader {source.reader} reads every example")
    return reader.files(original)


def identity(source: SourceConfig) -> str:
    """The translation's fingerprint: who translated what, and how; and whether all of it is read."""
    planned = _planned(source)
    return f"{planned.fingerprint}/whole" if planned.whole else planned.fingerprint


def read(source: SourceConfig) -> Iterator[Example]:
    """The translated examples, in the untranslated ones' order; of a test set all.

    Raises:
        UsageError: they are not there, or damaged.
    """
    planned = _planned(source)
    return translated_examples(Path(planned.file), planned.whole)


def _planned(source: SourceConfig) -> PlannedTranslation:
    if not isinstance(source.translation, PlannedTranslation):
        raise UsageError("translation: only a run that is planned can use it; another run makes the translation")
    return source.translation
