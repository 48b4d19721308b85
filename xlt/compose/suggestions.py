"""What may have been meant by a word that is not known."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

_OPTIONS_SHOWN = 20


def suggestion(word: str, options: Sequence[str]) -> str:
    """The end of a message: the nearest option, or all of them where there are few; empty otherwise."""
    near = difflib.get_close_matches(word, options, n=1, cutoff=0.6)
    if near:
        return f"; did you mean {near[0]}?"
    return f"; there are {', '.join(options)}" if 0 < len(options) <= _OPTIONS_SHOWN else ""
