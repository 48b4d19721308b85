"""Line-aligned text: `SPLIT.es` and `SPLIT.aym`, where line 7 of one translates line 7 of the other."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path

from xlt.config import SourceConfig
from xlt.data.examples import Example
from xlt.data.files import files_in, lines_of
from xlt.data.records import fields_of
from xlt.errors import UsageError


def files(source: SourceConfig) -> list[Path]:
    """The files of `text` and `pair` in the folder `path`: the split (or what `files` calls it), a dot, the field.

    Raises:
        UsageError: the folder or one of them is not there.
    """
    fields = fields_of(source)
    if set(fields) != {"text", "pair"}:
        raise UsageError(f"fields={fields}: reader parallel takes two, the endings of the files of text and pair")
    folder = source.location()
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder; reader parallel wants one")
    stem = source.files.get(source.split, source.split)
    found = [folder / f"{stem}.{fields[role]}" for role in ("text", "pair")]
    for file in found:
        if not file.is_file():
            raise UsageError(f"{folder}: no file {file.name} for split {source.split}; it has {files_in(folder)}")
    return found


def read(source: SourceConfig) -> Iterator[Example]:
    """A pair a line. One with an empty side translates nothing and is passed over (AmericasNLP 2021 has some).

    Raises:
        UsageError: one file ends before the other; names the first line without a partner.
    """
    file, other = files(source)
    for one, two in zip_longest(lines_of(file), lines_of(other)):
        if one is None or two is None:
            longer, shorter = (file, other) if two is None else (other, file)
            number = (one or two)[0]
            raise UsageError(f"{longer}:{number}: no line beside it, {shorter.name} ends after {number - 1} lines")
        text, pair = one[1].strip(), two[1].strip()
        if text and pair:
            yield Example(f"{file}:{one[0]}", text=text, pair=pair)
