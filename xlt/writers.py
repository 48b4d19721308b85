"""Which process writes a file or holds a lock, and whether it still runs; temporary files that bear its name."""

from __future__ import annotations

import functools
import hashlib
import os
import re
import secrets
import shutil
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

RUNNING, STOPPED, GONE, ELSEWHERE = "running", "stopped", "gone", "elsewhere"
_TEMPORARY = re.compile(r"\..+\.(?:(?P<host>[0-9a-f]{6})-(?P<pid>\d+)-(?P<started>\d+)-)?[0-9a-f]{8,12}\.tmp")
_DAY_SECONDS = 86_400


@dataclass(frozen=True)
class Writer:
    """A process.

    Attributes:
        host: name of the machine.
        pid: number of the process there.
        started: when the process began, in ticks of the machine's clock since its start; 0 if the system does not say.
            A later process with the same number began at another time.
    """

    host: str
    pid: int
    started: int

    def state(self) -> str:
        """Returns whether it is `RUNNING`, `STOPPED` by a signal, `GONE`, or on another machine (`ELSEWHERE`)."""
        if self.host != socket.gethostname():
            return ELSEWHERE
        return _state(self.pid, self.started)


def this_process() -> Writer:
    """Returns the process that calls this function."""
    return Writer(socket.gethostname(), os.getpid(), _started(os.getpid()))


def temporary_path(path: Path) -> Path:
    """Returns a new name, beside `path`, for a file or folder that gets the name `path` when it is complete.

    The name says which process writes it, so that `remove_left_overs` knows whether the process still runs.
    """
    host = _short(socket.gethostname())
    return path.with_name(f".{path.name}.{host}-{os.getpid()}-{_started(os.getpid())}-{secrets.token_hex(4)}.tmp")


def remove_left_overs(folder: Path) -> list[str]:
    """Removes temporary files and folders in a folder whose writers were killed; returns their names.

    Those of running processes stay. Of writers on other machines, and of earlier versions, which did not name the
    writer, only those that nobody has changed for a day are removed.
    """
    removed = []
    for path in _temporary_files(folder):
        try:
            if _is_left_over(path):
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
                removed.append(path.name)
        except OSError:  # another process has removed it, or the folder is read-only
            continue
    return removed


def _temporary_files(folder: Path) -> Iterator[Path]:
    try:
        with os.scandir(folder) as entries:
            names = [
                entry.name for entry in entries if entry.name.endswith(".tmp") and _TEMPORARY.fullmatch(entry.name)
            ]
    except OSError:
        return
    yield from (folder / name for name in sorted(names))


def _is_left_over(path: Path) -> bool:
    match = _TEMPORARY.fullmatch(path.name)
    assert match is not None
    if match["host"] == _short(socket.gethostname()):
        return _state(int(match["pid"]), int(match["started"])) == GONE
    newest = max(file.lstat().st_mtime for file in (path, *(path.rglob("*") if path.is_dir() else ())))
    return time.time() - newest > _DAY_SECONDS


def _state(pid: int, started: int) -> str:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return GONE
    except OSError:  # it is another user's
        pass
    fields = _fields(pid)
    if not fields:
        return RUNNING if not Path("/proc/self/stat").exists() else GONE
    if fields[0] in "ZX" or (started and int(fields[19]) != started):
        return GONE
    return STOPPED if fields[0] in "Tt" else RUNNING


@functools.lru_cache(maxsize=4)
def _started(pid: int) -> int:
    """Returns when a process began; the number is part of the cache, because a forked process is another one."""
    return int((_fields(pid) or ["0"] * 20)[19])


def _fields(pid: int) -> list[str]:
    """Returns the fields of `/proc/PID/stat` from the state on, which is the third; empty if there are none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return []


def _short(host: str) -> str:
    return hashlib.blake2b(host.encode(), digest_size=3).hexdigest()
