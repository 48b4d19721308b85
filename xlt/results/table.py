"""A table: systems by columns, each cell the evaluations of one composition over seeds, the reference beside it."""

from __future__ import annotations

import json
import math
import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xlt.compose import compose
from xlt.config import UsageError, key
from xlt.engine.run import ALONE, COMPOSED, write_json
from xlt.results.planner import Plan, Run
from xlt.results.store import RunStore


@dataclass
class SystemConfig:
    """One system of a table: an experiment with overrides, and which composition of its module is shown."""

    label: str = key("name in the table")
    experiment: str = key("file in conf/experiment")
    overrides: list[str] = key("Hydra overrides on top of the experiment and of the table's own")
    composition: str = key("with the target language's module or the task module alone", choices=(ALONE, COMPOSED))


@dataclass
class TableConfig:
    """What a table shows; a file of conf/table."""

    title: str = key("one line")
    metric: str = key("metric of every cell")
    overrides: list[str] = key("Hydra overrides for every run of the table")
    systems: dict[str, SystemConfig] = key("systems by name, in order")
    columns: list[str] = key("names in data.evaluation")
    average: list[str] = key("columns that the average is over; empty: all")
    reference: dict[str, dict[str, float]] = key("system -> column (or avg) -> the published number")
    reference_name: str = key("where the published numbers stand")
    note: str = key("a line under the table")

    def faults(self, prefix: str) -> Any:
        for name in self.reference:
            if name not in self.systems:
                yield f"{prefix}.reference.{name}: no such system; there are {', '.join(self.systems)}"
        for name in self.average:
            if name not in self.columns:
                yield f"{prefix}.average: {name} is not in {prefix}.columns"


@dataclass
class ReproductionConfig:
    """What `scripts/reproduce_table.py` is told."""

    table: TableConfig = key("which table")
    seeds: list[int] = key("one run of every system for each")
    workers: int = key("runs side by side", low=1)
    output_dir: str = key("where runs and tables are kept")

    def faults(self, prefix: str) -> Any:
        if not self.seeds or len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
            yield f"seeds={self.seeds}: must be different numbers from 0, at least one; for instance seeds=[1,2,3]"


@dataclass
class Cell:
    """Values over seeds, the fingerprints that back them, and why one is missing."""

    values: list[float] = field(default_factory=list)
    backed_by: list[str] = field(default_factory=list)
    reason: str | None = None

    @property
    def mean(self) -> float:
        return statistics.fmean(self.values) if self.values else math.nan

    @property
    def spread(self) -> float | None:
        """Standard deviation over seeds; None for fewer than two."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None


class Table:
    """A table being made: its runs in a plan, its cells from the store.

    Args:
        name: of the file in conf/table.
        config: what it shows.
        seeds: one run of every system for each.
        overrides: the user's, for every run.
        plan: runs are added to it.
    Raises:
        UsageError: faults of any run's config.
    """

    def __init__(self, name: str, config: TableConfig, seeds: list[int], overrides: list[str], plan: Plan) -> None:
        self.name, self.config, self.seeds = name, config, seeds
        self.runs: dict[tuple[str, int], Run] = {}
        faults: list[str] = []
        for system_name, system in config.systems.items():
            for seed in seeds:
                words = [f"experiment={system.experiment}", *config.overrides, *system.overrides, *overrides]
                try:
                    composed = compose(words)
                    composed.seed = seed
                    self.runs[system_name, seed] = plan.add(composed)
                except UsageError as error:
                    faults += error.lines
        if faults:
            raise UsageError(*faults)
        for run in self.runs.values():
            absent = [column for column in config.columns if column not in run.config.data.evaluation]
            if absent:
                raise UsageError(f"table.columns: {', '.join(absent)} not in data.evaluation of {run.label}")

    def cells(self, store: RunStore, failures: dict[str, str]) -> dict[str, dict[str, Cell]]:
        """System -> column (and `avg`) -> cell; only numbers that a finished evaluation in the store backs."""
        grid: dict[str, dict[str, Cell]] = {}
        for system_name, system in self.config.systems.items():
            row = {column: Cell() for column in [*self.config.columns, "avg"]}
            for seed in self.seeds:
                run = self.runs[system_name, seed]
                found = self._found(run, system.composition, store)
                for column in self.config.columns:
                    if column in found:
                        row[column].values.append(found[column])
                        row[column].backed_by.append(run.fingerprint)
                    else:
                        reason = failures.get(run.fingerprint) or store.failure(run.fingerprint) or "not run"
                        row[column].reason = f"seed {seed}: {reason}"
                averaged = self.config.average or self.config.columns
                if all(column in found for column in averaged):
                    row["avg"].values.append(statistics.fmean(found[column] for column in averaged))
                    row["avg"].backed_by.append(run.fingerprint)
            grid[system_name] = row
        return grid

    def _found(self, run: Run, composition: str, store: RunStore) -> dict[str, float]:
        done = store.evaluations(run.fingerprint)
        return {
            wanted.source: done[key]["metrics"][self.config.metric]
            for key, wanted in run.evaluations.items()
            if wanted.label == composition and key in done and self.config.metric in done[key]["metrics"]
        }

    def save(self, grid: dict[str, dict[str, Cell]], markdown: str, folder: Path) -> None:
        """Writes `NAME.md` and `NAME.json`; the latter has every value with the run that backs it."""
        folder.mkdir(parents=True, exist_ok=True)
        record = {
            "title": self.config.title,
            "metric": self.config.metric,
            "seeds": self.seeds,
            "reference": self.config.reference,
            "cells": {
                system: {
                    column: {
                        "mean": None if math.isnan(cell.mean) else cell.mean,
                        "spread": cell.spread,
                        "values": cell.values,
                        "runs": cell.backed_by,
                        "missing": cell.reason,
                    }
                    for column, cell in row.items()
                }
                for system, row in grid.items()
            },
        }
        write_json(folder / f"{self.name}.json", json.loads(json.dumps(record)))
        temporary = folder / f".{self.name}.md.tmp"
        temporary.write_text(markdown, encoding="utf-8")
        temporary.replace(folder / f"{self.name}.md")
