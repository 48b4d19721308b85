"""Gives the labels of a source the names that the task has for them, and tags of entities the form of IOB2."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

from xlt.config import SourceConfig
from xlt.data.entities import renamed_entities
from xlt.data.examples import Example
from xlt.data.schemes import in_iob2, is_tag, recognised_scheme

# Key of a source's content and of the column of tags -> scheme of the tags.
_SCHEMES: dict[str, str | None] = {}


def scheme_of(
    source: SourceConfig, column: str, content_key: str, name: str, read: Callable[[], Iterator[Example]]
) -> str | None:
    """Returns the scheme of a source's entity tags: the declared one, or the one recognised from the whole source.

    Args:
        source: its settings.
        column: of the tags.
        content_key: cache key of source and column; a known key reuses the earlier result.
        name: of the source, for messages.
        read: reads all examples of the source.
    Returns:
        One of `xlt.config.data.SCHEMES`; None if the column has no tag of an entity.
    Raises:
        UsageError: the tags are of two schemes, or of none.
    """
    if source.scheme is not None:
        return source.scheme
    if content_key not in _SCHEMES:
        examples = (_renamed(example, source, lambda label: not is_tag(label)) for example in read())
        _SCHEMES[content_key] = recognised_scheme(examples, column, name)
    return _SCHEMES[content_key]


def recognised(content_key: str) -> str | None:
    """Returns the scheme that `scheme_of` recognised in a source; None if it was declared, or nothing has been read."""
    return _SCHEMES.get(content_key)


def renamed(example: Example, source: SourceConfig, column: str | None, scheme: str | None) -> Example:
    """Renames the labels of the data set to those of the task (thesis §3.4.3: MISC and DATE become O).

    Tags of entities are converted to IOB2 first, because in IOB1 two entities of different types that stand side by
    side could not be told apart once their types have the same name. Labels that get the form of a tag only by their
    new name are renamed before that.

    Args:
        example: of the data set.
        source: its `labels` has the names.
        column: with tags of entities; None: none.
        scheme: of these tags; None: there are none.
    Raises:
        UsageError: a tag is not valid in the scheme.
    """
    if example.entities is not None and source.labels:
        example = dataclasses.replace(example, entities=renamed_entities(example.entities, source.labels))
    if column is None or scheme is None or column not in example.columns:
        return _renamed(example, source, lambda label: True)
    example = _renamed(example, source, lambda label: not is_tag(label))
    example = dataclasses.replace(example, columns={**example.columns, column: in_iob2(example, column, scheme)})
    return _renamed(example, source, is_tag)


def _renamed(example: Example, source: SourceConfig, applies: Callable[[str], bool]) -> Example:
    """Renames those labels of an example for which a condition holds, as the source's `labels` says."""
    if not source.labels:
        return example

    def new(label: str) -> str:
        return str(source.labels.get(label, label)) if applies(label) else label

    columns = {name: tuple(map(new, tags)) for name, tags in example.columns.items()}
    return dataclasses.replace(example, columns=columns, label=None if example.label is None else new(example.label))
