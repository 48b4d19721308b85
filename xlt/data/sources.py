"""From a source's config to its examples: the reader is found by name, caps are drawn by seed.

Examples are streamed. Which of them a run takes (a cap, a held-out part, a list of texts to leave out) is decided by
number, in passes of their own, so that a corpus larger than memory can be read.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import json
import pkgutil
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from xlt.config import DataConfig, SourceConfig, used_keys
from xlt.data import readers
from xlt.data.examples import Example
from xlt.data.overlap import Overlap
from xlt.data.records import prompted
from xlt.data.streams import stream
from xlt.errors import UsageError
from xlt.tracebacks import error_line

PARTS = ("sources", "validation", "evaluation", "excluded")

# How a reader's message begins that is about a key of the source.
_ABOUT_KEYS = ("reader=", "path=", "language=", "fields=", "fields.", "hub=", "hub.", "instruction", "where=")


def reader_of(source: SourceConfig) -> ModuleType:
    """The module of `xlt/data/readers` that reads the source: the one it names, or `hub` where it has no local path.

    A reader has `files` and `read`, `identity` where files alone do not say what is read, and says `CHOOSES_ROWS` if it
    reads only what a source's `where` wants.
    """
    known = sorted(module.name for module in pkgutil.iter_modules(readers.__path__))
    if source.reader not in known:
        raise UsageError(f"reader={source.reader}: no such reader; there are {', '.join(known)}")
    name = "hub" if source.path is None and source.hub is not None else source.reader
    if source.translation is not None:
        name = "translated"
    try:
        return importlib.import_module(f"{readers.__name__}.{name}")
    except Exception as error:  # whatever a broken file raises
        raise UsageError(f"reader={name}: the reader cannot be imported: {error_line(error)}") from error


def source_identity(source: SourceConfig) -> dict[str, object]:
    """What a fingerprint says of a source: the content of its files and how it is read, not where they lie.

    Null values and empty mappings are left out.

    Raises:
        UsageError: a file is missing.
    """
    reader = reader_of(source)
    content = [_content_hash(str(file), file.stat().st_mtime_ns, file.stat().st_size) for file in reader.files(source)]
    if hasattr(reader, "identity"):
        content.append(reader.identity(source))
    name = reader.__name__.rpartition(".")[2]
    own_format = name == source.reader  # `hub.fields` name the columns of a data set on the hub
    fields = {role: column.replace("{code}", source.code) for role, column in source.fields.items()}
    identity = {
        **{key: getattr(source, key) for key in used_keys(source)},
        "instruction": dataclasses.asdict(source.instruction) if source.instruction is not None else None,
        "content": content,
        "reader": name,
        "fields": fields if own_format else None,
        "upsample": source.upsample,
        "parallel": list(source.parallel) if source.parallel is not None else None,
    }
    return {key: value for key, value in identity.items() if value is not None and value != {}}


def parallel_languages(data: DataConfig) -> list[str]:
    """ISO 639-3 codes of the languages of all parallel text in a run's data, sorted."""
    sources = [source for part in PARTS for source in getattr(data, part).values()]
    return sorted({code for source in sources if source.parallel is not None for code in source.parallel})


def digest(value: Any) -> str:
    """32 hexadecimal digits for a JSON value."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def source_faults(data: DataConfig) -> list[str]:
    """What can be said about all sources of a run without reading them: unknown readers, absent files, a line each."""
    lines = []
    for part in PARTS:
        for name, source in getattr(data, part).items():
            try:
                reader = reader_of(source)
                reader.files(source)
                if source.where and not getattr(reader, "CHOOSES_ROWS", False):
                    raise UsageError(f"where={dict(source.where)}: reader {source.reader} reads every example")
            except UsageError as error:
                separator = "." if error.lines[0].startswith(_ABOUT_KEYS) else ": "
                lines += [f"data.{part}.{name}{separator}{line}" for line in error.lines]
    return lines


def read_source(name: str, source: SourceConfig, seed: int, overlap: Overlap | None = None) -> Iterator[Example]:
    """Examples of a source, capped; the same seed draws the same ones whatever else the mix holds.

    Args:
        name: for messages.
        source: what to read.
        seed: of the run; draws the cap.
        overlap: texts that are left out, before the cap is drawn.
    Raises:
        UsageError: the source is missing, broken or empty.
    """

    read = reader_of(source).read
    content = "" if overlap is None else digest(source_identity(source))

    def stream_once() -> Iterator[Example]:
        for example in read(source) if overlap is None else overlap.apart(content, read(source)):
            yield _as_instruction(_in_languages(_relabelled(example, source), source), source)

    kept: set[int] | None = None
    if source.cap is not None:
        count = _count(stream_once)
        if source.cap < count:
            order = torch.randperm(count, generator=stream(seed, "cap", source.language, source.split))
            kept = set(order[: source.cap].tolist())
    if source.cap_words is not None:
        kept = _enough_words(stream_once, kept, source.cap_words, stream(seed, "words", source.language, source.split))
    empty = True
    for number, example in enumerate(stream_once()):
        if kept is None or number in kept:
            empty = False
            yield example
    if empty:
        where = source.path or (source.hub.id if source.hub is not None else source.reader)
        raise UsageError(f"{name}: split {source.split} of {where} has no examples")


def _count(stream_once: Callable[[], Iterator[Example]]) -> int:
    return sum(1 for _ in stream_once())


def _enough_words(
    stream_once: Callable[[], Iterator[Example]], kept: set[int] | None, words: int, generator: torch.Generator
) -> set[int]:
    """Numbers of the examples that come first in a random order, until they have so many words; of `kept` alone."""
    lengths = torch.tensor([len(example.words or (example.text or "").split()) for example in stream_once()])
    order = torch.randperm(len(lengths), generator=generator)
    if kept is not None:
        order = order[torch.isin(order, torch.tensor(sorted(kept)))]
    before = lengths[order].cumsum(0) - lengths[order]
    return set(order[before < words].tolist())


def _relabelled(example: Example, source: SourceConfig) -> Example:
    """The data set's labels in the task's words (thesis §3.4.3: MISC and DATE become O)."""
    if not source.labels:
        return example
    columns = {name: tuple(source.labels.get(tag, tag) for tag in tags) for name, tags in example.columns.items()}
    label = source.labels.get(example.label, example.label) if example.label is not None else None
    return dataclasses.replace(example, columns=columns, label=label)


def _in_languages(example: Example, source: SourceConfig) -> Example:
    return example if source.parallel is None else dataclasses.replace(example, languages=source.parallel)


def _as_instruction(example: Example, source: SourceConfig) -> Example:
    """A conversation of the example's parts, as the source's `instruction` has it.

    Raises:
        UsageError: a template names a part that the example lacks.
    """
    if source.instruction is None:
        return example
    parts = {"text": example.text, "pair": example.pair, "label": example.label}
    if example.answers:
        parts["answer"] = example.answers[0].text
    there = {name: value for name, value in parts.items() if value is not None}
    try:
        prompt, completion = (
            template.format_map(there) for template in (source.instruction.prompt, source.instruction.completion)
        )
    except (KeyError, ValueError, IndexError) as error:
        raise UsageError(
            f"instruction: {error} in a template is no part of {example.place}; there are {', '.join(there) or 'none'}"
        ) from error
    return dataclasses.replace(example, turns=prompted(prompt, "", completion, example.place))


@lru_cache(maxsize=4096)
def _content_hash(file: str, modified: int, size: int) -> str:
    with Path(file).open("rb") as opened:
        return hashlib.file_digest(opened, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
