"""Writing files so that a reader sees the old content or the whole new one, and finding out which are damaged.

A sealed file or line carries a checksum of its content and of its place (folder and name). A bit that has changed, an
end that is missing, or a file that was copied from another run is therefore noticed. What is damaged is set aside: it
keeps its content under another name, and one line on standard error says so.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import xxhash

from xlt.escapes import say
from xlt.writers import remove_left_overs, temporary_path

CHECKSUM_KEY = "checksum"
DAMAGED = ".damaged"

_LARGE_BYTES, _SPARSE = 1 << 28, 100  # a file is sparse if it is large and a hundred times as long as what is stored
_BLOCK_BYTES = 1 << 20
_SEAL = f',\n "{CHECKSUM_KEY}": "'
_SEAL_END = '"\n}\n'
_REPORTED: set[tuple[Path, str]] = set()


class DamagedFileError(ValueError):
    """A file is not as its writer left it. The message says in one line what is wrong with it."""


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yields the path of a temporary file that gets the name `path` when its content has reached the disk.

    Others can read it as the umask says, whatever a library that writes it says (`safetensors` lets nobody read it).
    If the block raises, nothing is left behind and a file that had the name before is unchanged.
    """
    temporary = temporary_path(path)
    try:
        temporary.touch()
        mode = temporary.stat().st_mode
        yield temporary
        temporary.chmod(mode)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yields a new temporary folder that gets the name `path` when its files have reached the disk.

    Others can read the files as the umask says. If the block raises, nothing is left behind. What killed writers left
    beside the folder is removed.

    Args:
        path: of the folder; an empty folder of this name is replaced.
    """
    remove_left_overs(path.absolute().parent)
    temporary = temporary_path(path.absolute())
    try:
        temporary.mkdir()
        mode = temporary.stat().st_mode & 0o666
        yield temporary
        for file in temporary.rglob("*"):
            if file.is_file():
                file.chmod(mode)
                with file.open("rb+") as opened:
                    os.fsync(opened.fileno())
        temporary.replace(path.absolute())
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    _sync_folder(path.absolute().parent)


@contextmanager
def atomic_text(path: Path) -> Iterator[TextIO]:
    """Opens a UTF-8 text file for writing that gets its name only when everything is on the disk; see `atomic_path`."""
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        yield file


def write_json(path: Path, value: Any) -> None:
    """Writes JSON atomically, keys sorted."""
    with atomic_text(path) as file:
        file.write(_text(value))


def write_sealed(path: Path, value: Mapping[str, Any]) -> None:
    """Writes a JSON object atomically, keys sorted, and adds the key `checksum` at its end.

    Args:
        path: of the file; the checksum also covers the names of the file and of its folder.
        value: the object, not empty and without this key.
    """
    assert value and CHECKSUM_KEY not in value
    body = _text(value).removesuffix("\n}\n")
    with atomic_text(path) as file:
        file.write(f"{body}{_SEAL}{_checksum(_place(path), body)}{_SEAL_END}")


def read_sealed(path: Path) -> dict[str, Any]:
    """Reads a JSON object that `write_sealed` or, in earlier versions, `write_json` wrote; without its checksum.

    Returns:
        The object; empty if there is no such file.
    Raises:
        DamagedFileError: the file cannot be read, is no JSON object, or does not fit its checksum.
    """
    try:
        raw = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise DamagedFileError(f"it cannot be read ({error.strerror})") from error
    try:
        text = raw.decode("utf-8")
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DamagedFileError("it is empty" if not raw else "it is no JSON in UTF-8") from error
    if not isinstance(value, dict):
        raise DamagedFileError("it holds no JSON object")
    if not value:
        raise DamagedFileError("it holds an empty JSON object")
    if CHECKSUM_KEY in value:
        body, _, rest = text.rpartition(_SEAL)
        if rest != f"{_checksum(_place(path), body)}{_SEAL_END}":
            raise DamagedFileError("its content or its place does not fit its checksum")
        del value[CHECKSUM_KEY]
    return value


def sealed(value: Mapping[str, Any], *place: str) -> dict[str, Any]:
    """Returns a JSON object with a checksum, for an object within a file, such as a line.

    Args:
        value: the object, without the key `checksum`.
        place: names of the place where it belongs, such as the run's folder and the key; the checksum covers them.
    """
    return {**value, CHECKSUM_KEY: _checksum("\0".join(place), _canonical(value))}


def unsealed(value: Any, *place: str) -> dict[str, Any]:
    """Returns the object that `sealed` got; an object without a checksum is returned as it is.

    Raises:
        DamagedFileError: the value is no JSON object, or does not fit its checksum.
    """
    if not isinstance(value, dict):
        raise DamagedFileError("an entry is no JSON object")
    if CHECKSUM_KEY not in value:
        return value
    content = {name: part for name, part in value.items() if name != CHECKSUM_KEY}
    if value[CHECKSUM_KEY] != _checksum("\0".join(place), _canonical(content)):
        raise DamagedFileError("the content or the place of an entry does not fit its checksum")
    return content


def file_digest(path: Path, *, end: int | None = None, start: bytes = b"") -> str:
    """Returns the XXH3 digest (128 bits) of a file, which finds damage at the speed of memory.

    Args:
        path: of the file.
        end: number of bytes to read; None: all.
        start: bytes that are digested before those of the file.
    Raises:
        OSError: the file cannot be read, or it is shorter than `end`.
    """
    digest = xxhash.xxh3_128(start)
    block = memoryview(bytearray(_BLOCK_BYTES))
    remaining = math.inf if end is None else end
    with path.open("rb", buffering=0) as file:
        while remaining and (count := file.readinto(block[: int(min(remaining, _BLOCK_BYTES))])):
            digest.update(block[:count])
            remaining -= count
    if end is not None and remaining:
        raise OSError(f"{path}: is shorter than {end} bytes")
    return digest.hexdigest()


def digests_of(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """Returns name -> digest, for the files of these names in a folder and for all files in subfolders of these names.

    Names are relative to the folder. Hidden files in subfolders are left out, as are names that do not exist.
    """
    digests = {}
    for name in names:
        inside = (folder / name).rglob("*") if (folder / name).is_dir() else [folder / name]
        for file in sorted(inside):
            if file.is_file() and (file == folder / name or not file.name.startswith(".")):
                digests[file.relative_to(folder).as_posix()] = file_digest(file)
    return digests


def set_aside(path: Path, fault: str, remedy: str, *, along: Iterable[Path] = ()) -> None:
    """Renames a damaged file or folder, so that it can be made again, and says so in a line on standard error.

    Its new name is the old one with `.damaged` and, if need be, a number.

    Args:
        path: of the file or folder; if it is not there any more, or cannot be renamed, only the line is printed.
        fault: what is wrong with it.
        remedy: what happens next.
        along: files that are worth nothing without it; they are renamed first, in the same way and without a line.
    """
    try:
        for other in along:
            other.rename(_free_name(other))
        kept = _free_name(path)
        path.rename(kept)
        _print(path, f"{fault}; it is kept as {kept.name}; {remedy}")
        return
    except FileNotFoundError:
        about = ""
    except OSError as error:
        about = f"it cannot be renamed ({error.strerror}); "
    report(path, f"{fault}; {about}{remedy}")


def keep_copy(path: Path) -> str:
    """Copies a damaged file, before its sound parts are written again; returns the name of the copy."""
    kept = _free_name(path)
    kept.write_bytes(path.read_bytes())
    return kept.name


def report(path: Path, what: str) -> None:
    """Prints a line about a damaged file on standard error, once in a process."""
    if (path, what) not in _REPORTED:
        _REPORTED.add((path, what))
        _print(path, what)


def folder_fault(folder: Path) -> str | None:
    """Returns why nothing can be written below a folder, which need not exist yet; None if it can be."""
    try:
        there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    except (OSError, ValueError) as error:  # a name is too long, or has a zero byte
        return f"no folder can have this name ({getattr(error, 'strerror', None) or error})"
    if not there.is_dir():
        return f"{there} is not a folder"
    # Of a name that is too long, the system says so only where the folder around it exists.
    if any(len(os.fsencode(part)) > os.pathconf(there, "PC_NAME_MAX") for part in folder.absolute().parts):
        return "no folder can have this name (File name too long)"
    return None if os.access(there, os.W_OK) else f"{there} cannot be written to"


def kind_fault(state: os.stat_result) -> str | None:
    """Returns why a file is none that could be read as a whole; None if it is one.

    Args:
        state: of `stat` or `fstat`, which follow links.
    """
    if not stat.S_ISREG(state.st_mode):
        return "is a folder, a pipe or a device, not a file"
    stored = getattr(state, "st_blocks", state.st_size) * 512
    if state.st_size > _LARGE_BYTES and stored * _SPARSE < state.st_size:
        return f"is a file of {state.st_size} bytes, of which only {stored} are on the disk; copy it again"
    return None


def open_without_waiting(path: str, flags: int) -> int:
    """Opens a file, as the `opener` of Python's `open`; of a pipe, without waiting for somebody who writes to it."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _print(path: Path, what: str) -> None:
    say(f"xlt: {path}: {what}")


def _free_name(path: Path) -> Path:
    names = (path.with_name(f"{path.name}{DAMAGED}{'' if number == 1 else f'-{number}'}") for number in range(1, 10**6))
    return next(name for name in names if not name.exists() and not name.is_symlink())


def _text(value: Any) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False, sort_keys=True) + "\n"


def _canonical(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))


def _place(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"


def _checksum(place: str, content: str) -> str:
    return xxhash.xxh3_128(f"{place}\0{content}".encode()).hexdigest()


def _sync_folder(folder: Path) -> None:
    """Makes sure that the file's new name survives a power cut (POSIX only; elsewhere a folder cannot be opened)."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
