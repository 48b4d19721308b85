"""The states of files: what tells that nothing has changed since something was kept that depends on them."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import xlt
from xlt import plug_ins

_PACKAGES = ("xlt", "xlt_kernels")
_EXTENDED = ("xlt.methods", "xlt.tasks", "xlt.modules.composition", "xlt.data.readers", "xlt.data.transforms")
_A_WHILE = 2_000_000_000  # nanoseconds, more than the clocks of file systems are coarse or late

FileState = tuple[Any, ...]
"""Path, times of the last changes, size and inode of a file; the path alone if it cannot be read."""


def files_in(folder: Path | str, above: frozenset[tuple[int, int]] = frozenset()) -> Iterator[FileState]:
    """Yields the state of everything in a folder: path, times of the last changes, size (bytes) and inode.

    The times, in nanoseconds, are those of the content and of anything; no program can set the second one back. What
    cannot be read, such as a link to nothing, is yielded by its path alone. A link to a folder around it is not
    followed.

    Args:
        above: device and inode of the folders around it.
    """
    try:
        own = Path(folder).stat()
        entries = list(os.scandir(folder))
    except OSError:
        yield (str(folder),)
        return
    around = above | {(own.st_dev, own.st_ino)}
    for entry in entries:
        try:
            about = entry.stat()
            yield entry.path, about.st_mtime_ns, about.st_ctime_ns, about.st_size, about.st_ino
            if entry.is_dir() and entry.name != "__pycache__" and (about.st_dev, about.st_ino) not in around:
                yield from files_in(entry.path, around)
        except OSError:
            yield (entry.path,)


def are_older(states: Iterable[FileState]) -> bool:
    """Returns whether all files can be read, and none has changed since this process began: it may have read others."""
    return all(len(state) > 1 and max(state[1:3]) < xlt.LOADED_NS - _A_WHILE for state in states)


def code_state() -> list[FileState] | None:
    """Returns the states of all files of xlt's code.

    Returns:
        None if nobody can know which code this process executes: a file has changed since it began, or there are
        plug-ins.
    """
    if plug_ins.plug_in_folders() or any(map(plug_ins.installed_entries, _EXTENDED)):
        return None
    return _own_code_state()


@cache
def _own_code_state() -> list[FileState] | None:
    states = []
    for package in _PACKAGES:
        spec = importlib.util.find_spec(package)
        for folder in () if spec is None else spec.submodule_search_locations or ():
            states += [state for state in files_in(folder) if str(state[0]).endswith(".py")]
    return sorted(states) if states and are_older(states) else None
