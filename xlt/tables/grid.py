"""A grid of numbers, systems by columns: each cell has values for several seeds, and the runs that they come from."""

from __future__ import annotations

import dataclasses
import json
import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xlt.data.language_facts import LanguageFacts
from xlt.engine.benchmarks import SCORE
from xlt.files import DamagedFileError, atomic_text, read_sealed, set_aside, write_sealed
from xlt.tables.config import AVERAGE, GridConfig, SystemConfig
from xlt.tables.pareto import LOWER_IS_BETTER, pareto_set

INCOMPLETE = ".incomplete"
"""Added to the name of a grid that has fewer values than the one that was saved under its name."""


@dataclass
class Cell:
    """The values of a system in a column, for several seeds.

    Attributes:
        values: one for each seed whose evaluation is finished.
        backed_by: fingerprints of the runs of the values.
        reason: why a value is missing; None if none is missing.
        costs: cost per example in the evaluations of the values (`xlt.engine.cost`), if they have recorded it.
        stand_in: ISO 639-3 code of the language whose module was used instead of that of the column's language.
        predictions: files of the predictions behind the values, if they were kept.
    """

    values: list[float] = field(default_factory=list)
    backed_by: list[str] = field(default_factory=list)
    reason: str | None = None
    costs: list[dict[str, float]] = field(default_factory=list)
    stand_in: str | None = None
    predictions: list[Path] = field(default_factory=list)

    @property
    def mean(self) -> float:
        return statistics.fmean(self.values) if self.values else math.nan

    @property
    def spread(self) -> float | None:
        """The standard deviation over the seeds; None for fewer than two values."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None


@dataclass(frozen=True)
class ParetoSet:
    """The settings of a search that no other setting beats in the columns of a grid.

    Attributes:
        settings: their names, `KEY=VALUE ...`.
        complete: how many settings have a value in every column; only these are compared.
        searched: how many settings there are.
    """

    settings: list[str]
    complete: int
    searched: int


@dataclass
class Grid:
    """The part of a table under one heading, with its numbers.

    Attributes:
        name: of the files in which it is saved.
        config: its systems, columns and published numbers.
        seeds: every cell has one value for each seed.
        cells: system -> column (and `avg`) -> cell.
        has_average: it may have a column of averages.
        languages: column -> facts about its language; empty if languages are not shown as rows.
        metrics: column -> its metric, where it is not that of the config.
    """

    name: str
    config: GridConfig
    seeds: list[int]
    cells: dict[str, dict[str, Cell]]
    has_average: bool = True
    languages: dict[str, LanguageFacts] = field(default_factory=dict)
    metrics: dict[str, str] = field(default_factory=dict)

    @property
    def columns(self) -> list[str]:
        """The columns in the order shown; a grid with groups, or without columns, has no average."""
        averaged = self.has_average and self.config.columns and not self.config.groups
        return [*self.config.columns, *([AVERAGE] if averaged else [])]

    @property
    def stand_ins(self) -> dict[str, dict[str, str]]:
        """System -> column -> language whose module was used instead of that of the column's language."""
        stand_ins = {
            name: {column: cell.stand_in for column, cell in row.items() if cell.stand_in is not None}
            for name, row in self.cells.items()
        }
        return {name: columns for name, columns in stand_ins.items() if columns}

    def greater_is_better(self, column: str) -> bool:
        """Returns whether a greater value of the column's metric is better."""
        return self.metrics.get(column, self.config.metric) not in LOWER_IS_BETTER

    def decimals(self, column: str) -> int:
        """Returns with how many decimals the scores of a column are shown."""
        return decimals_of(self.metrics.get(column, self.config.metric))

    def lacks_seeds(self, system: str, column: str) -> bool:
        """Returns whether a cell has values, but not of every seed."""
        return 0 < len(self.cells[system][column].values) < len(self.seeds)

    @property
    def pareto_sets(self) -> dict[str, ParetoSet]:
        """Searched system -> its settings that no other setting beats, for searches with several columns.

        A setting that lacks a value in a column does not count.
        """
        sets = {}
        for name in self.config.searches:
            rows = {system: row for system, row in self.cells.items() if system.startswith(f"{name} ")}
            whole = {
                system: [row[column].mean for column in self.config.columns]
                for system, row in rows.items()
                if all(row[column].values and row[column].reason is None for column in self.config.columns)
            }
            if len(whole) > 1 and len(self.config.columns) > 1:
                best = pareto_set(whole, greater_is_better=self.greater_is_better(AVERAGE))
                sets[name] = ParetoSet([system.removeprefix(f"{name} ") for system in best], len(whole), len(rows))
        return sets

    def save(self, markdown: str, folder: Path) -> str:
        """Writes `NAME.md` and `NAME.json`; the latter has every value with the fingerprint of its run, and a checksum.

        If this grid has gaps or only some of the seeds, and the files of an earlier one have more values, these are not
        replaced: the new files are called `NAME.incomplete`. They are removed when the table is saved again under its
        own name.

        Returns:
            The name of the files, without ending.
        """
        folder.mkdir(parents=True, exist_ok=True)
        name = self.name
        values, seeds = _saved(folder / f"{name}.json")
        if self._values() < values and (not self.is_complete or {*self.seeds} < seeds):
            name = f"{self.name}{INCOMPLETE}"
        else:
            for ending in (".json", ".md", ".html"):
                (folder / f"{self.name}{INCOMPLETE}{ending}").unlink(missing_ok=True)
        record = {
            "title": self.config.title,
            "metric": self.config.metric,
            "seeds": self.seeds,
            "reference": self.config.reference,
            "cells": {
                system: {column: _cell_record(cell) for column, cell in row.items()}
                for system, row in self.cells.items()
            },
            **({"pareto": {n: dataclasses.asdict(s) for n, s in self.pareto_sets.items()}} if self.pareto_sets else {}),
            **({"languages": {c: dataclasses.asdict(f) for c, f in self.languages.items()}} if self.languages else {}),
        }
        write_sealed(folder / f"{name}.json", json.loads(json.dumps(record)))
        with atomic_text(folder / f"{name}.md") as file:
            file.write(markdown)
        return name

    @property
    def is_complete(self) -> bool:
        """Whether no cell lacks a value."""
        return all(cell.reason is None for row in self.cells.values() for cell in row.values())

    @property
    def has_values(self) -> bool:
        """Whether any cell has a value."""
        return self._values() > 0

    def _values(self) -> int:
        return sum(len(cell.values) for row in self.cells.values() for cell in row.values())


def _saved(file: Path) -> tuple[int, set[int]]:
    """Returns the number of values in a saved grid, 0 if there is none; and its seeds. A damaged file is set aside."""
    try:
        record = read_sealed(file)
        cells = record.get("cells", {})
        return sum(len(cell["values"]) for row in cells.values() for cell in row.values()), {*record.get("seeds", ())}
    except DamagedFileError as error:
        set_aside(file, str(error), "the table is written again")
    except (AttributeError, KeyError, TypeError):
        set_aside(file, "it is no table", "the table is written again")
    return 0, set()


def decimals_of(metric: str) -> int:
    """Returns with how many decimals a metric is shown: percentages with one, a loss in nats with three."""
    return 3 if metric == "loss" else 1


def score_of(record: Mapping[str, Any], metric: str) -> float:
    """Returns the score of an evaluation that is shown where there is room for one.

    Args:
        record: of the evaluation; of several tasks in one run it names the metric of its own.
        metric: of the run's task. A benchmark has another one.
    """
    metrics: Mapping[str, float] = record["metrics"]
    own = record.get("metric", metric)
    return metrics[own if own in metrics else SCORE]


def _cell_record(cell: Cell) -> dict[str, object]:
    return {
        "mean": None if math.isnan(cell.mean) else cell.mean,
        "spread": cell.spread,
        "values": cell.values,
        "runs": cell.backed_by,
        "missing": cell.reason,
        **({"stand_in": cell.stand_in} if cell.stand_in is not None else {}),
    }


def averages(name: str, title: str, note: str, grids: Mapping[str, Grid]) -> Grid:
    """Makes a grid of averages: it has the systems of all grids, and a column for the average of each grid.

    Args:
        name, title, note: of the table.
        grids: heading -> the grid whose average it shows.
    """
    systems: dict[str, SystemConfig] = {}
    reference: dict[str, dict[str, float]] = {}
    names: dict[str, None] = {}
    for heading, grid in grids.items():
        systems |= {name: system for name, system in grid.config.systems.items() if name not in systems}
        names |= dict.fromkeys(filter(None, [grid.config.reference_name]))
        for system, numbers in grid.config.reference.items():
            if AVERAGE in numbers:
                reference.setdefault(system, {})[heading] = numbers[AVERAGE]
    cells = {
        system: {
            heading: _average_cell(grid, system) if system in grid.cells else Cell() for heading, grid in grids.items()
        }
        for system in systems
    }
    metrics = ", ".join(dict.fromkeys(grid.config.metric for grid in grids.values()))
    config = GridConfig(
        title=f"{title}: averages",
        metric=metrics,
        systems=systems,
        columns=list(grids),
        reference=reference,
        reference_name="; ".join(names),
        note=note,
    )
    seeds = next(iter(grids.values())).seeds
    of_headings = {heading: grid.config.metric for heading, grid in grids.items()}
    return Grid(name, config, seeds, cells, has_average=False, metrics=of_headings)


def _average_cell(grid: Grid, system: str) -> Cell:
    """Returns the cell of a system's average; if it lacks values, it says why: a column that it is over lacks one."""
    row, config = grid.cells[system], grid.config
    over = [name for column in config.average or config.columns for name in config.groups.get(column, [column])]
    reasons = dict.fromkeys(row[name].reason for name in over if name in row and row[name].reason)
    return dataclasses.replace(row[AVERAGE], reason="; ".join(filter(None, reasons)) or None)
