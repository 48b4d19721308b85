"""Named random streams. A stream depends only on the run's seed and the stream's name, not on earlier draws.

The name of a stream includes the phase and the step of training. The state of all streams is therefore the seed and
these two numbers, and a resumed run, and each of several processes, makes the same draws as an uninterrupted run.
"""

from __future__ import annotations

import hashlib

import torch


def stream_seed(seed: int, *name: object) -> int:
    """Returns the 63-bit seed of the stream `name`."""
    text = "/".join([str(seed), *map(str, name)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def stream(seed: int, *name: object) -> torch.Generator:
    """Returns a CPU generator at the beginning of the stream `name`."""
    return torch.Generator().manual_seed(stream_seed(seed, *name))
