"""Fits help texts to narrow terminals; they are written for 80 columns."""

from __future__ import annotations

import re
import shutil
import textwrap

WIDEST = 79
_NARROWEST = 40
_DEEPER = 4
_ROW = re.compile(r"( +\S(?:.*?\S)? {2,})(\S.*)")
_BRACKETS = re.compile(r"\[[^\[\]]{1,30}\]")
_UNBROKEN = "\xa0"
_LEAST_SHARE_OF_TEXT = 0.5


def help_width() -> int:
    """Returns the number of columns that a help text may have: those of the terminal, but at most 79."""
    return min(WIDEST, max(_NARROWEST, shutil.get_terminal_size().columns))


def fitted(text: str, width: int) -> str:
    """Wraps a help text anew if it is too wide; otherwise it stays as it is.

    A usage, a paragraph, and a row of a name and its text (with at least two blanks between them) are wrapped as a
    whole, with the indent that they have; any other line with an indent, such as a command, is wrapped by itself.

    Args:
        text: in lines.
        width: in columns; a single longer word stays whole.
    """
    lines = text.split("\n")
    if width == WIDEST or max(map(len, lines)) <= width:
        return text
    shown: list[str] = []
    at = 0
    while at < len(lines):
        line, at = lines[at], at + 1
        row = _ROW.fullmatch(line)
        indent = len(line) - len(line.lstrip())
        deeper = len(row[1]) if row else indent + _DEEPER
        words = [row[2]] if row else [line.strip()]
        is_paragraph = bool(line) and indent == 0 and not line.startswith("usage:")
        while at < len(lines) and _continues(lines[at], indent, deeper, row is not None, is_paragraph, line):
            words.append(lines[at].strip())
            at += 1
        if not row and not is_paragraph:
            words = [_BRACKETS.sub(lambda found: found[0].replace(" ", _UNBROKEN), one) for one in words]
        if is_paragraph:
            shown += _wrapped(" ".join(words), width, "", "")
        elif row is None:
            shown += _wrapped(" ".join(words), width, " " * indent, " " * deeper) if line else [""]
        elif width - deeper >= max(width * _LEAST_SHARE_OF_TEXT, *(len(word) for one in words for word in one.split())):
            shown += _wrapped(" ".join(words), width, row[1], " " * deeper)
        else:  # the text below the name
            inner = " " * (indent + _DEEPER)
            shown += _wrapped(row[1].strip(), width, " " * indent, inner)
            shown += _wrapped(" ".join(words), width, inner, inner)
    return "\n".join(shown)


def _continues(line: str, indent: int, deeper: int, is_row: bool, is_paragraph: bool, first: str) -> bool:
    """Returns whether a line belongs to what begins in the line `first`."""
    if not line.strip():
        return False
    own = len(line) - len(line.lstrip())
    if is_row:
        return own == deeper
    if is_paragraph:
        return own == 0
    return (
        first.lstrip().startswith(("usage:", "xlt")) and own > max(indent, len("usage: ")) and not _ROW.fullmatch(line)
    )


def _wrapped(text: str, width: int, first: str, others: str) -> list[str]:
    indents = {"initial_indent": first, "subsequent_indent": others}
    lines = textwrap.wrap(text, width, **indents, break_long_words=False, break_on_hyphens=False)  # type: ignore[arg-type]
    return [line.replace(_UNBROKEN, " ") for line in lines]
