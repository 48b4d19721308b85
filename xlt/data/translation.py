"""Translated examples on disk: what is done while a model translates, and the finished file (thesis §6.3.1)."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from xlt.data.examples import Example
from xlt.data.overlap import texts_of
from xlt.errors import UsageError
from xlt.files import atomic_text

TRANSLATED_FILE = "translated.jsonl"
DONE_FILE = "done.jsonl"
_MARK = "translated_to_nothing"


class DoneTexts:
    """Translations made so far, in a file that grows batch by batch; what a kill tore off at its end is dropped.

    Args:
        folder: of the run that translates.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / DONE_FILE
        self.translations: dict[str, str] = {}
        whole = 0
        if self._path.exists():
            for raw in self._path.read_bytes().splitlines(keepends=True):
                if not raw.endswith(b"\n"):
                    break
                text, translation = json.loads(raw)
                self.translations[text] = translation
                whole += len(raw)
            with self._path.open("r+b") as file:
                file.truncate(whole)

    def add(self, texts: Sequence[str], translations: Sequence[str]) -> None:
        """Keeps a batch: all of it or, if it is cut short, nothing that is not whole."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        pairs = list(zip(texts, translations, strict=True))
        with self._path.open("a", encoding="utf-8") as file:
            file.write("".join(json.dumps(pair, ensure_ascii=False) + "\n" for pair in pairs))
            file.flush()
            os.fsync(file.fileno())
        self.translations.update(pairs)

    def discard(self) -> None:
        self._path.unlink(missing_ok=True)


def save_translated(
    path: Path, examples: Sequence[Example], translations: Mapping[str, str], fields: Sequence[str]
) -> None:
    """Writes examples with their `fields` translated and all else as it was; atomically.

    A text whose translation is empty stays as it was, and its example is marked.

    Args:
        path: of the file.
        examples: untranslated.
        translations: of every text in their `fields`.
        fields: of `text` and `pair`.
    """
    with atomic_text(path) as file:
        for example in examples:
            record = {name: getattr(example, name) for name in ("text", "pair", "label", "id")}
            originals = {name: str(record[name]) for name in fields}
            record |= {name: translations[text] or text for name, text in originals.items()}
            told: dict[str, Any] = {name: value for name, value in record.items() if value is not None}
            if not all(translations[text] for text in originals.values()):
                told[_MARK] = True
            whole = {**told, "place": example.place, "untranslated": texts_of(example)}
            file.write(json.dumps(whole, ensure_ascii=False) + "\n")


def translated_examples(path: Path, whole: bool = False) -> Iterator[Example]:
    """The examples of a finished file, without those of which nothing is left in translation.

    Args:
        path: of the file.
        whole: have them too, untranslated: a test set is scored on all its examples.
    Raises:
        UsageError: it is not there, or a line is not as it was written.
    """
    if not path.is_file():
        raise UsageError(f"{path}: no such file; the run that translates leaves it")
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                record: dict[str, Any] = json.loads(line)
                parts: dict[str, Any] = {name: record.get(name) for name in ("text", "pair", "label", "id")}
                place, untranslated = str(record["place"]), tuple(record["untranslated"])
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise UsageError(f"{path}:{number}: not a translated example ({error})") from error
            if whole or not record.get(_MARK):
                yield Example(f"{place} translated", **parts, untranslated=untranslated)
