"""Describes errors of the program in one line with file and line number, and writes their tracebacks to files."""

from __future__ import annotations

import errno
import sysconfig
import traceback
from pathlib import Path

import xlt

_PACKAGE = Path(xlt.__file__).parent
_OTHERS = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")})
# Errors for which the place of files is the reason, not the program.
_OF_THE_PLACE = (errno.ENAMETOOLONG, errno.EROFS, errno.EACCES)
_LONGEST_MESSAGE = 400  # in characters, because messages of libraries can be pages long


class PlainError(RuntimeError):
    """An error whose message tells the user all that is needed, so that no traceback is kept."""


def failure_line(error: BaseException, file: Path) -> str:
    """Describes an error in one line and writes its traceback to a file.

    No traceback is written if memory or disk are full, or for a `PlainError`.

    Args:
        error: the error.
        file: file for the traceback; its folder is made if it does not exist.
    Returns:
        For example "xlt/methods/mine.py:42: AttributeError: ... (whole traceback: FILE)".
    """
    if (plain := _plain_reason(error)) is not None:
        return plain
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(traceback.format_exception(error)), encoding="utf-8")
    except OSError as failed:
        return f"{error_line(error)} (the whole traceback could not be written: {failed})"
    return f"{error_line(error)} (whole traceback: {file})"


def error_line(error: BaseException) -> str:
    """Describes an error in one line: the place where it was raised, its type and its message.

    The place is the innermost line of the traceback that is neither in Python nor in an installed library. For example,
    a wrong argument to torch is an error of the line that called torch.
    """
    message = " ".join(str(error.msg if isinstance(error, SyntaxError) else error).split())
    if len(message) > _LONGEST_MESSAGE:
        message = f"{message[:_LONGEST_MESSAGE]}..."
    return ": ".join(filter(None, (_place(error), type(error).__name__, message)))


def os_error_line(error: OSError) -> str:
    """Describes an error of the file system in one line, with the path that it is about."""
    path = str(error.filename or "")
    shown = path if len(path) <= _LONGEST_MESSAGE else f"{path[:_LONGEST_MESSAGE]}..."
    return ": ".join(filter(None, (shown, error.strerror or str(error) or type(error).__name__)))


def _place(error: BaseException) -> str:
    """Returns `FILE:LINE` of an error; empty if it was never raised."""
    if isinstance(error, SyntaxError) and error.filename is not None:
        return f"{_shown(error.filename)}:{error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if _is_own(frame.filename)]
    return next((f"{_shown(frame.filename)}:{frame.lineno}" for frame in reversed(own or frames)), "")


def _is_own(file: str) -> bool:
    """Returns whether a source file belongs to xlt or to the user."""
    return Path(file).is_relative_to(_PACKAGE) or not file.startswith(("<", *_OTHERS))


def _shown(file: str) -> str:
    """Returns a path relative to the checkout, or to the current folder, if it is in one of them."""
    path = Path(file)
    folder = next((folder for folder in (_PACKAGE.parent, Path.cwd()) if path.is_relative_to(folder)), None)
    return str(path if folder is None else path.relative_to(folder))


def _plain_reason(error: BaseException) -> str | None:
    """Returns the message for an error that is no bug of the program; None for other errors."""
    message = " ".join(str(error).split())
    if isinstance(error, (PlainError, FloatingPointError)):
        return message
    # Recognised without importing torch: on GPUs by the name of torch's error, on CPUs by that of its allocator.
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or "DefaultCPUAllocator" in message:
        advice = "out of memory; lower train.batch_size, or set train.micro_batch_size"
        return f"{advice}: {message[:_LONGEST_MESSAGE]}" if message else advice
    if (isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)) or "No space left" in message:
        return f"the disk is full: {message}"
    if isinstance(error, OSError) and error.errno in _OF_THE_PLACE:
        return os_error_line(error)
    return None
