"""Finds the file of a source's split, and reads its lines as strict UTF-8; a file compressed by gzip is unpacked."""

from __future__ import annotations

import gzip
import io
import os
import re
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from xlt.config import SourceConfig
from xlt.errors import UsageError
from xlt.files import kind_fault, open_without_waiting

_LONGEST_LINE = 1 << 26  # bytes; a line is in memory as a whole
_LARGE_BYTES, _MOST_PACKED = 1 << 28, 200  # gzip makes text some 3 to 20 times smaller; its limit is 1032
_BYTE_ORDER_MARK = "\ufeff"
_GZIP = b"\x1f\x8b"
_GZIP_ENDING = ".gz"
_UTF_8 = "convert it to UTF-8, for example with iconv -f {0} -t UTF-8"
_UNPACK = "unpack it first; of compressed files only gzip is read"
_DOWNLOAD = "download the file itself"
# Beginning of a file -> what the file is, and what to do. UTF-32 stands before UTF-16, whose mark is a part of its own.
_KINDS = {
    rb"\xff\xfe\x00\x00|\x00\x00\xfe\xff": ("UTF-32 text", _UTF_8.format("UTF-32")),
    rb"\xff\xfe|\xfe\xff": ("UTF-16 text", _UTF_8.format("UTF-16")),
    rb"PK\x03\x04": ("a zip archive, which spreadsheets and office documents are too", "unpack it, or save it as text"),
    rb"BZh[1-9]1AY&SY": ("compressed by bzip2", _UNPACK),
    rb"\xfd7zXZ\x00": ("compressed by xz", _UNPACK),
    rb"\x28\xb5\x2f\xfd": ("compressed by zstd", _UNPACK),
    rb"PAR1\x15|ARROW1\x00\x00": ("a Parquet or Arrow file", "give its folder as hub.id, with path=null"),
    rb"%PDF-": ("a PDF document", "extract its text"),
    rb"SQLite format 3\x00": ("an SQLite database", "export its rows"),
    rb"version https://git-lfs": ("a pointer of Git LFS, not the data", "run git lfs pull in its repository"),
    rb"\s*(?i:<!doctype html|<html)": ("a web page, which failed downloads leave", _DOWNLOAD),
}


def split_file(source: SourceConfig, patterns: Sequence[str]) -> Path:
    """Finds the one file that contains the source's split.

    Args:
        source: its `path` is the file itself or a folder. In a folder, `source.files` can have the file's name or
            pattern; a file that has exactly this name comes first, whatever its letters mean in a pattern.
        patterns: usual names of such files, in which `{split}` and `{code}` are replaced; used in a folder unless
            `source.files` has a name for the split. If no file matches, the ending `.gz` is added to the patterns.
    Raises:
        UsageError: there is no such file or folder, not exactly one file matches, or the pattern cannot be used.
    """
    path = source.location()
    if path.is_file():
        return path
    if not path.is_dir():
        raise UsageError(f"{path}: no such file or folder, which reader {source.reader} needs")
    named = named_file(source)
    names = list(patterns) if named is None else [named]
    globs = [name.replace("{split}", source.split).replace("{code}", source.code) for name in names]
    if named is not None:
        for exact in (globs[0], globs[0] + _GZIP_ENDING):
            if (path / exact).is_file():
                return path / exact
    compressed = [pattern + _GZIP_ENDING for pattern in globs if not pattern.endswith("**")]
    matches = _matches(path, globs, source.split) or _matches(path, compressed, source.split)
    if len(matches) != 1:
        raise UsageError(
            f"{path}: the folder has {len(matches) or 'no'} files for split {source.split}, expected one "
            f"{' or '.join(globs)}; it has {files_in(path)}"
        )
    return matches[0]


def named_file(source: SourceConfig) -> str | None:
    """Returns the name or pattern that `source.files` has for the source's split; None if it has none.

    Raises:
        UsageError: it is empty, or an absolute path.
    """
    name = source.files.get(source.split)
    if name is None:
        return None
    fault = None
    if not name.strip() or "\0" in name:
        fault = "no name of a file; leave it out to use the usual names"
    elif Path(name).expanduser().is_absolute():
        fault = f"an absolute path, but files are looked for in {source.location()}; give path={name} instead"
    if fault is not None:
        raise UsageError(f"files.{source.split}={name}: {fault}")
    return name


def with_gzip(file: Path) -> Path:
    """Returns the file, or the file of this name with the ending `.gz` if only that exists."""
    compressed = file.with_name(file.name + _GZIP_ENDING)
    return compressed if not file.is_file() and compressed.is_file() else file


def _matches(folder: Path, globs: Sequence[str], split: str) -> list[Path]:
    """Returns the files in a folder that match one of the patterns, sorted.

    Raises:
        UsageError: a pattern cannot be used.
    """
    found: set[Path] = set()
    for pattern in globs:
        try:
            found |= {file for file in folder.glob(pattern) if file.is_file()}
        except (ValueError, NotImplementedError, re.error) as error:
            raise UsageError(
                f"files.{split}={pattern}: not a pattern of file names ({error}); * stands for any letters, and **/ "
                "for any folders"
            ) from error
    return sorted(found)


def files_in(folder: Path) -> str:
    """Lists the first files of a folder by name, for a message."""
    names = sorted(file.name for file in folder.iterdir() if file.is_file())
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "") or "no file"


@contextmanager
def opened(file: Path) -> Iterator[io.BufferedReader]:
    """Opens a file for reading bytes; of a file compressed by gzip, whatever its name, these are the unpacked bytes.

    Raises:
        UsageError: the file cannot be read, or its gzip data are damaged or incomplete.
    """
    try:
        with open(file, "rb", opener=open_without_waiting) as raw:
            if (fault := kind_fault(os.fstat(raw.fileno()))) is not None:
                raise UsageError(f"{file}: {fault}")
            yield io.BufferedReader(_Unpacked(raw, file), 1 << 17) if raw.peek(2)[:2] == _GZIP else raw
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UsageError(f"{file}: the gzip file is damaged or incomplete ({error}); copy it again") from error
    except OSError as error:
        raise UsageError(f"{file}: cannot be read ({error.strerror})") from error


class _Unpacked(io.RawIOBase):
    """The unpacked bytes of a gzip file; a file that becomes enormously larger is refused."""

    def __init__(self, packed: io.BufferedReader, file: Path) -> None:
        self._packed, self._file, self._bytes = packed, file, 0
        self._stream = gzip.GzipFile(fileobj=packed)

    def readable(self) -> bool:
        return True

    def readinto(self, block: Any) -> int:
        data = self._stream.read1(len(block))
        block[: len(data)] = data
        self._bytes += len(data)
        if self._bytes > _LARGE_BYTES and self._bytes > _MOST_PACKED * self._packed.tell():
            raise UsageError(
                f"{self._file}: its gzip data become more than {_MOST_PACKED} times as large; this is no text"
            )
        return len(data)


def lines_of(file: Path) -> Iterator[tuple[int, str]]:
    """Yields the number (from 1) and text of each line, without line end and byte order mark.

    Raises:
        UsageError: the file cannot be read, is another kind of file than text, or has a line that is not UTF-8; the
            message names file and line.
    """
    with opened(file) as stream:
        for number, line in whole_lines(stream, str(file)):
            yield number, bare(line, number)


def bare(line: str, number: int) -> str:
    """Returns a line without its end; the first one also without a byte order mark."""
    return (line.removeprefix(_BYTE_ORDER_MARK) if number == 1 else line).rstrip("\r\n")


def whole_lines(stream: io.BufferedReader, name: str) -> Iterator[tuple[int, str]]:
    """Yields the number (from 1) and text of each line of an open file, with its end as it is in the file.

    Args:
        stream: of the file, or standard input.
        name: of the file, for messages.
    Raises:
        UsageError: as `lines_of`.
    """
    if (fault := _kind_fault(stream.peek(4096))) is not None:
        raise UsageError(f"{name}: {fault}")
    for number, raw in enumerate(iter(partial(stream.readline, _LONGEST_LINE + 1), b""), start=1):
        if len(raw) > _LONGEST_LINE:
            raise UsageError(f"{name}:{number}: the line is longer than {_LONGEST_LINE >> 20} MB; this is no text")
        try:
            line = raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise UsageError(f"{name}:{number}: not UTF-8") from error
        if number == 1 and not raw.endswith(b"\n") and b"\r" in raw.rstrip(b"\r"):
            raise UsageError(
                f"{name}: its lines end in carriage returns alone, so all of it would be one line; "
                "convert them to line feeds, for example with tr '\\r' '\\n'"
            )
        yield number, line


def _kind_fault(head: bytes) -> str | None:
    """Returns why the file with this beginning is no UTF-8 text, and what to do; None if it may be text."""
    for pattern, (kind, advice) in _KINDS.items():
        if re.match(pattern, head):
            return f"the file is {kind}; {advice}"
    for first in (0, 1):  # of UTF-16 without a mark, every other byte of Latin letters is zero
        zeros = head[first::2].count(0)
        if zeros > len(head) / 4 and not head[1 - first :: 2].count(0):
            order = "UTF-16LE" if first else "UTF-16BE"
            return f"the file is UTF-16 text; {_UTF_8.format(order)}"
    return None
