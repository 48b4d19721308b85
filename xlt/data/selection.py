"""Selects the examples of each source that a run uses for training, validation or evaluation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

from xlt.config import SourceConfig
from xlt.data.examples import Example
from xlt.data.held_out import HeldOut
from xlt.data.overlap import Overlap, texts_of
from xlt.data.planned import PlannedData, PlannedSource
from xlt.data.sources import digest, read_source, source_identity
from xlt.data.transforms import transform_of

# Digest of the excluded sources -> index of their texts; the runs of a plan share the indices.
_EXCLUDED: dict[str, Overlap] = {}


class Selection:
    """The examples of a run for training (part `sources`), `validation` and `evaluation`.

    If the config has no validation source, examples are held out of the training sources for validation. Examples with
    texts of `excluded` sources are used neither for training nor for validation.

    Args:
        data: of the run.
        seed: of the run; decides which examples are drawn and held out.
        entity_column: returns a source's column with tags of entities, which are converted to IOB2; None: none.
    """

    def __init__(
        self, data: PlannedData, seed: int, entity_column: Callable[[SourceConfig], str | None] = lambda _: None
    ) -> None:
        self.data, self.seed, self.entity_column = data, seed, entity_column
        self._held_out = HeldOut(data.config, seed)

    @property
    def holds_out(self) -> bool:
        """Whether examples for validation are held out of the training sources."""
        return self._held_out.is_used

    def sources(self, part: str) -> Mapping[str, PlannedSource]:
        """Returns the sources of a part; for validation without sources, training sources with held-out examples."""
        if part == "validation" and self.holds_out:
            return {n: source for n, source in self.data.sources.items() if self._held_out.takes_from(source.config)}
        return self.data.part(part)

    def examples(self, part: str, name: str) -> Iterator[Example]:
        """Yields the examples of a source that belong to a part.

        Raises:
            UsageError: the source is missing, broken or empty, or has too few examples to hold some out.
        """
        source = self.sources(part)[name]
        key = f"data.{'sources' if part == 'validation' and self.holds_out else part}.{name}"

        def whole() -> Iterator[Example]:
            return read_source(key, source, self.seed, self._overlap(part), self.entity_column(source.config))

        if not self._is_split(part):
            return whole()
        if not self._held_out.takes_from(source.config):
            return (example for example in whole() if not self._held_out.holds(example.id))
        held = self._held_out.numbers(name, source.config, [example.id for example in whole()])
        return (example for number, example in enumerate(whole()) if (number in held) == (part == "validation"))

    def readable(self, part: str, name: str, key: str) -> Iterator[Example]:
        """Yields all examples of a source, held out or not.

        If another run must still make the file of the source, the examples of the original source are yielded.

        Args:
            part, name: of the source.
            key: of the source, for messages.
        """
        source = readable(self.data.part(part)[name])
        return read_source(key, source, self.seed, self._overlap(part), self.entity_column(source.config))

    def check_held_out(self, name: str, ids: Sequence[str | None]) -> None:
        """Checks that examples of a training source remain after some are held out, given the ids of all examples.

        Raises:
            UsageError: none would remain.
        """
        source = self.data.sources[name].config
        if self.holds_out and self._held_out.takes_from(source):
            self._held_out.numbers(name, source, ids)

    def identity(self, part: str, name: str, source: PlannedSource | None = None) -> dict[str, Any]:
        """Returns all that determines the result of `examples`, as JSON values.

        If two identities are equal, the examples are the same, in the same order.

        Args:
            part, name: of the source.
            source: another source that is read instead; None: the source itself.
        """
        source = self.sources(part)[name] if source is None else source
        split = self._is_split(part)
        drawn = source.config.cap is not None or source.config.cap_words is not None or split
        return {
            "source": source_identity(source) | {"upsample": 1},
            "held out": [part, *self._held_out.identity_of(name, source.config)] if split else None,
            "seed": self.seed if drawn else None,
            "excluded": {} if part == "evaluation" else self._excluded_identity,
        }

    def _is_split(self, part: str) -> bool:
        """Returns whether a part has only the held-out examples, or only the others."""
        return self.holds_out and part in ("sources", "validation")

    def _overlap(self, part: str) -> Overlap | None:
        return self._excluded if part != "evaluation" else None

    @cached_property
    def _excluded_identity(self) -> dict[str, dict[str, object]]:
        return {name: source_identity(source) for name, source in self.data.excluded.items()}

    @cached_property
    def _excluded(self) -> Overlap | None:
        sources = self.data.excluded
        if not sources:
            return None
        drawn = any(source.config.cap is not None or source.config.cap_words is not None for source in sources.values())
        content = digest([*map(source_identity, sources.values()), self.seed if drawn else None])
        if content not in _EXCLUDED:
            _EXCLUDED[content] = Overlap(
                text
                for name, source in sources.items()
                for example in read_source(f"data.excluded.{name}", source, self.seed)
                for text in texts_of(example)
            )
        return _EXCLUDED[content]


def readable(source: PlannedSource) -> PlannedSource:
    """Returns the source, or its original source while the file that another run makes for it does not exist."""
    transform = transform_of(source.config)
    if transform is None or source.made is None or source.made.path.exists():
        return source
    return PlannedSource(transform.not_yet(source.config))
