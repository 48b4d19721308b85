"""Locks between processes that work on one run. Who holds one is written beside it, so that those who wait can say so.

The system releases a lock when its holder ends, however it ends. The file `NAME.holder` stays if the holder was killed;
then it tells the next command that temporary files may have been left in the run's folder.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from itertools import chain, repeat
from pathlib import Path

from filelock import FileLock, Timeout

from xlt.escapes import say
from xlt.files import write_json
from xlt.writers import ELSEWHERE, GONE, STOPPED, Writer, this_process

_HOLDER = ".holder"
_PATIENCE_SECONDS = (1.0, 60.0)
"""How long a process waits before it says for what, and before it says it a second time."""
_LATER_SECONDS = 600.0
_OLD = timedelta(hours=24)


@contextmanager
def held(file: Path) -> Iterator[None]:
    """Holds a lock within a `with` block. Who waits for longer than a second says for whom, and again now and then."""
    file.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(str(file))
    for seconds in chain(_PATIENCE_SECONDS, repeat(_LATER_SECONDS)):
        try:
            lock.acquire(timeout=seconds)
            break
        except Timeout:
            say(f"xlt: {waiting_line(file)}")
    try:
        note_holder(file)
        yield
    finally:
        forget_holder(file)
        lock.release()


def note_holder(file: Path) -> None:
    """Writes beside a lock that this process holds it. Where that is impossible, nobody will know it."""
    holder = this_process()
    with suppress(OSError):
        write_json(
            _holder_file(file), {**vars(holder), "since": datetime.now().astimezone().isoformat(timespec="seconds")}
        )


def forget_holder(file: Path) -> None:
    with suppress(OSError):
        _holder_file(file).unlink(missing_ok=True)


def waiting_line(file: Path) -> str:
    """Returns a line for somebody who waits for a lock: who holds it, since when, and what can be done about it."""
    about = f"waits for run {file.stem}, on which"
    holder, since = _holder(file)
    if holder is None:
        return f"{about} another process works; nobody has written which ({_holder_file(file)})"
    who = f"process {holder.pid} on {holder.host}"
    when = "" if since is None else f" since {since:%Y-%m-%d %H:%M:%S}"
    state = holder.state()
    if state == STOPPED:
        return f"{about} {who} works{when}; it is stopped: kill -CONT {holder.pid} continues it, kill -KILL ends it"
    if state == GONE:
        return f"{about} {who} worked{when}; it has ended, but a process that it started holds {file}; end that one"
    if state == ELSEWHERE and since is not None and datetime.now().astimezone() - since > _OLD:
        return f"{about} {who} works{when}; if it does not run there any more, remove {file}"
    return f"{about} {who} works{when}"


def abandoned(folder: Path) -> Iterator[Path]:
    """Yields the locks in a folder whose holders were killed while they held them."""
    for note in sorted(folder.glob(f"*{_HOLDER}")):
        file = note.with_name(note.name.removesuffix(_HOLDER))
        holder, _ = _holder(file)
        if holder is None or holder.state() == GONE:
            yield file


def _holder(file: Path) -> tuple[Writer | None, datetime | None]:
    try:
        content = json.loads(_holder_file(file).read_text(encoding="utf-8"))
        holder = Writer(str(content["host"]), int(content["pid"]), int(content["started"]))
        return holder, datetime.fromisoformat(content["since"])
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None, None


def _holder_file(file: Path) -> Path:
    return file.with_name(file.name + _HOLDER)
