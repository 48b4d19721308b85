"""Finds the file of a source's split, and reads its lines as strict UTF-8."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from xlt.config import SourceConfig
from xlt.errors import UsageError

_BYTE_ORDER_MARK = "\ufeff"


def split_file(source: SourceConfig, patterns: Sequence[str]) -> Path:
    """Finds the one file that contains the source's split.

    Args:
        source: its `path` is the file itself or a folder.
        patterns: usual names of such files, in which `{split}` and `{code}` are replaced; used in a folder unless
            `source.files` has a name for the split.
    Raises:
        UsageError: there is no such file or folder, or not exactly one file matches.
    """
    path = source.location()
    if path.is_file():
        return path
    if not path.is_dir():
        raise UsageError(f"{path}: no such file or folder, which reader {source.reader} needs")
    names = [source.files[source.split]] if source.split in source.files else list(patterns)
    globs = [name.replace("{split}", source.split).replace("{code}", source.code) for name in names]
    matches = sorted({file for name in globs for file in path.glob(name) if file.is_file()})
    if len(matches) != 1:
        raise UsageError(
            f"{path}: the folder has {len(matches) or 'no'} files for split {source.split}, expected one "
            f"{' or '.join(globs)}; it has {files_in(path)}"
        )
    return matches[0]


def files_in(folder: Path) -> str:
    """Lists the first files of a folder by name, for a message."""
    names = sorted(file.name for file in folder.iterdir() if file.is_file())
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "") or "no file"


def lines_of(file: Path) -> Iterator[tuple[int, str]]:
    """Yields the number (from 1) and text of each line, without line end and byte order mark.

    Raises:
        UsageError: a line is not UTF-8; the message names file and line.
    """
    with file.open("rb") as stream:
        for number, raw in enumerate(stream, start=1):
            try:
                line = raw.decode("utf-8")
            except UnicodeDecodeError as error:
                raise UsageError(f"{file}:{number}: not UTF-8") from error
            if number == 1:
                line = line.removeprefix(_BYTE_ORDER_MARK)
            yield number, line.rstrip("\r\n")
