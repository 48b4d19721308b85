"""Suggests what the user may have meant by an unknown word."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

_OPTIONS_SHOWN = 20


def suggestion(word: str, options: Sequence[str]) -> str:
    """Returns the end of a message: the most similar option, else all options if they are few, else nothing."""
    near = difflib.get_close_matches(word, options, n=1, cutoff=0.6)
    if near:
        return f"; did you mean {near[0]}?"
    return f"; there are {', '.join(options)}" if 0 < len(options) <= _OPTIONS_SHOWN else ""
