"""What an offline run of W&B holds already, read off its `.wandb` files.

Such a file is a log of protobuf records in blocks of 32 KiB: a header of 7 bytes, then pieces of records, each behind
a checksum, its length and its kind (whole, first, middle, last); no piece crosses the end of a block. A client that is
killed leaves out what it had not yet written, up to a block, which may end in half a record.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_MAGIC, _HEADER, _BLOCK = b":W&B", 7, 32 * 1024
_PIECE = struct.Struct("<IHB")  # checksum, length, kind
_WHOLE, _FIRST, _LAST = 1, 2, 4
_SECONDS_TO_END = 5.0


def records(file: Path, first_block: int = 0) -> Iterator[Any]:
    """The complete records from a block on, as W&B's `Record` messages, in order.

    Raises:
        ValueError: no such file of W&B's.
    """
    from wandb.proto.wandb_internal_pb2 import Record

    with file.open("rb") as opened:
        if not first_block and opened.read(_HEADER)[: len(_MAGIC)] not in (_MAGIC, b""):
            raise ValueError(f"{file}: not a log of W&B's; remove it")
        opened.seek(first_block * _BLOCK)
        content = opened.read()
    at, pieces, begun = 0 if first_block else _HEADER, b"", False
    while at + _PIECE.size <= len(content):
        left = _BLOCK - at % _BLOCK
        if left < _PIECE.size:
            at += left
            continue
        _, length, kind = _PIECE.unpack_from(content, at)
        at += _PIECE.size
        if kind == 0 or at + length > len(content):
            return
        begun = begun or kind in (_WHOLE, _FIRST)  # a block may begin within a record
        pieces += content[at : at + length] if begun else b""
        at += length
        if begun and kind in (_WHOLE, _LAST):
            record = Record()
            record.ParseFromString(pieces)
            pieces = b""
            yield record


def rows_kept(folder: Path, name: str) -> int:
    """How many rows of history the offline sittings of run `name` under `folder` hold, counted by their steps."""
    files = folder.glob(f"wandb/offline-run-*-{name}/run-{name}.wandb")
    steps = (r.history.step.num for file in files for r in records(file) if r.WhichOneof("record_type") == "history")
    return max(steps, default=-1) + 1


def wait_for_end(file: Path) -> bool:
    """Returns when the client has written the end of a finished sitting, which it does behind the program's back.

    Returns:
        Whether it has; false if that takes too long.
    """
    deadline = time.monotonic() + _SECONDS_TO_END
    while time.monotonic() < deadline:
        last = records(file, max(file.stat().st_size // _BLOCK - 1, 0))
        if any(record.WhichOneof("record_type") == "exit" for record in last):
            return True
        time.sleep(0.01)
    return False
