"""Failures of the program itself: in one line with file and line number, and the whole traceback in a file."""

from __future__ import annotations

import errno
import sysconfig
import traceback
from pathlib import Path

import xlt

_PACKAGE = Path(xlt.__file__).parent
_OTHERS = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")})
_LONGEST_MESSAGE = 400  # characters; what libraries say can be pages long


class PlainError(RuntimeError):
    """An error whose message says everything that a user can do about it; nobody needs its traceback."""


def failure_line(error: BaseException, file: Path) -> str:
    """Describes an error in one line and keeps its whole traceback.

    Where memory or disk are full, and for errors whose message says everything, there is no traceback.

    Args:
        error: that was raised.
        file: that the traceback is written to; its folder is made if need be.
    Returns:
        For instance "xlt/methods/mine.py:42: AttributeError: ... (whole traceback: FILE)".
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
    """Says in one line where an error was raised, its type and its message.

    The place is the innermost line of the traceback that is neither Python's own nor an installed library's: a wrong
    argument to torch is an error of the line that called torch.
    """
    message = " ".join(str(error.msg if isinstance(error, SyntaxError) else error).split())
    if len(message) > _LONGEST_MESSAGE:
        message = f"{message[:_LONGEST_MESSAGE]}..."
    return ": ".join(filter(None, (_place(error), type(error).__name__, message)))


def _place(error: BaseException) -> str:
    """`FILE:LINE` of an error; empty where it was never raised."""
    if isinstance(error, SyntaxError) and error.filename is not None:
        return f"{_shown(error.filename)}:{error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if _is_own(frame.filename)]
    return next((f"{_shown(frame.filename)}:{frame.lineno}" for frame in reversed(own or frames)), "")


def _is_own(file: str) -> bool:
    """Whether a source file is xlt's or the user's."""
    return Path(file).is_relative_to(_PACKAGE) or not file.startswith(("<", *_OTHERS))


def _shown(file: str) -> str:
    """A path relative to the checkout, or else to the current folder, where it lies in one of them."""
    path = Path(file)
    folder = next((folder for folder in (_PACKAGE.parent, Path.cwd()) if path.is_relative_to(folder)), None)
    return str(path if folder is None else path.relative_to(folder))


def _plain_reason(error: BaseException) -> str | None:
    """What to say of errors that are no mistake of the program; None for others."""
    said = " ".join(str(error).split())
    if isinstance(error, (PlainError, FloatingPointError)):
        return said
    # torch is not imported for this: it has a type of its own for GPUs, and on CPUs names its allocator.
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or "DefaultCPUAllocator" in said:
        return f"out of memory; lower train.batch_size, or set train.micro_batch_size: {said[:_LONGEST_MESSAGE]}"
    if (isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)) or "No space left" in said:
        return f"the disk is full: {said}"
    return None
