"""The mix of sources, which determines the examples of each training step.

Every batch of a `Mix` has examples of one source, hence of one language (thesis §3.3.3, §4.4.4, §6.4.2);
`xlt.data.mixed_batches` has batches of several languages. The examples of each source are shuffled and cut into
batches; the batches of all sources are shuffled together, or the source of each step is drawn by size. The batch of a
step is a function of the seed, the phase and the step. It can therefore be computed without those before it, and a
resumed run or another process gets the same one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from xlt.config.data import LANGUAGE, TASK
from xlt.data.streams import stream

Features = dict[str, Any]

# Number of steps whose sources are drawn together, if they are drawn by size.
_BLOCK = 4096
# Number of batches of a source whose examples are sorted together, if they are grouped by length.
_GROUP_BATCHES = 50


@dataclass(frozen=True)
class LoadedSource:
    """A source whose examples are model inputs, with its language; upsampling is not applied yet.

    Attributes:
        features: model inputs of each example.
        named: name -> value of the features that describe each example, besides its language: its task, its domain.
    """

    name: str
    language: str
    features: Sequence[Features]
    upsample: int = 1
    named: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def described(self) -> Mapping[str, str]:
        """Name -> value of the features that describe each example: its language, its task, and further ones."""
        return {LANGUAGE: self.language, **self.named}

    @property
    def examples_an_epoch(self) -> int:
        """Number of examples in an epoch, with upsampling."""
        return len(self.features) * self.upsample

    @cached_property
    def lengths(self) -> Tensor:
        """Number of tokens of each example, (examples,) int64, without upsampling."""
        features: Any = self.features
        if hasattr(features, "lengths"):
            return torch.tensor(features.lengths("input_ids"))
        return torch.tensor([len(row["input_ids"]) for row in features])


@dataclass(frozen=True)
class Sampling:
    """A rule that draws the source of each step, with probability ~ min(examples, ceiling) ** exponent.

    Thesis §3.4.3. With an exponent of their own, tasks are drawn first: the probability of a task is
    ~ (its examples) ** task_exponent, and the rule above holds among the sources of the task. With given weights, the
    probability of a source is ~ the product of the weights of its features.

    Attributes:
        exponent: with 0 all sources are equally likely; with 1 they are drawn in proportion to their sizes.
        ceiling: the greatest size that counts; None for no limit.
        task_exponent: of tasks, as `exponent` for sources; None: sources are drawn whatever their task.
        given: feature -> value -> weight, 1 if it is not there; None: sizes count instead.
    """

    exponent: float
    ceiling: int | None
    task_exponent: float | None = None
    given: Mapping[str, Mapping[str, float]] | None = None

    def weights(self, sources: Sequence[LoadedSource]) -> Tensor:
        """Returns unnormalised probabilities, (sources,) float64."""
        if self.given is not None:
            named = [[self.given.get(n, {}).get(v, 1.0) for n, v in source.described.items()] for source in sources]
            return torch.tensor([math.prod(weights) for weights in named], dtype=torch.float64)
        sizes = [source.examples_an_epoch for source in sources]
        counted = sizes if self.ceiling is None else [min(size, self.ceiling) for size in sizes]
        weights = torch.tensor(counted, dtype=torch.float64) ** self.exponent
        if self.task_exponent is None:
            return weights
        tasks = [source.described.get(TASK) for source in sources]
        for task in dict.fromkeys(tasks):
            own = torch.tensor([one == task for one in tasks])
            whole = sum(size for size, one in zip(counted, tasks, strict=True) if one == task)
            weights[own] *= whole**self.task_exponent / weights[own].sum()
        return weights


@dataclass(frozen=True)
class Batch:
    """The examples of one step.

    Attributes:
        language: of all examples; None if they are in several languages.
        features: model inputs of each example.
        described: name -> value of the features that describe each example; a single entry if they are alike.
    """

    language: str | None
    features: list[Features]
    described: Sequence[Mapping[str, str]] = ()


class Mix:
    """The batches of all sources, each of one language, in the order of steps.

    Besides the features it needs 8 bytes of memory per example of an epoch.

    Args:
        sources: at least one, and none empty.
        batch_size: number of examples per step; the last batch of a source in an epoch can be smaller.
        seed: of the order.
        phase: name of the training phase; each phase has another order.
        sampling: how the source of a step is drawn; None means that an epoch has every example once (concatenation).
        group_by_length: whether the examples of a batch have similar lengths, so that there is little padding. The
            examples of 50 random batches are sorted by length and cut into batches, whose order is random again.
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
        """Number of steps of an epoch, with upsampling."""
        return sum(self._batches)

    def batch(self, step: int) -> Batch:
        """Returns the batch of a step of the phase, counted from 0."""
        number, turn = self._turn(step)
        source = self.sources[number]
        epoch, at = divmod(turn, self._batches[number])
        numbers = self._example_order(number, epoch)[at * self.batch_size : (at + 1) * self.batch_size]
        return Batch(source.language, rows_of(source.features, numbers.tolist()), (source.described,))

    def _turn(self, step: int) -> tuple[int, int]:
        """Returns the number of a step's source, and the number of this source's batches before."""
        whole = self.steps_per_epoch if self._sampling is None else _BLOCK
        block, position = divmod(step, whole)
        if self._order is None or self._order[0] != block:
            self._order = (block, *(self._epoch_order(block) if self._sampling is None else self._draw_block(block)))
        _, numbers, turns = self._order
        return int(numbers[position]), int(turns[position])

    def _epoch_order(self, epoch: int) -> tuple[Tensor, Tensor]:
        """Orders all batches of an epoch: returns (steps,) source numbers and (steps,) numbers of batches, int64."""
        numbers = torch.repeat_interleave(torch.tensor(self._batches))
        turns = torch.cat([torch.arange(epoch * count, (epoch + 1) * count) for count in self._batches])
        shuffled = torch.randperm(len(numbers), generator=stream(self._seed, "batches", self._phase, epoch))
        return numbers[shuffled], turns[shuffled]

    def _weights(self, sampling: Sampling) -> Tensor:
        """Returns the unnormalised probability that the batch of a step is of each source, (sources,) float64."""
        return sampling.weights(self.sources)

    def _draw_block(self, block: int) -> tuple[Tensor, Tensor]:
        """Draws the sources of a block of steps: (steps,) source numbers and (steps,) numbers of batches, int64."""
        assert self._sampling is not None
        weights = self._weights(self._sampling)
        before = torch.zeros(len(weights), dtype=torch.int64)
        for number in range(block + 1):
            generator = stream(self._seed, "sources", self._phase, number)
            draws = torch.multinomial(weights, _BLOCK, replacement=True, generator=generator)
            if number < block:
                before += torch.bincount(draws, minlength=len(weights))
        hits = torch.nn.functional.one_hot(draws, len(weights)).cumsum(0)
        return draws, before[draws] + hits.gather(1, draws[:, None]).squeeze(1) - 1

    def _example_order(self, number: int, epoch: int) -> Tensor:
        """Returns the order of a source's examples in its `epoch`-th pass, (examples of an epoch,) int64."""
        cached = self._rows.get(number)
        if cached is None or cached[0] != epoch:
            source = self.sources[number]
            generator = stream(self._seed, "order", self._phase, epoch, source.name)
            order = torch.randperm(source.examples_an_epoch, generator=generator) % len(source.features)
            if self._groups:
                order = self._group_by_length(order, source.lengths, generator)
            self._rows[number] = cached = (epoch, order)
        return cached[1]

    def _group_by_length(self, order: Tensor, lengths: Tensor, generator: torch.Generator) -> Tensor:
        """Sorts the examples of each group of batches by length; a batch that is not full stays last."""
        batches: list[Tensor] = []
        for group in order.split(_GROUP_BATCHES * self.batch_size):
            *full, last = group[lengths[group].argsort(stable=True)].split(self.batch_size)
            if len(last) == self.batch_size:
                full, last = [*full, last], order[:0]
            batches += [full[number] for number in torch.randperm(len(full), generator=generator).tolist()]
        return torch.cat([*batches, last])


def rows_of(features: Sequence[Features], numbers: list[int]) -> list[Features]:
    """Returns rows by their numbers, in one access if the features support it."""
    if hasattr(features, "rows"):
        return features.rows(numbers)
    return [features[number] for number in numbers]
