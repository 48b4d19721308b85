"""From a source's settings to its examples: the reader is found by name, caps are drawn by seed.

Examples are streamed. Which of them a run takes (a cap, a held-out part, a list of texts to leave out) is decided by
number, in passes of their own, so that a corpus larger than memory can be read.

`source_identity` is the one answer to "which examples are these": fingerprints, evaluation keys, the cache of features
and the checks of a plan all use it.
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
from typing import Any, cast

import torch

from xlt.config import PARTS, DataConfig, SourceConfig, used_keys
from xlt.data import readers
from xlt.data.examples import Example
from xlt.data.overlap import Overlap
from xlt.data.planned import PlannedSource
from xlt.data.records import prompted
from xlt.data.streams import stream
from xlt.data.transforms import transform_of
from xlt.errors import UsageError
from xlt.tracebacks import error_line

# How a reader's message begins that is about a key of the source.
_ABOUT_KEYS = ("reader=", "path=", "language=", "fields=", "fields.", "hub=", "hub.", "instruction", "where=")


def reader_of(source: SourceConfig) -> ModuleType:
    """The module of `xlt/data/readers` that reads the source: the one it names, or `hub` where it has no local path.

    A reader has `files` and `read`, `identity` if its files alone do not determine what is read, and sets
    `CHOOSES_ROWS` if it reads only the rows that a source's `where` names.
    """
    known = sorted(module.name for module in pkgutil.iter_modules(readers.__path__))
    if source.reader not in known:
        raise UsageError(f"reader={source.reader}: no such reader; there are {', '.join(known)}")
    name = "hub" if source.path is None and source.hub is not None else source.reader
    try:
        return importlib.import_module(f"{readers.__name__}.{name}")
    except Exception as error:  # whatever a broken file raises
        raise UsageError(f"reader={name}: the reader cannot be imported: {error_line(error)}") from error


def reading_module(source: SourceConfig) -> str:
    """The dotted name of the module that reads a source: its reader, or the transform that makes its examples."""
    transform = transform_of(source)
    return (reader_of(source) if transform is None else cast(ModuleType, transform)).__name__


def source_identity(source: PlannedSource | SourceConfig) -> dict[str, object]:
    """Which examples a source has: the content of its files and how they are read, not where they lie.

    The split counts only if a part of the examples is drawn, because it is part of the draw; otherwise the content of
    the split's files says it. Null values and empty mappings are left out.

    Raises:
        UsageError: a file is missing, or another run has to make the examples and the source knows of none.
    """
    planned = _as_planned(source)
    config = planned.config
    content = _content(planned)
    own_format = content["reader"] == config.reader  # `hub.fields` name the columns of a data set on the hub
    fields = {role: column.replace("{code}", config.code) for role, column in config.fields.items()}
    drawn = config.cap is not None or config.cap_words is not None
    identity = {
        **{key: getattr(config, key) for key in used_keys(config)},
        "instruction": dataclasses.asdict(config.instruction) if config.instruction is not None else None,
        **content,
        "fields": fields if own_format else None,
        "upsample": config.upsample,
        "parallel": list(config.parallel) if config.parallel is not None else None,
        "split": config.split if drawn else None,
    }
    return {key: value for key, value in identity.items() if value is not None and value != {}}


def _content(source: PlannedSource) -> dict[str, object]:
    """Content hashes of a source's files, and what reads them."""
    transform = transform_of(source.config)
    if transform is not None:
        content: list[object] = [*_file_hashes(transform.original(source.config)), transform.identity(source)]
        return {"content": content, "reader": transform.READER}
    reader = reader_of(source.config)
    content = [*_file_hashes(source.config)]
    if hasattr(reader, "identity"):
        content.append(reader.identity(source.config))
    return {"content": content, "reader": reader.__name__.rpartition(".")[2]}


def _file_hashes(source: SourceConfig) -> list[str]:
    files = reader_of(source).files(source)
    return [_content_hash(str(file), file.stat().st_mtime_ns, file.stat().st_size) for file in files]


def _same_rows(one: SourceConfig, other: SourceConfig) -> bool:
    """Whether two sources read the same rows of the same data, whatever they then draw, rename or repeat.

    Raises:
        UsageError: a file is missing.
    """

    def rows(source: SourceConfig) -> dict[str, object]:
        transform = transform_of(source)
        read = source if transform is None else transform.original(source)
        whole = dataclasses.replace(read, cap=None, cap_words=None)
        return {**_content(PlannedSource(whole)), "language": source.language, "where": dict(source.where)}

    if (one.language, dict(one.where)) != (other.language, dict(other.where)):
        return False  # without reading any file
    return rows(one) == rows(other)


def parallel_languages(data: DataConfig) -> list[str]:
    """ISO 639-3 codes of the languages of all parallel text in a run's data, sorted."""
    sources = [source for part in PARTS for source in getattr(data, part).values()]
    return sorted({code for source in sources if source.parallel is not None for code in source.parallel})


def digest(value: Any) -> str:
    """32 hexadecimal digits for a JSON value."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def source_faults(data: DataConfig) -> list[str]:
    """What is wrong with the sources of a run, as far as it shows without parsing a file; a line each.

    An unknown reader, an absent file, `where` for a reader that cannot choose rows, or a split that is both learned
    from and used to validate or evaluate.
    """
    lines = []
    for part in PARTS:
        for name, source in getattr(data, part).items():
            try:
                _check_readable(source)
            except UsageError as error:
                separator = "." if error.lines[0].startswith(_ABOUT_KEYS) else ": "
                lines += [f"data.{part}.{name}{separator}{line}" for line in error.lines]
    return lines or list(_reused_splits(data))


def _check_readable(source: SourceConfig) -> None:
    """Raises UsageError: the reader is unknown, a file is absent, or the reader cannot choose rows."""
    transform = transform_of(source)
    original = source if transform is None else transform.original(source)
    reader = reader_of(original)
    reader.files(original)
    if source.where and not getattr(reader, "CHOOSES_ROWS", False):
        raise UsageError(f"where={dict(source.where)}: reader {source.reader} reads every example")


def _reused_splits(data: DataConfig) -> Iterator[str]:
    """Sources that validate or evaluate on rows that the run also learns from."""
    for part in ("validation", "evaluation"):
        for name, source in getattr(data, part).items():
            if any(_same_rows(source, learned) for learned in data.sources.values()):
                yield f"data.{part}.{name}: the same split is in data.sources; choose another split or file"


def read_source(
    name: str, source: PlannedSource | SourceConfig, seed: int, overlap: Overlap | None = None
) -> Iterator[Example]:
    """Examples of a source, capped; the same seed draws the same ones whatever else the mix holds.

    Args:
        name: for messages.
        source: what to read.
        seed: of the run; draws the cap.
        overlap: texts that are left out, before the cap is drawn.
    Raises:
        UsageError: the source is missing, broken or empty.
    """
    planned = _as_planned(source)
    source = planned.config
    content = "" if overlap is None else digest(source_identity(planned))

    def read() -> Iterator[Example]:
        transform = transform_of(planned.config)
        if transform is not None:
            return transform.read(planned)
        examples: Iterator[Example] = reader_of(planned.config).read(planned.config)
        return examples

    def stream_once() -> Iterator[Example]:
        for example in read() if overlap is None else overlap.apart(content, read()):
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


def _as_planned(source: PlannedSource | SourceConfig) -> PlannedSource:
    return source if isinstance(source, PlannedSource) else PlannedSource(source)


def _count(stream_once: Callable[[], Iterator[Example]]) -> int:
    return sum(1 for _ in stream_once())


def _enough_words(
    stream_once: Callable[[], Iterator[Example]], kept: set[int] | None, words: int, generator: torch.Generator
) -> set[int]:
    """Numbers of the first examples in a random order that have so many words together.

    Args:
        stream_once: gives all examples.
        kept: numbers of the examples to choose from; None: all.
        words: how many, between blanks.
        generator: of the order.
    """
    lengths = torch.tensor([len(example.words or (example.text or "").split()) for example in stream_once()])
    order = torch.randperm(len(lengths), generator=generator)
    if kept is not None:
        order = order[torch.isin(order, torch.tensor(sorted(kept)))]
    before = lengths[order].cumsum(0) - lengths[order]
    return set(order[before < words].tolist())


def _relabelled(example: Example, source: SourceConfig) -> Example:
    """The example with the data set's labels renamed to the task's (thesis §3.4.3: MISC and DATE become O)."""
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
