"""Faults of a base model that a module's header or an option has named, not a config."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from xlt.errors import UsageError


class named_model:
    """Replaces `model.path=` in faults by the option, or by the header that named the model."""

    def __init__(self, given: str | None, module: Path, path: str) -> None:
        self._given, self._module, self._path = given, module, path

    def __enter__(self) -> None: ...

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        if not isinstance(error, UsageError):
            return
        prefix = "--model" if self._given is not None else f"{self._module}: its base model"
        advice = "" if self._given is not None else "; give --model=FOLDER if it is elsewhere"
        lines = [line.replace("model.path", prefix, 1) + advice for line in error.lines]
        raise UsageError(*lines) from error


def check_revision(path: str, revision: str | None) -> None:
    """Refuses a revision that is given for a folder of this machine.

    Raises:
        UsageError: see above.
    """
    if revision is not None and Path(path).expanduser().is_dir():
        raise UsageError(
            f"--revision={revision}: the base model {path} is a folder, which has no revisions; leave it out"
        )
