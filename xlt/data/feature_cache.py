"""A cache of tokenised sources on disk: computed once for a source, a task and a tokenizer, then mapped into memory.

The features of a source are one Arrow file, which `datasets` reads and whose name is a hash of everything on which they
depend. The file gets its name when it is complete and on the disk. Behind the Arrow stream stand a mark and a checksum
of the stream and of the name, which are compared whenever the file is opened; readers of Arrow ignore them. If two
processes write the same file, the later one replaces the earlier by an equal one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, overload

from xlt.data.mix import Features
from xlt.files import atomic_path, file_digest, set_aside

_CHUNK = 1000
_MARK = b"xlt-xxh3-128:\n\0\0"
_SEAL_BYTES = len(_MARK) + 16


class ArrowFeatures(Sequence[Features]):
    """Rows of a memory-mapped Arrow file as dicts of Python values."""

    def __init__(self, file: Path) -> None:
        import datasets

        self._rows = datasets.Dataset.from_file(str(file))

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> Features: ...
    @overload
    def __getitem__(self, index: slice) -> list[Features]: ...
    def __getitem__(self, index: int | slice) -> Features | list[Features]:
        if isinstance(index, slice):
            return self.rows(list(range(*index.indices(len(self)))))
        return self._rows[index]

    def __iter__(self) -> Iterator[Features]:
        for at in range(0, len(self), _CHUNK):
            yield from self.rows(list(range(at, min(at + _CHUNK, len(self)))))

    def rows(self, numbers: Sequence[int]) -> list[Features]:
        """Returns several rows, in the order of `numbers`, with one access to the file."""
        columns = self._rows[list(numbers)]
        return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]

    def lengths(self, name: str) -> list[int]:
        """Returns the lengths of the lists in a column, without reading the lists."""
        import pyarrow.compute as pc

        return pc.list_value_length(self._rows.data.column(name)).to_pylist()


class NoFeaturesError(ValueError):
    """A source has no features that could be cached."""


def cached(file: Path, make: Iterable[Features]) -> ArrowFeatures:
    """Returns the features in `file`; if there is no such file, or it is damaged, writes it first.

    Every byte of the file is checked. A damaged file is set aside.

    Args:
        file: its folder need not exist.
        make: yields all rows; each is a dict from the same names to ints, strings, or lists of these.
    Raises:
        NoFeaturesError: `make` yields nothing.
    """
    if file.exists() and (fault := _damage(file)) is not None:
        set_aside(file, fault, "the source is tokenised again")
    if not file.exists():
        _write(file, make)
    return ArrowFeatures(file)


def _write(file: Path, rows: Iterable[Features]) -> None:
    import pyarrow as pa

    file.parent.mkdir(parents=True, exist_ok=True)
    remaining = iter(rows)
    first = list(islice(remaining, _CHUNK))
    if not first:
        raise NoFeaturesError("no features to write")
    schema = pa.schema([(name, _type(name, first)) for name in first[0]])
    with atomic_path(file) as temporary:
        with pa.OSFile(str(temporary), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
            chunk = first
            while chunk:
                writer.write_table(pa.Table.from_pylist(chunk, schema=schema))
                chunk = list(islice(remaining, _CHUNK))
        seal = _MARK + bytes.fromhex(file_digest(temporary, start=file.name.encode()))
        with temporary.open("ab") as end:
            end.write(seal)


def _damage(file: Path) -> str | None:
    """Returns what is wrong with a file of features; None if it is as it was written, under this name."""
    try:
        rows_bytes = file.stat().st_size - _SEAL_BYTES
        with file.open("rb") as stream:
            stream.seek(max(rows_bytes, 0))
            seal = stream.read(_SEAL_BYTES + 1)
        if rows_bytes <= 0 or seal[: len(_MARK)] != _MARK or len(seal) != _SEAL_BYTES:
            return "it is no complete file of features"
        if seal[len(_MARK) :].hex() != file_digest(file, end=rows_bytes, start=file.name.encode()):
            return "its content or its name does not fit its checksum"
    except OSError as error:
        return f"it cannot be read ({error.strerror or error})"
    return None


def _type(name: str, rows: Sequence[Features]) -> Any:
    """Returns the Arrow type of a column: 32-bit integers, strings, or nested lists of these."""
    import pyarrow as pa

    def of(values: Iterable[Any]) -> Any:
        listed = list(values)
        told = next((value for value in listed if not isinstance(value, list) or value), None)
        if isinstance(told, list):
            return pa.list_(of(item for value in listed for item in value))
        return pa.string() if isinstance(told, str) else pa.int32()

    values = [row[name] for row in rows]
    if all(isinstance(value, list) for value in values):
        return pa.list_(of(item for value in values for item in value))
    return of(values)
