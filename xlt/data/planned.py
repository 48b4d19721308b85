"""The sources and data of a planned run: their checked settings, and the files that other runs make for them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from xlt.config import PARTS, BenchmarkConfig, DataConfig, SourceConfig


@dataclass(frozen=True)
class MadeFile:
    """A file with the examples of a source, made by another run.

    Attributes:
        fingerprint: of that run.
        path: of the file; it exists once that run is done.
    """

    fingerprint: str
    path: Path


@dataclass(frozen=True)
class PlannedSource:
    """A source of a planned run.

    Attributes:
        config: its checked settings.
        made: the file that another run makes for it; None for a source that is read directly.
        keeps_all: also read the examples that the other run could not transform, in their original form, because a test
            set is scored on all its examples.
    """

    config: SourceConfig
    made: MadeFile | None = None
    keeps_all: bool = False

    @property
    def language(self) -> str:
        return self.config.language


@dataclass(frozen=True)
class PlannedData:
    """The data of a planned run for training, validation and evaluation.

    Attributes:
        config: the checked settings.
        sources, validation, evaluation, excluded: name -> source, for each part. `evaluation` may have more sources
            than `config.evaluation`, if other configs request evaluations of this run's module.
        benchmarks: name -> benchmark of language models; may have more than `config.benchmarks`, too.
    """

    config: DataConfig
    sources: Mapping[str, PlannedSource]
    validation: Mapping[str, PlannedSource]
    evaluation: Mapping[str, PlannedSource]
    excluded: Mapping[str, PlannedSource]
    benchmarks: Mapping[str, BenchmarkConfig]

    @classmethod
    def of(cls, config: DataConfig, made: Mapping[str, MadeFile] | None = None) -> PlannedData:
        """Makes the data of a run from a checked config.

        Args:
            config: of the data.
            made: "part.name" -> file that another run makes for this source; None: no source has one.
        """
        files = made or {}
        parts = {
            part: {
                name: PlannedSource(source, files.get(f"{part}.{name}"), keeps_all=part == "evaluation")
                for name, source in getattr(config, part).items()
            }
            for part in PARTS
        }
        return cls(config, **parts, benchmarks=dict(config.benchmarks))

    def part(self, name: str) -> Mapping[str, PlannedSource]:
        """Returns the sources of a part, which is one of `xlt.config.PARTS`."""
        sources: Mapping[str, PlannedSource] = getattr(self, name)
        return sources

    def evaluated_on(
        self, evaluation: Mapping[str, PlannedSource], benchmarks: Mapping[str, BenchmarkConfig] | None = None
    ) -> PlannedData:
        """Returns the same data with other evaluation sources and, if given, other benchmarks."""
        return dataclasses.replace(
            self, evaluation=dict(evaluation), benchmarks=self.benchmarks if benchmarks is None else dict(benchmarks)
        )
