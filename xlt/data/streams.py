"""Named random streams. A stream is a pure function of the run's seed and its name, never of what was drawn before.

The name of a stream includes where training stands (phase, step), so the whole state of all streams is the run's seed
with those two numbers: a resumed run, and each process of several, draws what an uninterrupted one draws.
"""

from __future__ import annotations

import hashlib

import torch


def stream_seed(seed: int, *name: object) -> int:
    """63-bit seed of the stream `name`."""
    text = "/".join([str(seed), *map(str, name)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def stream(seed: int, *name: object) -> torch.Generator:
    """A CPU generator at the beginning of the stream `name`."""
    return torch.Generator().manual_seed(stream_seed(seed, *name))
