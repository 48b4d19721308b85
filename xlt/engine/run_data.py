"""The data of a run: read and checked before a model is loaded, tokenised once and kept on disk."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from xlt.config import PlannedTranslation, RunConfig, SourceConfig
from xlt.data.encoding import Encoder
from xlt.data.examples import Example
from xlt.data.feature_cache import cached
from xlt.data.leaks import EvaluationTexts, leak_fault
from xlt.data.mix import Features, LoadedSource
from xlt.data.overlap import Overlap, texts_of
from xlt.data.sources import digest, read_source, reader_of, source_identity
from xlt.data.streams import stream, stream_seed
from xlt.errors import UsageError
from xlt.source_code import installed
from xlt.tasks.task import Task

# Examples that are tokenised together; joined lines of a corpus end with them.
_CHUNK = 10_000

# Code that a task's class uses and that makes no features.
_NO_FEATURES = (
    *("xlt_kernels", "xlt.models", "xlt.modules"),
    *("xlt.errors", "xlt.files", "xlt.languages", "xlt.data.leaks"),
)

# Sources found right in this process, and training sources found apart from what is evaluated on.
_CHECKED: set[Path] = set()
_APART: set[str] = set()

# Indices of what must not be learned from, by what they are made of.
_EXCLUDED: dict[str, Overlap] = {}


class RunData:
    """Sources of a run by the part they play: `sources`, `validation`, `evaluation`.

    Where the config names no validation source, a seeded share of every gold training source is held out for it
    (thesis §4.4.2: 5% of the corpus). Nothing is read before `check` or `load` is called.

    Args:
        config: of the run.
        task: what the examples are for.
    """

    def __init__(self, config: RunConfig, task: Task) -> None:
        self._config, self._task = config, task
        self._cache = Path(config.output_dir).expanduser() / "cache"

    def names(self, part: str) -> dict[str, SourceConfig]:
        """The sources of a part; for validation those that hold some out where none is named."""
        if part == "validation" and self._holds_out:
            return {name: source for name, source in self._config.data.sources.items() if self._is_held_out_of(source)}
        return dict(getattr(self._config.data, part))

    def check(self) -> None:
        """Reads every source and lets the task check it; what was found right before is not read again.

        Raises:
            UsageError: what is wrong with the sources, a line for each broken one.
        """
        faults: list[str] = []
        for part in ("sources", "validation", "evaluation"):
            for name, source in getattr(self._config.data, part).items():
                try:
                    self._check(part, name, source)
                except UsageError as error:
                    faults += error.lines
        if not faults and self._config.data.leaks == "refuse":
            faults += self.leaks([("data.sources", self)])
        if self._holds_out and not self.names("validation"):
            faults.append("data.validation: empty, and data.sources has no gold source to hold some out of")
        if faults:
            raise UsageError(*faults)

    def leaks(self, learners: Iterable[tuple[str, RunData]]) -> list[str]:
        """Training sources with texts that this run is evaluated on, a line each.

        Those that were found to have none are not read again.

        Args:
            learners: name for messages, and the data of a run that learns; what it excludes it does not learn from.
        """
        evaluation = [self._identity("evaluation", n, _as_read(s)) for n, s in self.names("evaluation").items()]
        lines = []
        for prefix, data in learners:
            for name, source in data._config.data.sources.items():
                pair = digest([evaluation, data._identity("sources", name, _as_read(source))])
                if pair in _APART:
                    continue
                read = read_source(f"{prefix}.{name}", _as_read(source), data._config.seed, data._overlap("sources"))
                fault = leak_fault(f"{prefix}.{name}", self._evaluation_texts.leaks(read))
                if fault is None:
                    _APART.add(pair)
                else:
                    lines.append(fault)
        return lines

    def load(self, part: str, encoder: Encoder, only: Iterable[str] | None = None) -> list[LoadedSource]:
        """The part's sources as the task's features, tokenised now if they were not before.

        Args:
            part: `sources`, `validation` or `evaluation`.
            encoder: the tokenizer.
            only: names of sources; None: all.
        Raises:
            UsageError: a source is broken, or the tokenizer leaves nothing of it.
        """
        wanted = self.names(part)
        names = wanted if only is None else [name for name in wanted if name in set(only)]
        loaded = []
        for name in names:
            key = self._identity(part, name, wanted[name]) | {"tokenizer": encoder.identity}
            file = self._cache / "features" / f"{digest(key)}.arrow"
            try:
                features = cached(file, self._features(part, name, wanted[name], encoder))
            except ValueError as error:
                if isinstance(error, UsageError):
                    raise
                raise UsageError(f"data.{part}.{name}: the tokenizer finds nothing in it") from error
            marker = self._marker(part, name, wanted[name])
            marker.parent.mkdir(parents=True, exist_ok=True)
            marker.touch()
            upsample = wanted[name].upsample if part == "sources" else 1
            loaded.append(LoadedSource(name, wanted[name].language, features, upsample))
        return loaded

    def lines(self, only: Iterable[str] | None = None, part: str = "sources") -> Iterator[str]:
        """Running text of a part's sources, or of those named, for a vocabulary to be made of and tried on."""
        wanted = self.names(part)
        for name, source in wanted.items() if only is None else ((name, wanted[name]) for name in only):
            for example in self._examples(part, name, source):
                yield " ".join(texts_of(example))

    @cached_property
    def _evaluation_texts(self) -> EvaluationTexts:
        return EvaluationTexts(
            {
                f"data.evaluation.{name}": read_source(f"data.evaluation.{name}", _as_read(source), self._config.seed)
                for name, source in self.names("evaluation").items()
            }
        )

    @property
    def _holds_out(self) -> bool:
        return not self._config.data.validation

    @staticmethod
    def _is_held_out_of(source: SourceConfig) -> bool:
        return source.origin == "gold"

    def _check(self, part: str, name: str, source: SourceConfig) -> None:
        marker: Path | None = self._marker(part, name, source)
        assert marker is not None
        if marker in _CHECKED or marker.exists():
            return
        if (read := _as_read(source)) is not source:
            source, marker = read, None
        ids: list[str | None] = []
        examples = read_source(f"data.{part}.{name}", source, self._config.seed, self._overlap(part))
        while chunk := list(islice(examples, _CHUNK)):
            self._task.check(chunk, f"data.{part}.{name}")
            ids += [example.id for example in chunk]
        if part == "sources" and self._holds_out and self._is_held_out_of(source):
            self._held_out(name, source, ids)
        if marker is not None:
            _CHECKED.add(marker)

    def _marker(self, part: str, name: str, source: SourceConfig) -> Path:
        """The file that says that a source was found right and tokenised."""
        return self._cache / "checked" / digest(self._identity(part, name, source))

    def _examples(self, part: str, name: str, source: SourceConfig) -> Iterator[Example]:
        """The examples of a source that a part takes."""
        given = f"data.{'sources' if part == 'validation' and self._holds_out else part}.{name}"

        def whole() -> Iterator[Example]:
            return read_source(given, source, self._config.seed, self._overlap(part))

        if part == "evaluation" or not self._holds_out:
            return whole()
        if not self._is_held_out_of(source):
            return (example for example in whole() if example.id is None or self._rank(example.id) >= self._by_id)
        held = self._held_out(name, source, [example.id for example in whole()])
        return (example for number, example in enumerate(whole()) if (number in held) == (part == "validation"))

    def _held_out(self, name: str, source: SourceConfig, ids: Sequence[str | None]) -> set[int]:
        """Numbers of the examples that select the checkpoint.

        Of data whose examples have names, the names decide: what one source holds out, none learns in translation.
        """
        count = len(ids)
        if count and None not in ids:
            rank = [self._rank(known) for known in ids if known is not None]
            held = {number for number in range(count) if rank[number] < self._by_id} or {rank.index(min(rank))}
        else:
            order = torch.randperm(count, generator=stream(self._config.seed, "held-out", name))
            fraction = self._config.data.held_out_of(source.language)
            held = set(order[: max(1, round(fraction * count))].tolist())
        if len(held) >= count:
            raise UsageError(f"data.sources.{name}: {count} examples are too few to hold some out for validation")
        return held

    def _rank(self, known: str) -> float:
        """In [0, 1), the same for all examples of one name."""
        return stream_seed(self._config.seed, "held-out", known) / 2**63

    @cached_property
    def _by_id(self) -> float:
        """Names of a rank below it are held out: the share of the source that holds out most."""
        gold = [source.language for source in self._config.data.sources.values() if self._is_held_out_of(source)]
        return max(map(self._config.data.held_out_of, gold), default=0.0)

    def _features(self, part: str, name: str, source: SourceConfig, encoder: Encoder) -> Iterator[Features]:
        examples = self._examples(part, name, source)
        before = 0
        while chunk := list(islice(examples, _CHUNK)):
            self._task.check(chunk, f"data.{part}.{name}")
            for row in self._task.features(chunk, encoder):
                yield row | {"example": row["example"] + before} if "example" in row else row
            before += len(chunk)

    def _overlap(self, part: str) -> Overlap | None:
        return self._excluded if part != "evaluation" else None

    @cached_property
    def _excluded(self) -> Overlap | None:
        sources, seed = self._config.data.excluded, self._config.seed
        if not sources:
            return None
        content = digest([*map(source_identity, sources.values()), seed])
        if content not in _EXCLUDED:
            _EXCLUDED[content] = Overlap(
                text
                for name, source in sources.items()
                for example in read_source(f"data.excluded.{name}", source, seed)
                for text in texts_of(example)
            )
        return _EXCLUDED[content]

    def _code(self, source: SourceConfig) -> dict[str, str]:
        """The code that makes features of a source: what reads it, what chooses its examples, the task."""
        roots = (f"{__name__}.{RunData.__name__}", self._config.task._target_, reader_of(source).__name__)
        return installed().digests(roots, _NO_FEATURES)

    def _identity(self, part: str, name: str, source: SourceConfig) -> dict[str, Any]:
        """All that decides which examples a part takes of a source, and what the task makes of them."""
        data, held = self._config.data, self._holds_out and part != "evaluation"
        excluded = {} if part == "evaluation" else {n: source_identity(s) for n, s in data.excluded.items()}
        drawn = source.cap is not None or source.cap_words is not None or held
        return {
            "source": source_identity(source) | {"upsample": 1},
            "split": source.split,
            "held out": [name, data.held_out_of(source.language), part, source.origin, self._by_id] if held else None,
            "seed": self._config.seed if drawn else None,
            "excluded": excluded,
            "task": dataclasses.asdict(self._config.task),
            "code": self._code(source),
        }


def _as_read(source: SourceConfig) -> SourceConfig:
    """The source, or what it is to be translated from as long as it is not."""
    if isinstance(source.translation, PlannedTranslation) and not Path(source.translation.file).exists():
        return dataclasses.replace(source.untranslated(), labels=source.labels, instruction=source.instruction)
    return source
