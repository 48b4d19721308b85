"""Prints tables in terminals of any width: columns that do not fit are printed in a block below; no number is cut."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

Shown = tuple[str, str]
"""A cell's text, `MEAN±SPREAD (PUBLISHED)` or a part of this, and the style in which it is printed."""
_LEAST_LABEL = 4
_PARTS = re.compile(r"[^\s=,]+[=,]*|[=,]+")
"""The parts into which a long word may be broken: each ends after = or a comma."""
_STACKING = ((" (", "\n("), ("±", "\n±"))


def print_blocks(
    console: Console,
    headings: Sequence[str],
    rows: Sequence[tuple[str, Sequence[Shown]]],
    corner: str = "",
    line_above: str | None = None,
) -> None:
    """Prints a table in as many blocks of columns as the console's width requires, each with the labels of the rows.

    If not even one column fits beside the labels, the table becomes narrower step by step: long words of labels are
    broken after = and commas; the published number is printed on a line below ours; so is the spread; at last labels
    are broken anywhere. No text is interpreted as markup.

    Args:
        console: output; if it has fewer than 17 characters, the table is wider than it.
        headings: of the columns, without the column of labels.
        rows: for each row its label and one cell per column.
        corner: heading of the column of labels.
        line_above: label of the row above which a line is drawn; None: no line.
    """
    if not headings:
        return
    columns = [[shown[at][0] for _, shown in rows] for at in range(len(headings))]
    labels = [corner, *(label for label, _ in rows)]
    beside, widths, stacked = _layout(console.width, labels, headings, columns)
    lines = stacked > 0 or any(cell_len(label) > beside for label in labels)
    start = 0
    while start < len(widths):
        end = start + 1
        while end < len(widths) and _across(beside, widths[start : end + 1]) <= console.width:
            end += 1
        block = Table(width=_across(beside, widths[start:end]), show_lines=lines)
        block.add_column(Text(corner), width=beside, overflow="fold")
        for heading, width in zip(headings[start:end], widths[start:end], strict=True):
            block.add_column(Text(_broken(heading, width)), width=width, overflow="fold", justify="right")
        for label, shown in rows:
            if label == line_above:
                block.add_section()
            cells = (Text(_stacked(text, stacked), style) for text, style in shown[start:end])
            block.add_row(Text(_broken(label, beside)), *cells)
        console.print(block, crop=False)
        start = end


def _layout(
    room: int, labels: Sequence[str], headings: Sequence[str], columns: Sequence[Sequence[str]]
) -> tuple[int, list[int], int]:
    """Returns the width of the labels, the widths of the columns, and how many parts of a cell get their own line."""
    beside = max(map(cell_len, labels))
    widths = [_widest([heading, *column]) for heading, column in zip(headings, columns, strict=True)]
    if _across(beside, widths) <= room:
        return beside, widths, 0
    stacked, widths = 0, [_widest(column) for column in columns]
    least = room * 2 // 5
    beside = min(beside, max(least, _widest_word(labels)))
    if _across(beside, [max(widths)]) > room:
        beside = min(beside, max(least, _widest(part for label in labels for part in _PARTS.findall(label))))
    while _across(beside, [max(widths)]) > room and stacked < len(_STACKING):
        stacked += 1
        widths = [_widest(_stacked(text, stacked) for text in column) for column in columns]
    beside = min(beside, max(room - _across(0, [max(widths)]), _LEAST_LABEL))
    most = max(room - _across(beside, [0]), *widths)
    return (
        beside,
        [max(w, min(_widest_word([heading]), most)) for w, heading in zip(widths, headings, strict=True)],
        stacked,
    )


def _across(beside: int, widths: Sequence[int]) -> int:
    """Returns a table's width in characters: labels of width `beside`, and two spaces and a line for each column."""
    return beside + sum(widths) + 3 * len(widths) + 4


def _widest(texts: Iterable[str]) -> int:
    return max((cell_len(line) for text in texts for line in text.splitlines()), default=0)


def _widest_word(texts: Iterable[str]) -> int:
    return max((cell_len(word) for text in texts for word in text.split()), default=0)


def _stacked(text: str, parts: int) -> str:
    """Puts parts of a cell on their own lines: for `parts` 1 the published number, for 2 also the spread."""
    for before, after in _STACKING[:parts]:
        text = text.replace(before, after)
    return text


def _broken(text: str, width: int) -> str:
    """Breaks words that are wider than `width`, only after = and commas, so that no number is broken."""

    def lines(word: re.Match[str]) -> str:
        if cell_len(word[0]) <= width:
            return word[0]
        broken = [""]
        for part in _PARTS.findall(word[0]):
            if broken[-1] and cell_len(broken[-1] + part) > width:
                broken.append("")
            broken[-1] += part
        return "\n".join(broken)

    return re.sub(r"\S+", lines, text)
