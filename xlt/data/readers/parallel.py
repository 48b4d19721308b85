"""Reads line-aligned parallel text: `SPLIT.es` and `SPLIT.aym`, where line 7 of one translates line 7 of the other."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path

from xlt.config import SourceConfig
from xlt.data.examples import Example
from xlt.data.files import files_in, lines_of, named_file, with_gzip
from xlt.data.records import fields_of
from xlt.errors import UsageError


def files(source: SourceConfig) -> list[Path]:
    """Returns the files of `text` and `pair` in the folder `path`.

    A file's name is the split (or its name in `files`), a dot, and the field; then `.gz` if it is compressed.

    Raises:
        UsageError: the folder or one of the files does not exist.
    """
    fields = fields_of(source)
    if set(fields) != {"text", "pair"}:
        raise UsageError(f"fields={fields}: reader parallel needs fields.text and fields.pair, the two files' endings")
    folder = source.location()
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder, which reader parallel needs")
    stem = named_file(source) or source.split
    both = [with_gzip(folder / f"{stem}.{fields[role]}") for role in ("text", "pair")]
    for file in both:
        if not file.is_file():
            raise UsageError(f"{folder}: no file {file.name} for split {source.split}; it has {files_in(folder)}")
    return both


def read(source: SourceConfig) -> Iterator[Example]:
    """Yields one pair per line; pairs with an empty side are skipped (AmericasNLP 2021 has some).

    Raises:
        UsageError: one file ends before the other; the message names the first line without a partner.
    """
    file, other = files(source)
    for one, two in zip_longest(lines_of(file), lines_of(other)):
        if one is None or two is None:
            longer, shorter = (file, other) if two is None else (other, file)
            number = (one or two)[0]
            raise UsageError(
                f"{longer}:{number}: the line has no translation, because {shorter.name} ends after {number - 1} lines"
            )
        text, pair = one[1].strip(), two[1].strip()
        if text and pair:
            yield Example(f"{file}:{one[0]}", text=text, pair=pair)
