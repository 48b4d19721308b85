"""Reads from the `.wandb` files of an offline run which records W&B already has.

Such a file is a log of protobuf records in blocks of 32 KiB. After a header of 7 bytes come pieces of records, each
preceded by a checksum, its length and its kind (whole, first, middle, last); no piece crosses the end of a block. If
the client is killed, up to a block is missing at the end, and the file may end within a record.
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
    """Yields the complete records from a block on, in their order, as W&B's `Record` messages.

    Args:
        file: a `.wandb` file.
        first_block: number of the block, from 0.
    Raises:
        ValueError: the file is no log of W&B.
    """
    from wandb.proto.wandb_internal_pb2 import Record

    with file.open("rb") as stream:
        if not first_block and stream.read(_HEADER)[: len(_MAGIC)] not in (_MAGIC, b""):
            raise ValueError(f"{file}: is not a log of W&B; remove it")
        stream.seek(first_block * _BLOCK)
        content = stream.read()
    at, pieces, in_record = 0 if first_block else _HEADER, b"", False
    while at + _PIECE.size <= len(content):
        left = _BLOCK - at % _BLOCK
        if left < _PIECE.size:
            at += left
            continue
        _, length, kind = _PIECE.unpack_from(content, at)
        at += _PIECE.size
        if kind == 0 or at + length > len(content):
            return
        in_record = in_record or kind in (_WHOLE, _FIRST)  # a block may begin within a record
        pieces += content[at : at + length] if in_record else b""
        at += length
        if in_record and kind in (_WHOLE, _LAST):
            record = Record()
            record.ParseFromString(pieces)
            pieces = b""
            yield record


def count_rows(folder: Path, name: str) -> int:
    """Returns the number of history rows in all offline files of run `name` under `folder`, counted by their steps."""
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
