"""What readers yield: one labelled or raw piece of text, and where it stands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Example:
    """A sentence or line.

    Attributes:
        place: "file:line" (or its like), for messages about this example.
        text: running text; None where the source has words only.
        words: word forms; None where the source has running text only.
        columns: word-level labels by column name, each as long as `words`.
    """

    place: str
    text: str | None = None
    words: tuple[str, ...] | None = None
    columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
