"""What the rest of xlt knows of a source transform, and how a source's transform is found."""

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
    """Makes the examples of a source out of those of another one, its original.

    A transform is a file `xlt/data/transforms/NAME.py` with these functions; it serves every source whose key NAME is
    not null. One that needs a model (translation) has a run make a file first, and reads that file, which
    `PlannedSource.made` names.
    """

    READER: str
    """What stands for the reader in a source's identity."""

    @staticmethod
    def original(source: SourceConfig) -> SourceConfig:
        """The source that the transform starts from."""

    @staticmethod
    def not_yet(source: SourceConfig) -> SourceConfig:
        """The source with its original's texts: it can be checked before the transform's file is there."""

    @staticmethod
    def identity(source: PlannedSource) -> str:
        """What determines the transformed examples, besides the content of the original's files.

        Raises:
            UsageError: a run has to make the file, and the source knows of none.
        """

    @staticmethod
    def read(source: PlannedSource) -> Iterator[Example]:
        """The transformed examples, in the original's order.

        Raises:
            UsageError: the file that a run makes is missing or damaged, or the source knows of none.
        """


def transform_of(source: SourceConfig) -> Transform | None:
    """The transform that makes a source's examples; None for a source that is read as it is."""
    for name in _names():
        if getattr(source, name, None) is not None:
            return cast(Transform, importlib.import_module(f"{_PACKAGE}.{name}"))
    return None


@cache
def _names() -> list[str]:
    """The files of the package."""
    return sorted(found.name for found in pkgutil.iter_modules(importlib.import_module(_PACKAGE).__path__))
