"""Batches with examples of several sources, hence of several languages.

As with `Mix`, the batch of a step is a function of the seed, the phase and the step.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from xlt.data.mix import Batch, Features, LoadedSource, Mix, Sampling, rows_of
from xlt.data.streams import stream

# Number of steps whose examples are drawn together, if sources are drawn by size.
_BLOCK = 50


class MixedBatches(Mix):
    """The batches of all sources together; each may have examples of several languages.

    With concatenation, the examples of all sources are shuffled together and cut into batches; an epoch has each
    example once, with upsampling. With sampling by size, each example of a batch draws its source, and each source
    gives its examples in a random order, each once before the first comes again. Grouping by length sorts the examples
    of 50 batches, as in `Mix`.

    The arguments are those of `Mix`. Besides the features it needs 8 bytes of memory per example of an epoch.
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
        super().__init__(sources, batch_size, seed, phase, sampling)  # it groups no source by itself
        self._groups_whole = group_by_length
        self._starts = torch.tensor([0, *(len(source.features) for source in self.sources)]).cumsum(0)
        self._drawn: tuple[int, Tensor, Tensor] | None = None
        self._shuffled: tuple[int, Tensor] | None = None

    @property
    def steps_per_epoch(self) -> int:
        """Number of steps of an epoch, with upsampling."""
        return -(-sum(source.examples_an_epoch for source in self.sources) // self.batch_size)

    def batch(self, step: int) -> Batch:
        """Returns the batch of a step of the phase, counted from 0."""
        if self._sampling is None:
            epoch, at = divmod(step, self.steps_per_epoch)
            whole = self._whole_epoch(epoch)
        else:
            block, at = divmod(step, _BLOCK)
            whole = self._whole_block(block)
        numbers = whole[at * self.batch_size : (at + 1) * self.batch_size]
        owners = torch.searchsorted(self._starts, numbers, right=True) - 1
        features: list[Features] = [{}] * len(numbers)
        for number in owners.unique().tolist():
            places = (owners == number).nonzero()[:, 0].tolist()
            rows = rows_of(self.sources[number].features, (numbers[places] - self._starts[number]).tolist())
            for place, row in zip(places, rows, strict=True):
                features[place] = row
        languages = {self.sources[number].language for number in owners.tolist()}
        described = [self.sources[number].described for number in owners.tolist()]
        alike = all(one == described[0] for one in described)
        language = languages.pop() if len(languages) == 1 else None
        return Batch(language, features, described[:1] if alike else described)

    def _whole_epoch(self, epoch: int) -> Tensor:
        """Orders the examples of all sources: (examples of an epoch,) int64, numbered through all sources."""
        if self._shuffled is None or self._shuffled[0] != epoch:
            generator = stream(self._seed, "mixed", self._phase, epoch)
            numbers = torch.cat(
                [
                    start + torch.arange(source.examples_an_epoch) % len(source.features)
                    for start, source in zip(self._starts.tolist(), self.sources, strict=False)
                ]
            )
            numbers = numbers[torch.randperm(len(numbers), generator=generator)]
            self._shuffled = epoch, self._grouped(numbers, generator)
        return self._shuffled[1]

    def _whole_block(self, block: int) -> Tensor:
        """Draws the examples of a block of steps: (steps * batch size,) int64, numbered through all sources."""
        assert self._sampling is not None
        weights = self._sampling.weights(self.sources)
        if self._drawn is None or self._drawn[0] > block:
            self._drawn = -1, torch.zeros(len(weights), dtype=torch.int64), torch.empty(0, dtype=torch.int64)
        at, before, numbers = self._drawn
        while at < block:
            at += 1
            generator = stream(self._seed, "mixed sources", self._phase, at)
            draws = torch.multinomial(weights, _BLOCK * self.batch_size, replacement=True, generator=generator)
            if at == block:
                numbers = self._grouped(self._turns(draws, before), generator)
            before = before + torch.bincount(draws, minlength=len(weights))
        self._drawn = block, before, numbers
        return numbers

    def _turns(self, draws: Tensor, before: Tensor) -> Tensor:
        """Returns for each drawn source its next example, (draws,) int64, numbered through all sources.

        Args:
            draws: (draws,) int64 numbers of sources.
            before: (sources,) int64, how many examples each source has given in earlier blocks.
        """
        numbers = torch.empty_like(draws)
        for number, source in enumerate(self.sources):
            places = (draws == number).nonzero()[:, 0]
            turns = before[number] + torch.arange(len(places))
            epochs = turns // source.examples_an_epoch
            for epoch in epochs.unique().tolist():
                order = self._example_order(number, epoch)
                given = order[turns[epochs == epoch] % source.examples_an_epoch]
                numbers[places[epochs == epoch]] = self._starts[number] + given
        return numbers

    def _grouped(self, numbers: Tensor, generator: torch.Generator) -> Tensor:
        """Sorts the examples of each group of batches by length, if the recipe groups by length."""
        if not self._groups_whole:
            return numbers
        return self._group_by_length(numbers, torch.cat([source.lengths for source in self.sources]), generator)


class MixedBatchesOfParts(Mix):
    """Batches with examples in several languages, each of one part of the sources: of one task.

    Within a part the batches are those of `MixedBatches`. With concatenation, the batches of all parts are shuffled
    together; with sampling, the part of each step is drawn, with the sum of its sources' probabilities.

    Args:
        parts: the sources of each part; at least one part, and none empty.
        batch_size, seed, phase, sampling, group_by_length: as for `Mix`.
    """

    def __init__(
        self,
        parts: Sequence[Sequence[LoadedSource]],
        batch_size: int,
        seed: int,
        phase: str,
        sampling: Sampling | None = None,
        group_by_length: bool = False,
    ) -> None:
        super().__init__([source for part in parts for source in part], batch_size, seed, phase, sampling)
        self._parts = [
            MixedBatches(part, batch_size, seed, f"{phase} {number}", sampling, group_by_length)
            for number, part in enumerate(parts)
        ]
        self._batches = [part.steps_per_epoch for part in self._parts]

    def batch(self, step: int) -> Batch:
        """Returns the batch of a step of the phase, counted from 0."""
        number, turn = self._turn(step)
        return self._parts[number].batch(turn)

    def _weights(self, sampling: Sampling) -> Tensor:
        """Returns the unnormalised probability that the batch of a step is of each part, (parts,) float64."""
        return torch.stack([part.sum() for part in sampling.weights(self.sources).split(self._sizes)])

    @property
    def _sizes(self) -> list[int]:
        return [len(part.sources) for part in self._parts]
