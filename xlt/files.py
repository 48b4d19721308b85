"""Writing files so that a reader sees the old content or the whole new one, never a part."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO


@contextmanager
def atomic_text(path: Path) -> Iterator[TextIO]:
    """Opens a UTF-8 text file for writing that gets its name only when everything is on the disk.

    If the block raises, nothing is left behind and a file that had the name before is unchanged.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_json(path: Path, value: Any) -> None:
    """Writes JSON atomically, keys sorted."""
    with atomic_text(path) as file:
        json.dump(value, file, indent=1, ensure_ascii=False, sort_keys=True)
        file.write("\n")
