"""Keeps what was read from files in this process, as long as the files stay as they are."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast

Content = TypeVar("Content")


def stamp_of(path: Path) -> tuple[int, int, int] | None:
    """Returns size, time of the last change in nanoseconds and number of a file; None if there is none."""
    try:
        state = path.stat()
    except OSError:
        return None
    return state.st_size, state.st_mtime_ns, state.st_ino


@dataclass
class ParsedFiles:
    """The contents of files that a plan asks for again and again; to parse one and to check its seals takes longer."""

    _known: dict[Path, tuple[Any, Any]] = field(default_factory=dict)

    def __getstate__(self) -> dict[str, Any]:
        """Leaves out what was read, because a store is sent to every worker with every job."""
        return {"_known": {}}

    def content(self, path: Path, read: Callable[[], Content], is_sound: Callable[[Content], bool] = bool) -> Content:
        """Returns what `read` makes of a file; the caller may change the result.

        Args:
            path: of the file. It is read again if its stamp is another one (see `stamp_of`).
            read: reads the file.
            is_sound: whether a content may be kept; others are read again at each call.
        """
        stamp = stamp_of(path)
        known = self._known.get(path)
        if known is not None and stamp is not None and known[0] == stamp:
            return cast(Content, copy.deepcopy(known[1]))
        content = read()
        if stamp is not None and is_sound(content) and stamp_of(path) == stamp:  # the file may have been written since
            self._known[path] = stamp, copy.deepcopy(content)
        return content
