"""Makes names that W&B accepts: it refuses some letters and longer names, and then sends nothing of the run."""

from __future__ import annotations

import hashlib
import re

TAG_LETTERS = 64
"""The longest tag that W&B accepts."""
NAME_LETTERS = 128
"""The longest name of an artifact that W&B accepts; the names of runs and groups are kept within it, too."""

_DIGEST_DIGITS = 8


def artifact_name(name: str) -> str:
    """Returns a name that W&B accepts for an artifact: `name`, with a hyphen for each letter that W&B refuses.

    W&B accepts ASCII letters, digits, `_`, `-` and `.`. A changed name ends in a digest of the original one, so that
    two modules never share a name.
    """
    valid = re.sub(r"[^A-Za-z0-9_.-]", "-", name)
    return shortened(valid if valid == name else f"{valid}-{_digest(name)}", NAME_LETTERS)


def shortened(text: str, letters: int) -> str:
    """Returns a text of at most this many letters: the text itself, or its beginning and a digest of the whole."""
    return text if len(text) <= letters else f"{text[: letters - _DIGEST_DIGITS - 1]}-{_digest(text)}"


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=_DIGEST_DIGITS // 2).hexdigest()
