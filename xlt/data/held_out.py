"""Chooses examples of the training sources for validation, in runs without validation sources."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch

from xlt.config import DataConfig, SourceConfig
from xlt.data.streams import stream, stream_seed
from xlt.errors import UsageError


class HeldOut:
    """The rule by which examples are held out of each training source (thesis §4.4.2: 5% of the corpus).

    A share of every gold source is held out, chosen by the seed. In sources whose examples have ids, an id is held out
    of all sources or of none. So no translation of a held-out example is used for training.

    Args:
        data: of the run.
        seed: of the run.
    """

    def __init__(self, data: DataConfig, seed: int) -> None:
        self._data, self._seed = data, seed

    @property
    def is_used(self) -> bool:
        """Whether the run holds out examples at all, which it does if it has no validation sources."""
        return not self._data.validation

    @staticmethod
    def takes_from(source: SourceConfig) -> bool:
        """Returns whether examples of this source are held out."""
        return source.origin == "gold"

    def numbers(self, name: str, source: SourceConfig, ids: Sequence[str | None]) -> set[int]:
        """Returns the numbers of the examples of a gold source that are held out.

        Args:
            name: of the source.
            source: its settings.
            ids: of all its examples, in order.
        Raises:
            UsageError: no example would remain for training.
        """
        count = len(ids)
        if count and None not in ids:
            ranks = [self._rank(one) for one in ids if one is not None]
            held = {number for number in range(count) if ranks[number] < self._bound} or {ranks.index(min(ranks))}
        else:
            order = torch.randperm(count, generator=stream(self._seed, "held-out", name))
            held = set(order[: max(1, round(self._data.held_out_of(source.language) * count))].tolist())
        if len(held) >= count:
            raise UsageError(f"data.sources.{name}: {count} examples are too few to hold some out for validation")
        return held

    def holds(self, id: str | None) -> bool:
        """Returns whether examples with this id are held out of every source."""
        return id is not None and self._rank(id) < self._bound

    def identity(self) -> dict[str, Any]:
        """Returns the settings of a run that decide what is held out of all its sources, as JSON values."""
        languages = {source.language for source in self._data.sources.values() if self.takes_from(source)}
        return {
            "origins": {name: source.origin for name, source in self._data.sources.items()},
            "held_out": {language: self._data.held_out_of(language) for language in sorted(languages)},
        }

    def identity_of(self, name: str, source: SourceConfig) -> list[Any]:
        """Returns all that decides which examples of a source are held out, except the seed and the examples."""
        return [name, self._data.held_out_of(source.language), source.origin, self._bound]

    def _rank(self, id: str) -> float:
        """Returns a pseudo-random number in [0, 1) that is the same for all examples with this id."""
        return stream_seed(self._seed, "held-out", id) / 2**63

    @cached_property
    def _bound(self) -> float:
        """The rank below which ids are held out: the largest share that is held out of any source."""
        gold = [source.language for source in self._data.sources.values() if self.takes_from(source)]
        return max(map(self._data.held_out_of, gold), default=0.0)
