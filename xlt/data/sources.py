"""Reads the examples of a source: finds its reader by name, and draws capped examples by seed.

Examples are streamed. Separate passes over the data first choose the numbers of the examples that a run uses (by a cap,
a held-out part, or texts to leave out), so that a corpus larger than memory can be read.

`source_identity` says which examples a source has; fingerprints, evaluation keys, the cache of features and the checks
of a plan all use it.
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
from xlt.languages import code_without_script
from xlt.tracebacks import error_line

# Beginnings of a reader's messages about keys of the source.
_ABOUT_KEYS = ("reader=", "path=", "language=", "fields=", "fields.", "hub=", "hub.", "instruction", "where=")


def reader_of(source: SourceConfig) -> ModuleType:
    """Returns the module of `xlt/data/readers` for the source: its `reader`, or `hub` for a data set on the hub.

    A reader has functions `files` and `read`, and `identity` if other things than its files determine the examples. It
    sets `CHOOSES_ROWS` if it can read only the rows that a source's `where` selects.
    """
    known = sorted(module.name for module in pkgutil.iter_modules(readers.__path__))
    if source.reader not in known:
        raise UsageError(f"reader={source.reader}: no such reader; there are {', '.join(known)}")
    name = "hub" if source.path is None and source.hub is not None else source.reader
    try:
        return importlib.import_module(f"{readers.__name__}.{name}")
    except Exception as error:  # a broken file can raise anything
        raise UsageError(f"reader={name}: the reader cannot be imported: {error_line(error)}") from error


def reading_module(source: SourceConfig) -> str:
    """Returns the dotted name of the module that reads a source: a reader, or a transform."""
    transform = transform_of(source)
    return (reader_of(source) if transform is None else cast(ModuleType, transform)).__name__


def source_identity(source: PlannedSource | SourceConfig) -> dict[str, object]:
    """Returns what identifies the examples of a source: the content of its files and how they are read, not where.

    The name of the split counts only if examples are drawn, because the draw depends on it; otherwise the content of
    the split's files is enough. Null values and empty mappings are left out.

    Raises:
        UsageError: a file is missing, or another run must make the examples and none is planned.
    """
    planned = _as_planned(source)
    config = planned.config
    content = _content(planned)
    own_format = content["reader"] == config.reader  # for a data set on the hub, `hub.fields` names the columns
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
    """Returns content hashes of a source's files, and the name of their reader."""
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
    """Returns whether two sources read the same rows of the same data, even if they draw, rename or repeat differently.

    Raises:
        UsageError: a file is missing.
    """

    def rows(source: SourceConfig) -> dict[str, object]:
        transform = transform_of(source)
        read = source if transform is None else transform.original(source)
        whole = dataclasses.replace(read, cap=None, cap_words=None)
        return {**_content(PlannedSource(whole)), "where": dict(source.where)}

    codes = [code_without_script(source.language) for source in (one, other)]  # the same rows are `ace` and `ace_Arab`
    if codes[0] != codes[1] or dict(one.where) != dict(other.where):
        return False  # no file needs to be read
    return rows(one) == rows(other)


def parallel_languages(data: DataConfig) -> list[str]:
    """Returns sorted ISO 639-3 codes of the languages of all parallel text in a run's data."""
    sources = [source for part in PARTS for source in getattr(data, part).values()]
    return sorted({code for source in sources if source.parallel is not None for code in source.parallel})


def digest(value: Any) -> str:
    """Returns the digest of a JSON value, 32 hexadecimal digits."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def source_faults(data: DataConfig) -> list[str]:
    """Returns a line for each fault of a run's sources that can be found without parsing a file.

    Such faults are an unknown reader, a missing file, `where` with a reader that cannot choose rows, and a split that
    is used both for training and for validation or evaluation.
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
    """Checks a source's reader, files and `where`; raises a UsageError if one of them is wrong."""
    transform = transform_of(source)
    original = source if transform is None else transform.original(source)
    reader = reader_of(original)
    reader.files(original)
    if source.where and not getattr(reader, "CHOOSES_ROWS", False):
        raise UsageError(f"where={dict(source.where)}: reader {source.reader} reads every example")


def _reused_splits(data: DataConfig) -> Iterator[str]:
    """Yields a fault for each source of validation or evaluation whose rows are also used for training."""
    for part in ("validation", "evaluation"):
        for name, source in getattr(data, part).items():
            if any(_same_rows(source, learned) for learned in data.sources.values()):
                yield f"data.{part}.{name}: the same split is in data.sources; choose another split or file"


def read_source(
    name: str, source: PlannedSource | SourceConfig, seed: int, overlap: Overlap | None = None
) -> Iterator[Example]:
    """Yields the examples of a source, at most as many as its cap; the draw depends only on source and seed.

    Args:
        name: of the source, for messages.
        source: the source to read.
        seed: of the run; decides which examples are drawn.
        overlap: texts to leave out, before examples are drawn; None: none.
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
    """Draws examples at random until they have `words` words together; returns their numbers.

    Args:
        stream_once: streams all examples.
        kept: numbers of the examples to choose from; None: all.
        words: least number of words; words are separated by white space.
        generator: random generator of the order.
    """
    lengths = torch.tensor([len(example.words or (example.text or "").split()) for example in stream_once()])
    order = torch.randperm(len(lengths), generator=generator)
    if kept is not None:
        order = order[torch.isin(order, torch.tensor(sorted(kept)))]
    before = lengths[order].cumsum(0) - lengths[order]
    return set(order[before < words].tolist())


def _relabelled(example: Example, source: SourceConfig) -> Example:
    """Renames the labels of the data set to those of the task (thesis §3.4.3: MISC and DATE become O)."""
    if not source.labels:
        return example
    columns = {name: tuple(source.labels.get(tag, tag) for tag in tags) for name, tags in example.columns.items()}
    label = source.labels.get(example.label, example.label) if example.label is not None else None
    return dataclasses.replace(example, columns=columns, label=label)


def _in_languages(example: Example, source: SourceConfig) -> Example:
    return example if source.parallel is None else dataclasses.replace(example, languages=source.parallel)


def _as_instruction(example: Example, source: SourceConfig) -> Example:
    """Turns an example into a conversation by the templates in the source's `instruction`.

    Raises:
        UsageError: a template uses a part that the example lacks.
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
