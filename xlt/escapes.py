"""Escapes texts that come from files of others, such as labels, notes and headers, for the place where they are shown.

There is one function for each medium: `terminal_text` and `terminal_line` for terminals, `markdown_text` for Markdown.
HTML is made by `xlt.tables.page.markup`, which escapes every text.
"""

from __future__ import annotations

import re
import sys

# All control characters but tab and line feed; what other programs take for a line break; and the signs that change the
# direction of the text after them. Half a surrogate pair cannot be written in UTF-8.
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_BREAKS = re.compile("[\t\n]")
# Brackets alone are text; a link or an image has its address directly behind them.
_OF_MARKDOWN = re.compile(r"[\\`|*]|(?<=\])[(\[]")


def terminal_text(text: str) -> str:
    """Escapes what a terminal would carry out instead of showing it, as `\\x1b`; line breaks stay."""
    return _CONTROLS.sub(_as_python, text)


def terminal_line(text: str) -> str:
    """Escapes a text that must stay one line of a terminal; line breaks and tabs are escaped, too."""
    return _BREAKS.sub(_as_python, terminal_text(text))


def markdown_text(text: str) -> str:
    """Escapes a text that must stay in its cell or line of Markdown, as plain text.

    Line breaks become blanks. Links, images, code, bold type, HTML and cells of tables cannot begin in the text. What a
    line would only begin with, such as `#`, is not escaped, because the text follows something else.
    """
    line = _CONTROLS.sub(_as_python, " ".join(text.split("\n")).replace("\t", " "))
    return _OF_MARKDOWN.sub(r"\\\g<0>", line).replace("<", "&lt;")


def say(text: str) -> None:
    """Prints a line for the user on standard error."""
    print(terminal_line(text), file=sys.stderr, flush=True)


def _as_python(match: re.Match[str]) -> str:
    return ascii(match[0])[1:-1]
