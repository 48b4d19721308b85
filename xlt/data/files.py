"""Files of a source: which one holds a split, and its text line by line, strictly UTF-8."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from xlt.config import SourceConfig
from xlt.errors import UsageError

_BYTE_ORDER_MARK = "\ufeff"


def split_file(source: SourceConfig, patterns: Sequence[str]) -> Path:
    """The one file that holds the source's split.

    Args:
        source: its `path` is the file itself, or a folder.
        patterns: how files of the format are usually named, `{split}` and `{code}` filled in; tried in a folder where
            `source.files` does not name one.
    Raises:
        UsageError: no such file or folder, or not exactly one file fits.
    """
    path = source.location()
    if path.is_file():
        return path
    if not path.is_dir():
        raise UsageError(f"{path}: no such file or folder; reader {source.reader} wants one")
    names = [source.files[source.split]] if source.split in source.files else list(patterns)
    wanted = [name.replace("{split}", source.split).replace("{code}", source.code) for name in names]
    found = sorted({file for name in wanted for file in path.glob(name) if file.is_file()})
    if len(found) != 1:
        raise UsageError(
            f"{path}: {len(found) or 'no'} files for split {source.split}, wanted one {' or '.join(wanted)}; "
            f"it has {files_in(path)}"
        )
    return found[0]


def files_in(folder: Path) -> str:
    """The first few files of a folder by name, for a message."""
    there = sorted(file.name for file in folder.iterdir() if file.is_file())
    return ", ".join(there[:8]) + (f" and {len(there) - 8} more" if len(there) > 8 else "") or "no file"


def lines_of(file: Path) -> Iterator[tuple[int, str]]:
    """Number (from 1) and text of each line, without line end and byte order mark.

    Raises:
        UsageError: a line is not UTF-8; names file and line.
    """
    with file.open("rb") as opened:
        for number, raw in enumerate(opened, start=1):
            try:
                line = raw.decode("utf-8")
            except UnicodeDecodeError as error:
                raise UsageError(f"{file}:{number}: not UTF-8") from error
            if number == 1:
                line = line.removeprefix(_BYTE_ORDER_MARK)
            yield number, line.rstrip("\r\n")
