"""Sources and data of a run as the plan leaves them: checked settings, and the files that other runs will make."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from xlt.config import PARTS, BenchmarkConfig, DataConfig, SourceConfig


@dataclass(frozen=True)
class MadeFile:
    """The file of examples that another run makes for a source.

    Attributes:
        fingerprint: of that run.
        path: of the file; it is there once the run is done.
    """

    fingerprint: str
    path: Path


@dataclass(frozen=True)
class PlannedSource:
    """A source of a planned run.

    Attributes:
        config: its settings, as checked.
        made: the file that another run makes for it; None for a source that is read where it lies.
        keeps_all: read also the examples that the other run could make nothing of, as they were before: a test set is
            scored on all its examples.
    """

    config: SourceConfig
    made: MadeFile | None = None
    keeps_all: bool = False

    @property
    def language(self) -> str:
        return self.config.language


@dataclass(frozen=True)
class PlannedData:
    """What a planned run learns from, selects its checkpoint by and is evaluated on.

    Attributes:
        config: the settings, as checked.
        sources, validation, evaluation, excluded: the sources of each part by name. `evaluation` may hold more than
            `config.evaluation`: what other configs want this run's module to be evaluated on.
        benchmarks: benchmarks of language models by name, likewise.
    """

    config: DataConfig
    sources: Mapping[str, PlannedSource]
    validation: Mapping[str, PlannedSource]
    evaluation: Mapping[str, PlannedSource]
    excluded: Mapping[str, PlannedSource]
    benchmarks: Mapping[str, BenchmarkConfig]

    @classmethod
    def of(cls, config: DataConfig, made: Mapping[str, MadeFile] | None = None) -> PlannedData:
        """The data of a checked config.

        Args:
            config: of the data.
            made: "part.name" -> file that another run makes for this source.
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
        """The sources of a part: one of `xlt.config.PARTS`."""
        sources: Mapping[str, PlannedSource] = getattr(self, name)
        return sources

    def evaluated_on(
        self, evaluation: Mapping[str, PlannedSource], benchmarks: Mapping[str, BenchmarkConfig] | None = None
    ) -> PlannedData:
        """The same data with other evaluation sources and, if given, other benchmarks."""
        return dataclasses.replace(
            self, evaluation=dict(evaluation), benchmarks=self.benchmarks if benchmarks is None else dict(benchmarks)
        )
