"""Keeps digests of code in the cache of a store, so that a later command need not follow the same code again.

They count only as long as all files of xlt's code are as they were. If nobody can know, nothing is kept.
"""

from __future__ import annotations

import contextlib
import platform
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from xlt.code_state import code_state
from xlt.data.sources import digest
from xlt.files import DamagedFileError, read_sealed, write_sealed
from xlt.source_code import installed

_FILE = "code.json"


@dataclass
class _Kept:
    """Digests of code that were found in a state of it: request -> module -> digest."""

    by_request: dict[str, dict[str, str]] = field(default_factory=dict)
    is_new: bool = False


_kept: _Kept | None = None


@contextlib.contextmanager
def digests_kept_in(cache_folder: Path) -> Iterator[None]:
    """Keeps digests of code in a folder while runs are planned; if there is no such folder, none is made.

    Args:
        cache_folder: the cache of a store.
    """
    global _kept
    file, before = cache_folder / _FILE, _kept
    state = code_state() if cache_folder.is_dir() else None
    if state is None:
        yield
        return
    about = digest([platform.python_version(), state])
    kept = _kept = _Kept(_read(file, about))
    try:
        yield
    finally:
        _kept = before
        if kept.is_new:
            with contextlib.suppress(OSError):  # the store may be read-only
                write_sealed(file, {"state": about, "digests": kept.by_request})


def code_digests(roots: Collection[str], without: Collection[str]) -> dict[str, str]:
    """Returns what `SourceCode.digests` returns for the installed code."""
    if _kept is None:
        return installed().digests(roots, without)
    request = digest([sorted({*roots}), sorted({*without})])
    if request not in _kept.by_request:
        _kept.by_request[request] = installed().digests(roots, without)
        _kept.is_new = True
    return _kept.by_request[request]


def _read(file: Path, about: str) -> dict[str, dict[str, str]]:
    try:
        content = read_sealed(file)
    except (OSError, DamagedFileError):
        return {}
    digests = content.get("digests")
    return digests if content.get("state") == about and isinstance(digests, dict) else {}
