"""Which examples a run takes of its sources: for learning, for validation, for evaluation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

from xlt.data.examples import Example
from xlt.data.held_out import HeldOut
from xlt.data.overlap import Overlap, texts_of
from xlt.data.planned import PlannedData, PlannedSource
from xlt.data.sources import digest, read_source, source_identity
from xlt.data.transforms import transform_of

# Indices of excluded texts, by what they are made of; the runs of a plan share them.
_EXCLUDED: dict[str, Overlap] = {}


class Selection:
    """The examples of a run's sources by the part they play: `sources`, `validation`, `evaluation`.

    Where the config names no validation source, examples are held out of the training sources for it. Texts of
    `excluded` sources are in none of the examples that a run learns from or selects its checkpoint by.

    Args:
        data: of the run.
        seed: of the run; draws caps and what is held out.
    """

    def __init__(self, data: PlannedData, seed: int) -> None:
        self.data, self.seed = data, seed
        self._held_out = HeldOut(data.config, seed)

    @property
    def holds_out(self) -> bool:
        """Whether validation examples are held out of the training sources."""
        return self._held_out.is_used

    def sources(self, part: str) -> Mapping[str, PlannedSource]:
        """The sources of a part; for validation, those that hold examples out where no validation source is named."""
        if part == "validation" and self.holds_out:
            return {n: source for n, source in self.data.sources.items() if self._held_out.takes_from(source.config)}
        return self.data.part(part)

    def examples(self, part: str, name: str) -> Iterator[Example]:
        """The examples of a source that a part takes.

        Raises:
            UsageError: the source is missing, broken or empty, or too small to hold examples out.
        """
        source = self.sources(part)[name]
        key = f"data.{'sources' if part == 'validation' and self.holds_out else part}.{name}"

        def whole() -> Iterator[Example]:
            return read_source(key, source, self.seed, self._overlap(part))

        if not self._is_split(part):
            return whole()
        if not self._held_out.takes_from(source.config):
            return (example for example in whole() if not self._held_out.holds(example.id))
        held = self._held_out.numbers(name, source.config, [example.id for example in whole()])
        return (example for number, example in enumerate(whole()) if (number in held) == (part == "validation"))

    def readable(self, part: str, name: str, key: str) -> Iterator[Example]:
        """All examples of a source, held out or not; the original's where another run has yet to make the source's.

        Args:
            part, name: of the source.
            key: of the source, for messages.
        """
        return read_source(key, readable(self.data.part(part)[name]), self.seed, self._overlap(part))

    def check_held_out(self, name: str, ids: Sequence[str | None]) -> None:
        """Checks that a training source can spare what is held out of it, given the ids of all its examples.

        Raises:
            UsageError: it cannot.
        """
        source = self.data.sources[name].config
        if self.holds_out and self._held_out.takes_from(source):
            self._held_out.numbers(name, source, ids)

    def identity(self, part: str, name: str, source: PlannedSource | None = None) -> dict[str, Any]:
        """What determines `examples`, as JSON values: equal identities have the same examples in the same order.

        Args:
            part, name: of the source.
            source: read in its place; None: itself.
        """
        source = self.sources(part)[name] if source is None else source
        split = self._is_split(part)
        drawn = source.config.cap is not None or source.config.cap_words is not None or split
        excluded = {} if part == "evaluation" else {n: source_identity(s) for n, s in self.data.excluded.items()}
        return {
            "source": source_identity(source) | {"upsample": 1},
            "held out": [part, *self._held_out.identity_of(name, source.config)] if split else None,
            "seed": self.seed if drawn else None,
            "excluded": excluded,
        }

    def _is_split(self, part: str) -> bool:
        """Whether a part takes only what is held out, or only what is not."""
        return self.holds_out and part in ("sources", "validation")

    def _overlap(self, part: str) -> Overlap | None:
        return self._excluded if part != "evaluation" else None

    @cached_property
    def _excluded(self) -> Overlap | None:
        sources = self.data.excluded
        if not sources:
            return None
        content = digest([*map(source_identity, sources.values()), self.seed])
        if content not in _EXCLUDED:
            _EXCLUDED[content] = Overlap(
                text
                for name, source in sources.items()
                for example in read_source(f"data.excluded.{name}", source, self.seed)
                for text in texts_of(example)
            )
        return _EXCLUDED[content]


def readable(source: PlannedSource) -> PlannedSource:
    """The source, or its original as long as the file that another run makes for it is not there."""
    transform = transform_of(source.config)
    if transform is None or source.made is None or source.made.path.exists():
        return source
    return PlannedSource(transform.not_yet(source.config))
