"""The mix: which examples make up which step.

Every batch is of one source, hence of one language (thesis §3.3.3, §4.4.4): the examples of each source are shuffled
and cut into batches, and the batches of all sources are shuffled together. The order of an epoch is a function of the
seed, the phase and the epoch, so any step's batch can be named without going through those before it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from xlt.data.streams import stream

Features = dict[str, Any]


@dataclass(frozen=True)
class LoadedSource:
    """A source ready to be batched: its language and its examples as model inputs, upsampling still to be done."""

    name: str
    language: str
    features: list[Features]
    upsample: int = 1


@dataclass(frozen=True)
class Batch:
    """The examples of one step, all in one language."""

    language: str
    features: list[Features]


class Mix:
    """Sources cut into one-language batches.

    Args:
        sources: at least one, none empty.
        batch_size: examples a step; the last batch of a source in an epoch may be smaller.
        seed: of the order.
        phase: training phases see different orders.
    """

    def __init__(self, sources: list[LoadedSource], batch_size: int, seed: int, phase: str) -> None:
        self.sources = sources
        self.batch_size = batch_size
        self._seed, self._phase = seed, phase
        self._epoch: tuple[int, list[tuple[int, list[int]]]] | None = None

    @property
    def languages(self) -> list[str]:
        return sorted({source.language for source in self.sources})

    @property
    def steps_per_epoch(self) -> int:
        return sum(-(-len(source.features) * source.upsample // self.batch_size) for source in self.sources)

    def batch(self, step: int) -> Batch:
        """The batch of the `step`-th step of the phase, from 0."""
        epoch, position = divmod(step, self.steps_per_epoch)
        if self._epoch is None or self._epoch[0] != epoch:
            self._epoch = epoch, self._order(epoch)
        number, rows = self._epoch[1][position]
        source = self.sources[number]
        return Batch(source.language, [source.features[row] for row in rows])

    def _order(self, epoch: int) -> list[tuple[int, list[int]]]:
        batches = []
        for number, source in enumerate(self.sources):
            count = len(source.features)
            generator = stream(self._seed, "order", self._phase, epoch, source.name)
            rows = (torch.randperm(count * source.upsample, generator=generator) % count).tolist()
            batches += [(number, rows[at : at + self.batch_size]) for at in range(0, len(rows), self.batch_size)]
        shuffled = torch.randperm(len(batches), generator=stream(self._seed, "batches", self._phase, epoch))
        return [batches[i] for i in shuffled.tolist()]
