"""The mix: which examples make up which step.

Every batch is of one source, hence of one language (thesis §3.3.3, §4.4.4, §6.4.2): the examples of each source are
shuffled and cut into batches, and the batches of all sources are shuffled together, or drawn by the sources' sizes.
What a step holds is a function of the seed, the phase and the step, so any step's batch can be named without going
through those before it, and a resumed run or another process names the same one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from xlt.data.streams import stream

Features = dict[str, Any]

# Steps whose sources are drawn together where they are drawn by size.
_BLOCK = 4096
# Batches of a source whose examples are sorted together where they are grouped by length.
_GROUPED = 50


@dataclass(frozen=True)
class LoadedSource:
    """A source ready to be batched: its language and its examples as model inputs, upsampling still to be done."""

    name: str
    language: str
    features: Sequence[Features]
    upsample: int = 1

    @property
    def examples_an_epoch(self) -> int:
        return len(self.features) * self.upsample

    @cached_property
    def lengths(self) -> Tensor:
        """(examples,) int64: tokens of each, not upsampled."""
        features: Any = self.features
        if hasattr(features, "lengths"):
            return torch.tensor(features.lengths("input_ids"))
        return torch.tensor([len(row["input_ids"]) for row in features])


@dataclass(frozen=True)
class Sampling:
    """Sources drawn at each step with probability ~ min(examples, ceiling) ** exponent (thesis §3.4.3).

    Attributes:
        exponent: 0: all alike; 1: as their sizes.
        ceiling: examples counted at most; None: all.
    """

    exponent: float
    ceiling: int | None

    def weights(self, sources: Sequence[LoadedSource]) -> Tensor:
        """(sources,) float64, unnormalised."""
        sizes = [source.examples_an_epoch for source in sources]
        counted = sizes if self.ceiling is None else [min(size, self.ceiling) for size in sizes]
        return torch.tensor(counted, dtype=torch.float64) ** self.exponent


@dataclass(frozen=True)
class Batch:
    """The examples of one step, all in one language."""

    language: str
    features: list[Features]


class Mix:
    """Sources cut into one-language batches.

    Memory: 8 bytes for an example of an epoch, besides what the features take.

    Args:
        sources: at least one, none empty.
        batch_size: examples a step; the last batch of a source in an epoch may be smaller.
        seed: of the order.
        phase: training phases see different orders.
        sampling: how the source of a step is drawn; None: every example is seen once an epoch (concatenation).
        group_by_length: have the examples of a batch be of like length, so that little of it is padding: those of 50
            batches, drawn at random, are sorted by length and cut into batches, whose order is random again.
    """

    def __init__(
        self,
        sources: Sequence[LoadedSource],
        batch_size: int,
        seed: int,
        phase: str,
        sampling: Sampling | None = None,
        group_by_length: bool = False,
    ) -> None:
        self.sources = list(sources)
        self.batch_size = batch_size
        self._seed, self._phase, self._sampling, self._groups = seed, phase, sampling, group_by_length
        self._batches = [-(-source.examples_an_epoch // batch_size) for source in self.sources]
        self._rows: dict[int, tuple[int, Tensor]] = {}
        self._order: tuple[int, Tensor, Tensor] | None = None

    @property
    def languages(self) -> list[str]:
        return sorted({source.language for source in self.sources})

    @property
    def steps_per_epoch(self) -> int:
        """Steps that see as many examples as there are, upsampled ones as often as they are."""
        return sum(self._batches)

    def batch(self, step: int) -> Batch:
        """The batch of the `step`-th step of the phase, from 0."""
        number, turn = self._turn(step)
        source = self.sources[number]
        epoch, at = divmod(turn, self._batches[number])
        chosen = self._shuffled(number, epoch)[at * self.batch_size : (at + 1) * self.batch_size]
        return Batch(source.language, _rows(source.features, chosen.tolist()))

    def _turn(self, step: int) -> tuple[int, int]:
        """Which source a step is of, and how many of its batches came before."""
        whole = self.steps_per_epoch if self._sampling is None else _BLOCK
        block, position = divmod(step, whole)
        if self._order is None or self._order[0] != block:
            self._order = (block, *(self._epoch(block) if self._sampling is None else self._drawn(block)))
        _, numbers, turns = self._order
        return int(numbers[position]), int(turns[position])

    def _epoch(self, epoch: int) -> tuple[Tensor, Tensor]:
        """An epoch of all batches of all sources: (steps,) source numbers and (steps,) turns, int64."""
        numbers = torch.repeat_interleave(torch.tensor(self._batches))
        turns = torch.cat([torch.arange(epoch * count, (epoch + 1) * count) for count in self._batches])
        shuffled = torch.randperm(len(numbers), generator=stream(self._seed, "batches", self._phase, epoch))
        return numbers[shuffled], turns[shuffled]

    def _drawn(self, block: int) -> tuple[Tensor, Tensor]:
        """A block of steps whose sources are drawn: (steps,) source numbers and (steps,) turns, int64."""
        assert self._sampling is not None
        weights = self._sampling.weights(self.sources)
        before = torch.zeros(len(weights), dtype=torch.int64)
        for number in range(block + 1):
            generator = stream(self._seed, "sources", self._phase, number)
            drawn = torch.multinomial(weights, _BLOCK, replacement=True, generator=generator)
            if number < block:
                before += torch.bincount(drawn, minlength=len(weights))
        hits = torch.nn.functional.one_hot(drawn, len(weights)).cumsum(0)
        return drawn, before[drawn] + hits.gather(1, drawn[:, None]).squeeze(1) - 1

    def _shuffled(self, number: int, epoch: int) -> Tensor:
        """(examples an epoch,) int64: the order in which a source's examples come in its `epoch`-th passage."""
        known = self._rows.get(number)
        if known is None or known[0] != epoch:
            source = self.sources[number]
            generator = stream(self._seed, "order", self._phase, epoch, source.name)
            order = torch.randperm(source.examples_an_epoch, generator=generator) % len(source.features)
            if self._groups:
                order = self._grouped(order, source.lengths, generator)
            self._rows[number] = known = (epoch, order)
        return known[1]

    def _grouped(self, order: Tensor, lengths: Tensor, generator: torch.Generator) -> Tensor:
        """The same examples, those of each run of batches sorted by length; a batch that is not full stays last."""
        batches: list[Tensor] = []
        for some in order.split(_GROUPED * self.batch_size):
            *full, last = some[lengths[some].argsort(stable=True)].split(self.batch_size)
            if len(last) == self.batch_size:
                full, last = [*full, last], order[:0]
            batches += [full[number] for number in torch.randperm(len(full), generator=generator).tolist()]
        return torch.cat([*batches, last])


def _rows(features: Sequence[Features], numbers: list[int]) -> list[Features]:
    """Rows by number, in one access where the features can do that."""
    if hasattr(features, "rows"):
        return features.rows(numbers)
    return [features[number] for number in numbers]
