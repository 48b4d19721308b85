"""From a source's config to its examples: the reader is found by name, caps are drawn by seed."""

from __future__ import annotations

import hashlib
import importlib
import pkgutil
from functools import lru_cache
from pathlib import Path
from types import ModuleType

import torch

from xlt.config import DataConfig, SourceConfig, UsageError
from xlt.data import readers
from xlt.data.examples import Example
from xlt.data.streams import stream


def reader_of(source: SourceConfig) -> ModuleType:
    """The module of `xlt/data/readers` named by the source; it has `files` and `read`, and `identity` if no files."""
    known = sorted(module.name for module in pkgutil.iter_modules(readers.__path__))
    if source.reader not in known:
        raise UsageError(f"reader={source.reader}: no such reader; there are {', '.join(known)}")
    return importlib.import_module(f"{readers.__name__}.{source.reader}")


def source_identity(source: SourceConfig) -> dict[str, object]:
    """What a fingerprint says of a source: the content of its files, not where they lie.

    Raises:
        UsageError: a file is missing.
    """
    reader = reader_of(source)
    content = [_content_hash(str(file), file.stat().st_mtime_ns, file.stat().st_size) for file in reader.files(source)]
    if hasattr(reader, "identity"):
        content.append(reader.identity(source))
    return {
        "content": content,
        "reader": source.reader,
        "language": source.language,
        "upsample": source.upsample,
        "cap": source.cap,
    }


def source_faults(data: DataConfig) -> list[str]:
    """What can be said about all sources of a run without reading them: unknown readers, absent files, a line each."""
    lines = []
    for part in ("sources", "validation", "evaluation"):
        for name, source in getattr(data, part).items():
            try:
                reader_of(source).files(source)
            except UsageError as error:
                separator = "." if error.lines[0].startswith(("reader=", "path=", "language=")) else ": "
                lines += [f"data.{part}.{name}{separator}{line}" for line in error.lines]
    return lines


def read_source(name: str, source: SourceConfig, seed: int) -> list[Example]:
    """Examples of a source, capped; the same seed draws the same ones whatever else the mix holds.

    Raises:
        UsageError: the source is missing, broken or empty.
    """
    examples: list[Example] = reader_of(source).read(source)
    if not examples:
        raise UsageError(f"{name}: split {source.split} of {source.path or source.reader} has no examples")
    if source.cap is not None and source.cap < len(examples):
        order = torch.randperm(len(examples), generator=stream(seed, "cap", source.language, source.split))
        examples = [examples[i] for i in sorted(order[: source.cap].tolist())]
    return examples


@lru_cache(maxsize=4096)
def _content_hash(file: str, modified: int, size: int) -> str:
    with Path(file).open("rb") as opened:
        return hashlib.file_digest(opened, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
