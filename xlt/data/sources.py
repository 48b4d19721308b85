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
import sys
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import torch

from xlt.config import ALL_PARTS, PARTS, DataConfig, SourceConfig, used_keys
from xlt.config.data import LANGUAGE
from xlt.data import readers
from xlt.data.entities import entities_of_tags, written
from xlt.data.examples import Example, is_stripped
from xlt.data.files import opened
from xlt.data.label_names import renamed, scheme_of
from xlt.data.overlap import Overlap
from xlt.data.planned import PlannedSource
from xlt.data.records import prompted
from xlt.data.running_text import joined
from xlt.data.streams import stream
from xlt.data.transforms import transform_of
from xlt.data.where import examples_where, row_count
from xlt.data.word_prefix import without_prefix
from xlt.data.words import word_count
from xlt.errors import UsageError
from xlt.languages import code_without_script, language_name
from xlt.tracebacks import error_line

# Beginnings of a reader's messages about keys of the source.
_ABOUT_KEYS = (
    *("reader=", "path=", "files.", "language=", "fields=", "fields.", "hub=", "hub.", "instruction", "where="),
    *("delimiter=", "quoting="),
)
# Keys of a source that only some readers use.
_READERS_KEYS = ("delimiter", "quoting")


def reader_of(source: SourceConfig) -> ModuleType:
    """Returns the module of `xlt/data/readers` for the source: its `reader`, or `hub` for a data set on the hub.

    A reader has functions `files` and `read`, and `identity` if other things than its files determine the examples. It
    sets `CHOOSES_ROWS` if it applies the source's `where` to the columns of its files; for other readers, the columns
    are the parts of the examples. `USES` names the keys of the source that only some readers use, if it uses one.
    """
    if f"{readers.__name__}.{source.reader}" not in sys.modules:
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

    Such faults are an unknown reader, a missing file, a key that the reader does not use, and a split that is used both
    for training and for validation or evaluation.
    """
    lines = []
    for part in ALL_PARTS:
        for name, source in getattr(data, part).items():
            try:
                _check_readable(source)
            except UsageError as error:
                separator = "." if error.lines[0].startswith(_ABOUT_KEYS) else ": "
                lines += [f"data.{part}.{name}{separator}{line}" for line in error.lines]
    return lines or list(_reused_splits(data))


def _check_readable(source: SourceConfig) -> None:
    """Checks a source's reader and files, and the keys for the reader; raises a UsageError if one of them is wrong."""
    transform = transform_of(source)
    original = source if transform is None else transform.original(source)
    reader = reader_of(original)
    reader.files(original)
    of_files = reader_of(dataclasses.replace(original, hub=None))  # on the hub, its keys mean nothing
    for name in _READERS_KEYS:
        if getattr(original, name) is not None and name not in getattr(of_files, "USES", ()):
            other = "csv" if name == "delimiter" else "tsv"
            raise UsageError(
                f"{name}={getattr(original, name)}: reader {source.reader} does not use it; reader {other} does"
            )


def _reused_splits(data: DataConfig) -> Iterator[str]:
    """Yields a fault for each source of validation or evaluation whose rows are used for training or a search."""
    for part in ("validation", "evaluation"):
        for name, source in getattr(data, part).items():
            if any(_same_rows(source, learned) for learned in data.sources.values()):
                yield f"data.{part}.{name}: the same split is in data.sources; choose another split or file"
    for name, source in data.search.items():
        if any(_same_rows(source, tested) for tested in data.evaluation.values()):
            yield f"data.search.{name}: the same split is in data.evaluation; choose another split or file"


def read_source(
    name: str,
    source: PlannedSource | SourceConfig,
    seed: int,
    overlap: Overlap | None = None,
    entity_column: str | None = None,
) -> Iterator[Example]:
    """Yields the examples of a source, at most as many as its cap; the draw depends only on source and seed.

    Args:
        name: of the source, for messages.
        source: the source to read.
        seed: of the run; decides which examples are drawn.
        overlap: texts to leave out, before examples are drawn; None: none.
        entity_column: column with tags of entities, which are converted to IOB2; None: none.
    Raises:
        UsageError: the source is missing, broken or empty, its tags are of no known scheme, all its words begin
            alike, or it has sentences with underscores in place of their words.
    """
    planned = _as_planned(source)
    source = planned.config
    content = "" if overlap is None else digest(source_identity(planned))

    def read() -> Iterator[Example]:
        transform = transform_of(planned.config)
        if transform is not None:
            return transform.read(planned)
        reader = reader_of(source)
        examples: Iterator[Example] = _with_text(name, reader.read(source))
        if source.where and not getattr(reader, "CHOOSES_ROWS", False):
            examples = examples_where(source, examples)
        return without_prefix(examples, source, name)

    scheme = None
    if entity_column is not None:
        scheme = scheme_of(source, entity_column, labels_key(planned, entity_column), name, read)

    def stream_once() -> Iterator[Example]:
        for example in read() if overlap is None else overlap.apart(content, read()):
            relabelled = renamed(example, source, entity_column, scheme)
            yield _as_instruction(_in_languages(relabelled, source), source, entity_column)

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
        where = source.location() if source.path else source.hub.id if source.hub is not None else source.reader
        counted = row_count(source)
        rows = f"; where leaves out all {counted.rows:,} rows" if counted is not None and counted.rows else ""
        raise UsageError(f"{name}: split {source.split} of {where} has no examples{rows}")


def labels_key(source: PlannedSource, column: str) -> str:
    """Returns a key for the content of a source and a column of its labels."""
    return digest([source_identity(source), column])


def _as_planned(source: PlannedSource | SourceConfig) -> PlannedSource:
    return source if isinstance(source, PlannedSource) else PlannedSource(source)


def _count(stream_once: Callable[[], Iterator[Example]]) -> int:
    return sum(1 for _ in stream_once())


def _with_text(name: str, examples: Iterator[Example]) -> Iterator[Example]:
    """Yields the examples of a source, and refuses it at the first sentence that is stripped of its text."""
    for number, example in enumerate(examples, start=1):
        if is_stripped(example):
            rest = [is_stripped(one) for one in examples]
            raise UsageError(
                f"{name}: {example.place}: {1 + sum(rest)} of {number + len(rest)} sentences have underscores in place "
                "of their words, from here on, because their text has another licence than their labels; put the text "
                "in as the data's README says, or remove these sentences"
            )
        yield example


def _enough_words(
    stream_once: Callable[[], Iterator[Example]], kept: set[int] | None, words: int, generator: torch.Generator
) -> set[int]:
    """Draws examples at random until they have `words` words together; returns their numbers.

    Args:
        stream_once: streams all examples.
        kept: numbers of the examples to choose from; None: all.
        words: least number of words: those of `words`, or as `word_count` estimates them for a text.
        generator: random generator of the order.
    """
    lengths = torch.tensor([_word_count(example) for example in stream_once()])
    order = torch.randperm(len(lengths), generator=generator)
    if kept is not None:
        order = order[torch.isin(order, torch.tensor(sorted(kept)))]
    before = lengths[order].cumsum(0) - lengths[order]
    return set(order[before < words].tolist())


def _word_count(example: Example) -> int:
    if example.words is not None:
        return len(example.words)
    texts = [turn.text for turn in example.turns] if example.text is None else [example.text]
    return sum(map(word_count, texts))


def _in_languages(example: Example, source: SourceConfig) -> Example:
    return example if source.parallel is None else dataclasses.replace(example, languages=source.parallel)


def _as_instruction(example: Example, source: SourceConfig, entity_column: str | None) -> Example:
    """Turns an example into a conversation by the templates in the source's `instruction`.

    Raises:
        UsageError: a template uses a part that the example lacks.
    """
    if source.instruction is None:
        return example
    text, tags = example.text, example.columns.get(entity_column or "")
    if text is None and example.words is not None:
        text = joined(example.words)
    parts = {"text": text, "pair": example.pair, "label": example.label, "title": example.title}
    if example.entities is not None:
        parts["entities"] = written(example.entities)
    elif tags is not None and example.words is not None:
        parts["entities"] = written(entities_of_tags(example.words, tags))
    if example.answers:
        parts["answer"] = example.answers[0].text
    named = {**source.features, LANGUAGE: language_name(source.language)}
    parts |= {name: value for name, value in named.items() if name not in parts}
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
    """Returns the digest of a file's bytes, unpacked, so that a compressed copy is the same data."""
    with opened(Path(file)) as stream:
        return hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
