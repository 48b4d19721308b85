"""An output that is written in parts: it gets its name only when it is complete, and a killed command can continue it.

While it grows it is `NAME.partial`, and `NAME.partial.json` says how much of it is sound and for which input, modules
and options. The same command then continues it.
"""

from __future__ import annotations

import io
import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from xlt.errors import UsageError
from xlt.escapes import say
from xlt.files import DamagedFileError, folder_fault, read_sealed, write_sealed
from xlt.use.texts import STANDARD

_SECONDS_BETWEEN_RECORDS = 2.0


class GrowingOutput:
    """The output of a command; use it in a `with` block.

    Args:
        path: of the file; `STANDARD` for standard output, which cannot be continued.
        identity: JSON values that must be the same for an earlier part to be continued.
        resumable: whether the input can be read again from its beginning.
        replace: whether an earlier file of this name may be replaced.

    Attributes:
        done: number of parts that an interrupted command has written.
    """

    def __init__(self, path: str, identity: Mapping[str, Any], *, resumable: bool, replace: bool = False) -> None:
        self._path = Path(path)
        self._identity = json.loads(json.dumps(identity))
        self._standard, self._resumable = path == STANDARD, resumable
        self._partial = self._path.with_name(f"{self._path.name}.partial")
        self._record = self._path.with_name(f"{self._path.name}.partial.json")
        self.done = 0
        self._bytes = 0
        self._recorded = time.monotonic()
        if not self._standard and (fault := output_fault(self._path, replace=replace)) is not None:
            raise UsageError(f"--output={path}: {fault}")
        if not self._standard and resumable:
            self._look_for_part()

    def __enter__(self) -> GrowingOutput:
        self._file: BinaryIO
        if self._standard:
            self._file = sys.stdout.buffer
            return self
        try:
            self._file = self._partial.open("r+b" if self.done else "wb")
        except OSError as error:
            raise UsageError(f"--output={self._path}: cannot be written: {error.strerror}") from error
        self._file.truncate(self._bytes)
        self._file.seek(0, io.SEEK_END)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._standard:
            if not isinstance(error, BrokenPipeError):
                self._file.flush()
            return
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        if error is None:
            self._partial.replace(self._path)
            self._record.unlink(missing_ok=True)
        elif self._resumable and self._bytes:
            self._write_record()
        else:
            self._partial.unlink(missing_ok=True)

    def add(self, text: str) -> None:
        """Writes one more part."""
        data = text.encode("utf-8")
        self._file.write(data)
        self._file.flush()
        self._bytes += len(data)
        self.done += 1
        if self._resumable and not self._standard and time.monotonic() - self._recorded > _SECONDS_BETWEEN_RECORDS:
            os.fsync(self._file.fileno())
            self._write_record()

    def _write_record(self) -> None:
        write_sealed(self._record, {"identity": self._identity, "parts": self.done, "bytes": self._bytes})
        self._recorded = time.monotonic()

    def _look_for_part(self) -> None:
        try:
            record = read_sealed(self._record)
        except DamagedFileError:
            record = {}
        if not record or not self._partial.is_file():
            return
        if record.get("identity") != self._identity or self._partial.stat().st_size < record["bytes"]:
            say(f"xlt: {self._partial}: of other input, modules or options; the output is made from its beginning")
            return
        self.done, self._bytes = record["parts"], record["bytes"]


def output_fault(path: Path, *, replace: bool = False) -> str | None:
    """Returns why a command must not write a file; None if it can. Every command that writes one asks before it begins.

    Args:
        path: of the file.
        replace: whether a file of this name may be replaced, as the option --replace says.
    """
    if path.is_dir():
        return "this is a folder; give a file"
    if not path.absolute().parent.is_dir():
        return f"there is no folder {path.parent}"
    if path.exists() and not path.is_file():
        return "this is a device or a pipe; give a file"
    if path.exists() and not replace:
        return "exists already; give another file, or --replace"
    return folder_fault(path.absolute().parent)


def output_folder_fault(path: Path) -> str | None:
    """Returns why a command must not write a folder; None if it can. A folder with files in it is never replaced."""
    if not path.absolute().parent.is_dir():
        return f"there is no folder {path.parent}"
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        return "exists and is not an empty folder; give another one or remove it"
    return folder_fault(path.absolute())
