"""The transform for translation by a model (thesis §6.3.1): the original source, and the files of translated examples.

A run translates the source (`xlt/engine/translate.py`). Meanwhile its folder contains the texts translated so far; at
the end it contains a file with one translated example per line.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from xlt.config import SourceConfig
from xlt.data.examples import Example
from xlt.data.overlap import texts_of
from xlt.data.planned import MadeFile, PlannedSource
from xlt.errors import UsageError
from xlt.files import CHECKSUM_KEY, DamagedFileError, atomic_path, atomic_text, keep_copy, report, sealed, unsealed

TRANSLATED_FILE = "translated.jsonl"
DONE_FILE = "done.jsonl"
READER = "translated"
_MARK = "translated_to_nothing"


def original(source: SourceConfig) -> SourceConfig:
    """Returns the original, in the language from which it is translated: all examples, or `translation.cap` of them."""
    assert source.translation is not None
    return dataclasses.replace(
        source,
        language=source.translation.source_language,
        origin="gold",
        cap=source.translation.cap,
        cap_words=None,
        upsample=1,
        labels={},
        instruction=None,
        translation=None,
    )


def not_yet(source: SourceConfig) -> SourceConfig:
    """Returns the original with the labels and the instruction of the translated source."""
    return dataclasses.replace(original(source), labels=source.labels, instruction=source.instruction)


def identity(source: PlannedSource) -> str:
    """Returns the fingerprint of the translation, with an addition if all examples are read.

    Raises:
        UsageError: the source is not planned.
    """
    fingerprint = _file(source).fingerprint
    return f"{fingerprint}/whole" if source.keeps_all else fingerprint


def read(source: PlannedSource) -> Iterator[Example]:
    """Yields the translated examples, in the original's order.

    Raises:
        UsageError: the source is not planned, or the file is missing or damaged.
    """
    return translated_examples(_file(source).path, source.keeps_all)


def _file(source: PlannedSource) -> MadeFile:
    if source.made is None:
        raise UsageError("translation: only a run that is planned can use it; another run makes the translation")
    return source.made


class DoneTexts:
    """The texts that have been translated so far, in a file to which each batch is appended.

    Each line has a checksum. If the process was killed while it wrote, the incomplete last line is removed. If other
    lines are damaged, or belong to another run, a copy of the file is kept, and their texts are translated again.

    Args:
        folder: of the run that translates.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / DONE_FILE
        self.translations: dict[str, str] = {}
        if self._path.exists():
            sound, damaged = self._read()
            if damaged:
                kept = keep_copy(self._path)
                report(self._path, f"{damaged} lines are damaged; kept as {kept}; their texts are translated again")
            with atomic_path(self._path) as temporary:
                temporary.write_bytes(b"".join(sound))

    def _read(self) -> tuple[list[bytes], int]:
        """Fills `translations`; returns the sound lines and the number of damaged ones."""
        sound, damaged = [], 0
        for raw in self._path.read_bytes().splitlines(keepends=True):
            if not raw.endswith(b"\n"):
                break
            try:
                record = json.loads(raw)
                if CHECKSUM_KEY not in record:
                    raise DamagedFileError("it has no checksum")
                record = unsealed(record, self._path.parent.name)
                self.translations[record["text"]] = record["translation"]
                sound.append(raw)
            except (ValueError, KeyError, TypeError, RecursionError):
                damaged += 1
        return sound, damaged

    def add(self, texts: Sequence[str], translations: Sequence[str]) -> None:
        """Appends a batch to the file. If the process is killed meanwhile, only complete lines count."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        pairs = list(zip(texts, translations, strict=True))
        records = (sealed({"text": text, "translation": of}, self._path.parent.name) for text, of in pairs)
        with self._path.open("a", encoding="utf-8") as file:
            file.write("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))
            file.flush()
            os.fsync(file.fileno())
        self.translations.update(pairs)

    def discard(self) -> None:
        self._path.unlink(missing_ok=True)


def save_translated(
    path: Path, examples: Sequence[Example], translations: Mapping[str, str], fields: Sequence[str]
) -> None:
    """Writes examples with translated `fields`; all other parts stay unchanged. The file is written atomically.

    If the translation of a text is empty, the text stays untranslated, and its example is marked.

    Args:
        path: of the file.
        examples: the untranslated examples.
        translations: text -> translation, for every text in `fields`.
        fields: the translated parts, `text` or `pair` or both.
    """
    with atomic_text(path) as file:
        for example in examples:
            record = {name: getattr(example, name) for name in ("text", "pair", "label", "id")}
            originals = {name: str(record[name]) for name in fields}
            record |= {name: translations[text] or text for name, text in originals.items()}
            line: dict[str, Any] = {name: value for name, value in record.items() if value is not None}
            if not all(translations[text] for text in originals.values()):
                line[_MARK] = True
            whole = {**line, "place": example.place, "untranslated": texts_of(example)}
            file.write(json.dumps(whole, ensure_ascii=False) + "\n")


def translated_examples(path: Path, keeps_all: bool = False) -> Iterator[Example]:
    """Yields the examples of a finished file, without those that have an empty translation.

    Args:
        path: of the file.
        keeps_all: also yield those, untranslated, because a test set is scored on all its examples.
    Raises:
        UsageError: the file is missing, or a line is damaged.
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
            if keeps_all or not record.get(_MARK):
                yield Example(f"{place} translated", **parts, untranslated=untranslated)
