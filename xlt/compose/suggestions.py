"""Suggests what the user may have meant by an unknown word."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

_OPTIONS_SHOWN = 20


def suggestion(word: str, options: Sequence[str]) -> str:
    """Returns the end of a message: the most similar option, else all options if they are few, else nothing."""
    by_spelling = {_spelled(option): option for option in options}
    near = difflib.get_close_matches(_spelled(word), by_spelling, n=1, cutoff=0.6)
    if near:
        return f"; did you mean {by_spelling[near[0]]}?"
    return f"; there are {', '.join(options)}" if 0 < len(options) <= _OPTIONS_SHOWN else ""


def _spelled(word: str) -> str:
    """Returns a word without what people write otherwise: LT-SFT and lt_sft are alike."""
    return word.lower().replace("-", "_")
