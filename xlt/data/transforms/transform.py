"""The interface of source transforms, and the function that finds the transform of a source."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from functools import cache
from typing import Protocol, cast

from xlt.config import SourceConfig
from xlt.data.examples import Example
from xlt.data.planned import PlannedSource

_PACKAGE = "xlt.data.transforms"


class Transform(Protocol):
    """The interface of a transform, which makes the examples of a source from those of another one, the original.

    A transform is a file `xlt/data/transforms/NAME.py` with these functions. It is used for every source whose key NAME
    is not null. If a transform needs a model, as translation does, a run first makes the file `PlannedSource.made`,
    which the transform then reads.
    """

    READER: str
    """The name that a source's identity contains instead of its reader."""

    @staticmethod
    def original(source: SourceConfig) -> SourceConfig:
        """Returns the original source, from which the transform starts."""

    @staticmethod
    def not_yet(source: SourceConfig) -> SourceConfig:
        """Returns the source with the texts of the original, to check it before the transform's file exists."""

    @staticmethod
    def identity(source: PlannedSource) -> str:
        """Returns all that determines the transformed examples, except the content of the original's files.

        Raises:
            UsageError: a run must make the file, but none is planned.
        """

    @staticmethod
    def read(source: PlannedSource) -> Iterator[Example]:
        """Yields the transformed examples, in the original's order.

        Raises:
            UsageError: the file that a run makes is missing or damaged, or no such run is planned.
        """


def transform_of(source: SourceConfig) -> Transform | None:
    """Returns the transform that makes a source's examples; None for a source that is read directly."""
    for name in _names():
        if getattr(source, name, None) is not None:
            return cast(Transform, importlib.import_module(f"{_PACKAGE}.{name}"))
    return None


@cache
def _names() -> list[str]:
    """Returns the names of the files in this package."""
    return sorted(found.name for found in pkgutil.iter_modules(importlib.import_module(_PACKAGE).__path__))
