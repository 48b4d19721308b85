"""Reads data sets of the Hugging Face hub, or local folders with the same layout, through the `datasets` library.

It is used for a source with a `hub` whose `path` is null, whatever its local format. Only data files are read; a data
set that is a script is refused. For many of these the hub also has the data as Parquet files, with one folder per
subset, at the revision `refs/convert/parquet`.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from xlt.config import HubConfig, SourceConfig
from xlt.data.examples import Example
from xlt.data.records import Unnamed, examples_of
from xlt.data.where import value_of
from xlt.errors import UsageError

CHOOSES_ROWS = True

_PARQUET_REVISION = "refs/convert/parquet"


def files(source: SourceConfig) -> list[Path]:
    """Returns all files of a local folder; none for a data set on the hub, without a request to the hub."""
    folder = Path(_hub(source).id).expanduser()
    return sorted(file for file in folder.rglob("*") if file.is_file()) if folder.is_dir() else []


def identity(source: SourceConfig) -> dict[str, object]:
    """Returns the identity of data set and columns, as far as it is known without a request to the hub."""
    hub = _hub(source)
    return {
        "id": None if files(source) else hub.id,
        "subset": _subset(source),
        "revision": hub.revision,
        "split": hub.splits.get(source.split, source.split),
        "fields": _fields(source),
    }


def read(source: SourceConfig) -> Iterator[Example]:
    """Yields one example per row, with the names of classes in place of their numbers.

    Raises:
        UsageError: the data set, its subset or its split cannot be loaded, or a column is missing.
    """
    hub = _hub(source)
    fields = _fields(source)
    subset, split = _subset(source), hub.splits.get(source.split, source.split)
    selection = ", ".join(filter(None, (subset and f"subset {subset}", f"split {split}", f"revision {hub.revision}")))
    try:
        rows = _load(str(Path(hub.id).expanduser()) if files(source) else hub.id, subset, hub.revision, split)
    except Exception as error:  # the library and its clients raise all kinds, down to plain Exception
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        gated = "gated" in reason.lower() or "gated" in type(error).__name__.lower()
        access = "accept its conditions on its page on the hub and log in (hf auth login, or HF_TOKEN); " * gated
        raise UsageError(
            f"{hub.id} ({selection}) cannot be loaded: {reason}; {access}to read local files instead, "
            "set data_dir=FOLDER"
        ) from error
    names = {column: named for column in fields.values() if (named := _class_names(_feature(rows.features, column)))}
    place = "/".join(filter(None, (hub.id, subset, split)))
    numbered = ((f"{place}:{number}", _named(row, names)) for number, row in enumerate(rows, start=1))
    yield from examples_of(numbered, fields, source)


@lru_cache(maxsize=32)
def _load(id: str, subset: str | None, revision: str | None, split: str) -> Any:
    """Loads the rows of a split, mapped into memory; once per process, because a run reads a source several times."""
    import datasets

    datasets.disable_progress_bars()
    for library in ("datasets", "huggingface_hub"):  # `read` reports a failure, once
        logging.getLogger(library).setLevel(logging.ERROR)
    options: dict[str, Any] = {"revision": revision, "split": split}
    options["data_dir" if (revision or "").startswith(_PARQUET_REVISION) else "name"] = subset
    if "trust_remote_code" in inspect.signature(datasets.load_dataset).parameters:  # before datasets 4
        options["trust_remote_code"] = False
    try:
        return datasets.load_dataset(id, **options)
    except ConnectionError:
        datasets.config.HF_HUB_OFFLINE = True  # after half a minute of attempts the next sources fail at once
        raise


def _feature(features: Mapping[str, Any], column: str) -> Any:
    """Returns the type of a column, or of a part of a nested one; None if there is none."""
    try:
        return value_of(features, column)
    except KeyError:
        return None


def _class_names(feature: Any) -> Callable[[int], str] | None:
    """Returns the function from class number to name, for a column of classes or of lists of classes."""
    if isinstance(feature, list) and feature:
        feature = feature[0]
    inner = getattr(feature, "feature", feature)
    return getattr(inner, "int2str", None)


def _named(row: Mapping[str, Any], names: Mapping[str, Callable[[int], str]]) -> dict[str, Any]:
    """Returns the row with names of classes; a number without a name becomes an `Unnamed`, which `where` can leave out.

    A part of a nested column becomes a column of its own, with the dotted name.
    """

    def named(value: Any, name_of: Callable[[int], str]) -> Any:
        if isinstance(value, list):
            return [named(item, name_of) for item in value]
        try:
            return name_of(value)
        except (ValueError, TypeError):
            return Unnamed(value) if isinstance(value, int) else value

    return {**row, **{column: named(value_of(row, column), name_of) for column, name_of in names.items()}}


def _hub(source: SourceConfig) -> HubConfig:
    if source.hub is None:
        raise UsageError("hub=null: reader hub needs hub.id, the name of a data set or a local folder")
    return source.hub


def _code(source: SourceConfig) -> str:
    return _hub(source).codes.get(source.language, source.language)


def _subset(source: SourceConfig) -> str | None:
    subset = _hub(source).subset
    return None if subset is None else subset.replace("{code}", _code(source))


def _fields(source: SourceConfig) -> dict[str, str]:
    fields = _hub(source).fields
    if not fields:
        raise UsageError("hub.fields={}: the names of columns are missing; set for example hub.fields.text")
    return {role: column.replace("{code}", _code(source)) for role, column in fields.items()}
