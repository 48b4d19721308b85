"""How every command ends: lines on standard error, an exit code, and for an error of the program a traceback file."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import NoReturn

from xlt.errors import UsageError
from xlt.escapes import say
from xlt.tracebacks import failure_line

USAGE = 2
FAILURE = 1


def guarded(action: Callable[[], int], output_dir: str | None = None) -> None:
    """Runs an action of a command and turns what it raises into lines on standard error and an exit code.

    For wrong input it prints a line for each fault; the exit code is 2. After an interruption it says how to continue.
    For an error of the program it prints one line with file and line number; the exit code is 1, and the line names the
    file with the traceback. With `XLT_TRACEBACK=1` in the environment, an error of the program is raised again.

    Args:
        action: returns the exit code.
        output_dir: folder below which tracebacks are written; None: the one in the command line.
    """
    try:
        code = action()
    except UsageError as error:
        refuse(error.lines)
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    except BrokenPipeError:
        end_unread()
    except Exception as error:
        code = _ending_of(error, output_dir)
    if code:
        sys.exit(code)


def end_unread() -> NoReturn:
    """Ends a command whose output nobody reads any more, as in `xlt runs list | head`."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(128 + signal.SIGPIPE)


def _ending_of(error: Exception, output_dir: str | None) -> int:
    """Prints what an exception means for the user; returns the exit code.

    The classes are imported here because they come with heavy libraries, which a command that ends well may not need.
    """
    from xlt.compose import is_composition_error
    from xlt.engine.training import Interrupted
    from xlt.modules import ModuleFileError

    if isinstance(error, ModuleFileError):
        refuse([str(error)])
    if isinstance(error, Interrupted):
        say(str(error))
        return 128 + error.signal
    if is_composition_error(error) or os.environ.get("XLT_TRACEBACK"):
        raise error
    say(f"xlt: {failure_line(error, new_traceback_file(output_dir or _output_dir()))}")
    return FAILURE


def refuse(lines: Sequence[str]) -> NoReturn:
    """Prints a line for each fault of the input and exits with code 2."""
    for line in lines:
        say(f"xlt: {line}")
    sys.exit(USAGE)


def new_traceback_file(output_dir: str) -> Path:
    """Returns a new file for the traceback of an error outside any run, named by time and process."""
    name = f"{datetime.now():%Y%m%d-%H%M%S-%f}-{os.getpid()}.txt"
    return Path(output_dir).expanduser() / "tracebacks" / name


def _output_dir() -> str:
    """Returns the output folder that the command line names, else the default one."""
    folders = [word.partition("=")[2] for word in sys.argv[1:] if word.startswith("output_dir=")]
    return folders[-1] if folders else "outputs"
