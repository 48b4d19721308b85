"""The data of a run: it is read and checked before a model is loaded, tokenised once, and cached on disk."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

from xlt.config import RunConfig
from xlt.data.encoding import Encoder
from xlt.data.feature_cache import cached
from xlt.data.leaks import EvaluationTexts, leak_fault
from xlt.data.mix import Features, LoadedSource
from xlt.data.overlap import texts_of
from xlt.data.planned import PlannedData, PlannedSource
from xlt.data.selection import Selection, readable
from xlt.data.sources import digest, reading_module
from xlt.errors import UsageError
from xlt.source_code import installed
from xlt.tasks.task import Task

# Number of examples that are tokenised together; lines of a corpus are joined only within such a group.
_CHUNK = 10_000

# Code that the classes of tasks use but that does not affect features.
_NO_FEATURES = (
    *("xlt_kernels", "xlt.models", "xlt.modules"),
    *("xlt.errors", "xlt.files", "xlt.languages", "xlt.language_codes", "xlt.data.leaks"),
)

# Results of checks in this process: markers of sources without faults, and digests of pairs of training and evaluation
# sources that share no text.
_CHECKED: set[Path] = set()
_APART: set[str] = set()


class RunData:
    """The data of a run for training (part `sources`), `validation` and `evaluation`.

    `xlt.data.selection` selects the examples of each part. Nothing is read before a method is called.

    Args:
        config: of the run.
        task: the task, which turns examples into features.
        data: of the run, as planned; None: those of the config, without sources that other runs make.
    """

    def __init__(self, config: RunConfig, task: Task, data: PlannedData | None = None) -> None:
        self._config, self._task = config, task
        self._selection = Selection(PlannedData.of(config.data) if data is None else data, config.seed)
        self._cache = Path(config.output_dir).expanduser() / "cache"

    def sources(self, part: str) -> Mapping[str, PlannedSource]:
        """Returns the sources of a part; for validation without sources, training sources with held-out examples."""
        return self._selection.sources(part)

    def check(self) -> None:
        """Reads every source and lets the task check it; sources that were checked before are not read again.

        Raises:
            UsageError: sources have faults; a line for each such source.
        """
        lines: list[str] = []
        for part in ("sources", "validation", "evaluation"):
            for name in self._selection.data.part(part):
                try:
                    self._check(part, name)
                except UsageError as error:
                    lines += error.lines
        if not lines and self._config.data.leaks == "refuse":
            lines += self.leaks([("data.sources", self)])
        if self._selection.holds_out and not self.sources("validation"):
            lines.append("data.validation: empty, and data.sources has no gold source to hold some out of")
        if lines:
            raise UsageError(*lines)

    def leaks(self, learners: Iterable[tuple[str, RunData]]) -> list[str]:
        """Returns a line for each training source of other runs that has texts of this run's evaluation data.

        A source without such texts is not read again at a later call.

        Args:
            learners: for each of the other runs a key, for messages, and its data; texts that it excludes do not count.
        """
        evaluation = [self._readable_identity("evaluation", name) for name in self.sources("evaluation")]
        lines = []
        for prefix, learner in learners:
            for name in learner.sources("sources"):
                pair = digest([evaluation, learner._readable_identity("sources", name)])
                if pair in _APART:
                    continue
                key = f"{prefix}.{name}"
                examples = learner._selection.readable("sources", name, key)
                fault = leak_fault(key, self._evaluation_texts.leaks(examples))
                if fault is None:
                    _APART.add(pair)
                else:
                    lines.append(fault)
        return lines

    def load(self, part: str, encoder: Encoder, only: Iterable[str] | None = None) -> list[LoadedSource]:
        """Loads the features of a part's sources; makes and caches them first if the cache lacks them.

        Args:
            part: `sources`, `validation` or `evaluation`.
            encoder: the tokenizer.
            only: names of sources; None: all.
        Raises:
            UsageError: a source is broken, or has no features after tokenisation.
        """
        sources = self.sources(part)
        names = list(sources) if only is None else [name for name in sources if name in set(only)]
        loaded = []
        for name in names:
            key = self._identity(part, name) | {"tokenizer": encoder.identity}
            file = self._cache / "features" / f"{digest(key)}.arrow"
            try:
                features = cached(file, self._features(part, name, encoder))
            except ValueError as error:
                if isinstance(error, UsageError):
                    raise
                raise UsageError(f"data.{part}.{name}: the tokenizer finds nothing in it") from error
            marker = self._marker(part, name)
            marker.parent.mkdir(parents=True, exist_ok=True)
            marker.touch()
            upsample = sources[name].config.upsample if part == "sources" else 1
            loaded.append(LoadedSource(name, sources[name].language, features, upsample))
        return loaded

    def lines(self, only: Iterable[str] | None = None, part: str = "sources") -> Iterator[str]:
        """Yields the texts of a part's sources, one line for each example, to make or to test a vocabulary.

        Args:
            only: names of sources; None: all sources of the part.
            part: as in `load`.
        """
        for name in self.sources(part) if only is None else only:
            for example in self._selection.examples(part, name):
                yield " ".join(texts_of(example))

    @cached_property
    def _evaluation_texts(self) -> EvaluationTexts:
        return EvaluationTexts(
            {
                f"data.evaluation.{name}": self._selection.readable("evaluation", name, f"data.evaluation.{name}")
                for name in self.sources("evaluation")
            }
        )

    def _check(self, part: str, name: str) -> None:
        source = self._selection.data.part(part)[name]
        marker = self._marker(part, name)
        if marker in _CHECKED or marker.exists():
            return
        ids: list[str | None] = []
        examples = self._selection.readable(part, name, f"data.{part}.{name}")
        while chunk := list(islice(examples, _CHUNK)):
            self._task.check(chunk, f"data.{part}.{name}")
            ids += [example.id for example in chunk]
        if part == "sources":
            self._selection.check_held_out(name, ids)
        if readable(source) is source:  # else another run must make the source before it can be checked
            _CHECKED.add(marker)

    def _marker(self, part: str, name: str) -> Path:
        """Returns the file whose existence says that a source has no faults and was tokenised."""
        return self._cache / "checked" / digest(self._identity(part, name))

    def _features(self, part: str, name: str, encoder: Encoder) -> Iterator[Features]:
        examples = self._selection.examples(part, name)
        before = 0
        while chunk := list(islice(examples, _CHUNK)):
            self._task.check(chunk, f"data.{part}.{name}")
            for row in self._task.features(chunk, encoder):
                yield row | {"example": row["example"] + before} if "example" in row else row
            before += len(chunk)

    def _readable_identity(self, part: str, name: str) -> dict[str, Any]:
        return self._identity(part, name, readable(self.sources(part)[name]))

    def _code(self, source: PlannedSource) -> dict[str, str]:
        """Returns digests of the code that makes a source's features: the reader, the selection, and the task."""
        roots = (f"{__name__}.{RunData.__name__}", self._config.task._target_, reading_module(source.config))
        return installed().digests(roots, _NO_FEATURES)

    def _identity(self, part: str, name: str, source: PlannedSource | None = None) -> dict[str, Any]:
        """Returns all that determines a source's features, except the tokenizer; `source` is read instead if given."""
        return {
            **self._selection.identity(part, name, source),
            "task": dataclasses.asdict(self._config.task),
            "code": self._code(self.sources(part)[name] if source is None else source),
        }
