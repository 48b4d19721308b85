"""The terminal as commands use it: text is shown as it is, and nothing in it is carried out."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from xlt.escapes import terminal_text


class Terminal(Console):
    """Rich's console without markup: `[red]` in a label is text, and control characters are escaped, wherever they are.

    Args:
        stderr: whether it is standard error, or else standard output.
        quiet: whether nothing is printed.
    """

    def __init__(self, *, stderr: bool = False, quiet: bool = False) -> None:
        super().__init__(stderr=stderr, quiet=quiet, markup=False, highlight=False, emoji=False)

    def print(self, *objects: Any, **options: Any) -> None:
        shown = [terminal_text(value) if isinstance(value, str) else value for value in objects]
        super().print(*shown, **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            text = segment.text if segment.control else terminal_text(segment.text)
            yield Segment(text, segment.style, segment.control)


def duration(seconds: float) -> str:
    """Formats seconds for people, as "90 s", "12 min" or "2.5 h"."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
