"""The data of a run: it is read and checked before a model is loaded, tokenised once, and cached on disk."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

from xlt.config import RunConfig, SourceConfig
from xlt.data.encoding import Encoder
from xlt.data.examples import Example
from xlt.data.feature_cache import NoFeaturesError, cached
from xlt.data.label_names import recognised
from xlt.data.leaks import EvaluationTexts, leak_fault
from xlt.data.mix import Features, LoadedSource
from xlt.data.overlap import texts_of
from xlt.data.planned import PlannedData, PlannedSource
from xlt.data.selection import Selection, readable
from xlt.data.source_report import SourceReport
from xlt.data.sources import digest, labels_key, reading_module
from xlt.data.where import row_count
from xlt.errors import UsageError
from xlt.files import write_json
from xlt.models.loading import load_tokenizer
from xlt.source_code import installed
from xlt.tasks.task import Task

# Number of examples that are tokenised together; lines of a corpus are joined only within such a group.
_CHUNK = 10_000

# Code that the classes of tasks use but that does not affect features.
_NO_FEATURES = (
    *("xlt_kernels", "xlt.models", "xlt.modules"),
    *("xlt.errors", "xlt.files", "xlt.languages", "xlt.language_codes", "xlt.data.leaks", "xlt.data.source_report"),
)

# Results of checks in this process: marker of a source without faults -> what was noticed while it was read; and
# digests of pairs of training and evaluation sources that share no text.
_CHECKED: dict[Path, SourceReport] = {}
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
        planned = PlannedData.of(config.data) if data is None else data
        self._selection = Selection(planned, config.seed, lambda source: self._task_of(source).entity_column)
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
            for name, source in self._selection.data.part(part).items():
                scheme, task = source.config.scheme, self._task_of(source.config)
                if scheme is not None and task.entity_column is None:
                    lines.append(f"data.{part}.{name}.scheme={scheme}: task {task.name} has no tags of entities")
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

    def reports(self) -> dict[str, SourceReport]:
        """Returns key of a source -> what was noticed while it was read, for all sources that have been checked."""
        reports = {}
        for part in ("sources", "validation", "evaluation"):
            for name in self._selection.data.part(part):
                marker = self._marker(part, name)
                if (report := _CHECKED.get(marker) or _read_report(marker)) is not None:
                    reports[f"data.{part}.{name}"] = report
        for name, source in self._selection.data.part("excluded").items():
            if (count := row_count(source.config)) is not None:
                reports[f"data.excluded.{name}"] = SourceReport(count.rows, dict(count.left_out))
        return reports

    def forms_matter(self, reports: Iterable[SourceReport]) -> bool:
        """Returns whether the model's tokenizer cuts the texts in NFC otherwise than in NFD; true if it is unknown."""
        model = self._config.model
        if model.path is None:
            return True
        try:
            encoder = Encoder(load_tokenizer(model.path, model.revision, trust_remote_code=model.trust_remote_code))
        except UsageError:
            return True
        texts = [report.sample for report in reports if report.sample is not None]
        composed, decomposed = ([unicodedata.normalize(form, text) for text in texts] for form in ("NFC", "NFD"))
        return encoder.lines(composed) != encoder.lines(decomposed)

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
            except NoFeaturesError as error:
                raise UsageError(f"data.{part}.{name}: the tokenizer finds nothing in it") from error
            marker = self._marker(part, name)
            if not marker.exists():
                _mark(marker, _CHECKED.get(marker))
            upsample = sources[name].config.upsample if part == "sources" else 1
            described = sources[name].config.features_of_examples(self._task.name)
            loaded.append(LoadedSource(name, sources[name].language, features, upsample, described))
        return loaded

    def examples(self, name: str) -> Iterator[Example]:
        """Yields the examples of an evaluation source, in the order of their features."""
        return self._selection.examples("evaluation", name)

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
        task = self._task_of(source.config)
        marker = self._marker(part, name)
        if marker in _CHECKED or marker.exists():
            return
        ids: list[str | None] = []
        lines: list[str] = []
        report = SourceReport()
        examples = self._selection.readable(part, name, f"data.{part}.{name}")
        try:
            while chunk := list(islice(examples, _CHUNK)):
                try:
                    task.check(chunk, f"data.{part}.{name}")
                except UsageError as error:
                    lines += [self._keyed(line, source.config) for line in error.lines]
                for example in chunk:
                    ids.append(example.id)
                    report.count_form(example)
        except UsageError as error:
            lines += error.lines
        if lines:
            raise UsageError(*lines)
        if part == "sources":
            self._selection.check_held_out(name, ids)
        if (count := row_count(readable(source).config)) is not None:
            report.rows, report.left_out = count.rows, dict(count.left_out)
        if part == "sources" and source.config.cap_words is None and len(ids) < (source.config.cap or 0):
            report.cap, report.examples = source.config.cap or 0, len(ids)
        if task.entity_column is not None:
            report.scheme = recognised(labels_key(source, task.entity_column))
        if readable(source) is source:  # else another run must make the source before it can be checked
            _CHECKED[marker] = report
            if self._cache.is_dir():  # a plan alone makes no folder
                with contextlib.suppress(OSError):  # and may be asked of a store that only others can write
                    _mark(marker, report)

    def _marker(self, part: str, name: str) -> Path:
        """Returns the file that says that a source has no faults; it holds the source's report."""
        return self._cache / "checked" / digest(self._identity(part, name))

    def _features(self, part: str, name: str, encoder: Encoder) -> Iterator[Features]:
        examples, task = self._selection.examples(part, name), self._task_of(self.sources(part)[name].config)
        before = 0
        while chunk := list(islice(examples, _CHUNK)):
            task.check(chunk, f"data.{part}.{name}")
            for row in task.features(chunk, encoder):
                yield row | {"example": row["example"] + before} if "example" in row else row
            before += len(chunk)

    def _readable_identity(self, part: str, name: str) -> dict[str, Any]:
        return self._identity(part, name, readable(self.sources(part)[name]))

    def _code(self, source: PlannedSource) -> dict[str, str]:
        """Returns digests of the code that makes a source's features: the reader, the selection, and the task."""
        roots = (
            f"{__name__}.{RunData.__name__}",
            self._config_of(source.config)._target_,
            reading_module(source.config),
        )
        return installed().digests(roots, _NO_FEATURES)

    def _identity(self, part: str, name: str, source: PlannedSource | None = None) -> dict[str, Any]:
        """Returns all that determines a source's features, except the tokenizer; `source` is read instead if given."""
        own = self.sources(part)[name] if source is None else source
        return {
            **self._selection.identity(part, name, source),
            "task": dataclasses.asdict(self._config_of(own.config)),
            "code": self._code(own),
        }

    def _task_of(self, source: SourceConfig) -> Task:
        """Returns the task of a source's examples."""
        return self._task.part(source.features_of_examples(self._task.name))

    def _config_of(self, source: SourceConfig) -> Any:
        """Returns the config of the task of a source's examples."""
        name = self._task_of(source).head_name
        return self._config.task if name is None else self._task.configs(self._config.task)[name]

    def _keyed(self, line: str, source: SourceConfig) -> str:
        """Names in a line about one of several tasks the whole key of its settings: `task.tasks.ner.labels`."""
        name = self._task_of(source).head_name
        if name is None:
            return line
        keys = "|".join(item.name for item in dataclasses.fields(self._config_of(source)))
        return re.sub(rf"(?<![\w./])task\.({keys})\b", rf"task.tasks.{name}.\1", line)


def _mark(marker: Path, report: SourceReport | None) -> None:
    """Writes that a source has no faults, and what was noticed while it was read."""
    marker.parent.mkdir(parents=True, exist_ok=True)
    write_json(marker, {} if report is None else report.as_json())


def _read_report(marker: Path) -> SourceReport | None:
    """Reads what was noticed while a source was read; None if it was not read yet, or by an earlier version."""
    try:
        return SourceReport.from_json(json.loads(marker.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
