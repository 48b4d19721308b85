"""A table: systems by columns, each cell the evaluations of one composition over seeds, the reference beside it."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, open_dict

from xlt.compose import compose
from xlt.config import LauncherConfig, key
from xlt.engine.benchmarks import SCORE
from xlt.engine.run import ALONE, BASE, COMPOSED, Composition
from xlt.errors import UsageError
from xlt.files import write_json
from xlt.plan.planner import Plan, Run
from xlt.plan.store import RunStore
from xlt.tables.figures import FigureConfig

AVERAGE = "avg"


@dataclass
class SystemConfig:
    """One system of a table: an experiment with overrides, and which composition of its module is shown."""

    label: str = key("name in the table")
    experiment: str = key("file in conf/experiment")
    overrides: list[str] = key(
        "Hydra overrides on top of the experiment and the table; with {column} in one: a run a column"
    )
    composition: str = key(
        "with the target language's module, the task modules alone, or the base alone", choices=(COMPOSED, ALONE, BASE)
    )


@dataclass
class SearchConfig:
    """Settings of one system, a row for every combination."""

    over: dict[str, list[str]] = key("config key -> its values, each on top of the system's overrides")
    best: str | None = key("the combination found best where the reference numbers stand, as rows are named")

    def faults(self, prefix: str) -> Any:
        for name, values in self.over.items():
            if len(set(values)) < max(len(values), 1):
                yield f"{prefix}.over.{name}={values}: must be different values, at least one"


@dataclass
class TableConfig:
    """What a table shows; a file of conf/table."""

    title: str = key("one line")
    metric: str = key("metric of every cell")
    overrides: list[str] = key("Hydra overrides for every run of the table")
    systems: dict[str, SystemConfig] = key("systems by name, in order")
    searches: dict[str, SearchConfig] = key("system -> settings that are searched over")
    columns: list[str] = key("names in data.evaluation, or in groups")
    groups: dict[str, list[str]] = key("column -> names in data.evaluation whose mean it shows")
    average: list[str] = key("columns that the average is over; empty: all")
    reference: dict[str, dict[str, float]] = key("system -> column (or avg) -> the published number")
    reference_name: str = key("where the published numbers stand")
    facts: dict[str, dict[str, float]] = key("system or column -> what else is published of it, for the figure")
    note: str = key("a line under the table")
    parts: dict[str, str] = key("column -> table whose average it shows; such a table has no columns of its own")
    figure: FigureConfig | None = key("the picture that goes with it; with one, a table need not have columns")
    same_as: str | None = key("the table that this is another name of")
    measured_by: str | None = key("the script whose measurements it shows; nothing is trained for it")

    def faults(self, prefix: str) -> Any:
        if self.same_as is not None or self.measured_by is not None:
            return
        if self.parts and (self.columns or self.systems or self.reference):
            yield f"{prefix}.parts: a table of averages has the systems of its parts; {prefix}.systems must be empty"
        for name in self.searches.keys() - self.systems.keys():
            yield f"{prefix}.searches.{name}: no such system; there are {', '.join(self.systems)}"
        systems = self.searched().systems
        for name in self.reference:
            if name not in systems:
                yield f"{prefix}.reference.{name}: no such system; there are {', '.join(systems)}"
        for name in self.average:
            if name not in self.columns:
                yield f"{prefix}.average: {name} is not in {prefix}.columns"
        for name, members in self.groups.items():
            if name not in self.columns or not members:
                yield f"{prefix}.groups.{name}: must have members and be in {prefix}.columns"
        if not self.columns and not self.parts and self.figure is None:
            yield f"{prefix}.columns: empty; name sources of data.evaluation"

    @property
    def sources(self) -> list[str]:
        """What is evaluated on: the columns, and in place of groups their members."""
        return list(dict.fromkeys(name for column in self.columns for name in self.groups.get(column, [column])))

    def searched(self) -> TableConfig:
        """The same with every search written out: a system for each combination, named `SYSTEM KEY=VALUE ...`."""
        systems: dict[str, SystemConfig] = {}
        for name, system in self.systems.items():
            over = self.searches[name].over if name in self.searches else {}
            for values in itertools.product(*over.values()):
                pairs = list(zip(over, values, strict=True))
                words = [f"{word}={value}" for word, value in pairs]
                setting = "".join(f" {word.rpartition('.')[2]}={value}" for word, value in pairs)
                systems[name + setting] = dataclasses.replace(
                    system, label=system.label + setting, overrides=[*system.overrides, *words]
                )
        return dataclasses.replace(self, systems=systems)


@dataclass
class ReproductionConfig:
    """What `scripts/reproduce_table.py` is told."""

    table: TableConfig = key("which table")
    seeds: list[int] = key("one run of every system for each")
    launcher: LauncherConfig = key("how its runs are executed")
    output_dir: str = key("where runs and tables are kept")
    scale: str = key("mini or thesis, of the table and of its runs", choices=("mini", "thesis"))

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


@dataclass
class Grid:
    """A finished table: what it shows, and the cells, system -> column (and `avg`) -> cell."""

    name: str
    config: TableConfig
    seeds: list[int]
    cells: dict[str, dict[str, Cell]]

    @property
    def columns(self) -> list[str]:
        """Columns in the order shown; tables of averages or groups have no average, nor has one without columns."""
        averaged = self.config.columns and not self.config.parts and not self.config.groups
        return [*self.config.columns, *([AVERAGE] if averaged else [])]

    def save(self, markdown: str, folder: Path) -> None:
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
                for system, row in self.cells.items()
            },
        }
        write_json(folder / f"{self.name}.json", json.loads(json.dumps(record)))
        temporary = folder / f".{self.name}.md.tmp"
        temporary.write_text(markdown, encoding="utf-8")
        temporary.replace(folder / f"{self.name}.md")


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
        self._runs: dict[tuple[str, int, str | None], tuple[Run, dict[str, Composition]]] = {}
        faults: list[str] = []
        for system_name, system in config.systems.items():
            own: list[str | None] = list(config.sources) if _is_per_column(system) else [None]
            for seed, column in itertools.product(seeds, own):
                words = [f"experiment={system.experiment}", *config.overrides, *system.overrides, *overrides]
                try:
                    composed = compose([word.replace("{column}", column or "") for word in words])
                    composed.seed = seed
                    _evaluate_only(composed, [column] if column else config.sources)
                    self._runs[system_name, seed, column] = plan.ask(composed)
                except UsageError as error:
                    faults += error.lines
        if faults:
            raise UsageError(*faults)

    def runs(self) -> dict[str, list[Run]]:
        """System's label -> its runs in order of their seeds; of a run a column, those of all columns."""
        found: dict[str, list[Run]] = {}
        for (name, _, _), (run, _) in self._runs.items():
            found.setdefault(self.config.systems[name].label, []).append(run)
        return found

    def run(self, system: str, seed: int, column: str) -> Run:
        """The run behind a cell."""
        return self._asked(system, seed, column)[0]

    def composition(self, system: str, seed: int, column: str) -> Composition | None:
        """What of the run is evaluated for a cell; None for a benchmark or a group."""
        label = self.config.systems[system].composition
        for wanted in self._asked(system, seed, column)[1].values():
            if (wanted.source, wanted.label) == (column, label):
                return wanted
        return None

    def cost(self, system: str, seed: int, column: str, store: RunStore) -> dict[str, float]:
        """What an example costs in the evaluation behind a cell; empty where that is not done, or does not say."""
        run, evaluations = self._asked(system, seed, column)
        found = _record(run, evaluations, self.config.systems[system].composition, column, store)
        return (found or {}).get("cost", {})

    def _asked(self, system: str, seed: int, column: str) -> tuple[Run, dict[str, Composition]]:
        """The run, and its evaluations that this system shows: others may share it with other language modules."""
        return self._runs[system, seed, column if _is_per_column(self.config.systems[system]) else None]

    def grid(self, store: RunStore, failures: Mapping[str, str]) -> Grid:
        """The cells as the store has them now: only numbers that a finished evaluation backs."""
        cells: dict[str, dict[str, Cell]] = {}
        for system_name, system in self.config.systems.items():
            row = {column: Cell() for column in [*self.config.columns, *self.config.sources, AVERAGE]}
            for seed in self.seeds:
                found: dict[str, float] = {}
                behind: dict[str, str] = {}
                for column in self.config.sources:
                    run, evaluations = self._asked(system_name, seed, column)
                    behind[column] = run.fingerprint
                    value = self._value(run, evaluations, system.composition, column, store)
                    if value is not None:
                        found[column] = value
                        row[column].values.append(value)
                        row[column].backed_by.append(run.fingerprint)
                    else:
                        reason = failures.get(run.fingerprint) or store.failure(run.fingerprint) or "not run"
                        row[column].reason = f"seed {seed}: {reason}"
                means = {AVERAGE: self.config.average or self.config.sources, **self.config.groups}
                for column, members in means.items():
                    if members and all(member in found for member in members):
                        row[column].values.append(statistics.fmean(found[member] for member in members))
                        row[column].backed_by += dict.fromkeys(behind[member] for member in members)
                    elif column != AVERAGE:
                        row[column].reason = next(row[m].reason for m in members if m not in found)
            cells[system_name] = row
        return Grid(self.name, self.config, self.seeds, cells)

    def _value(
        self, run: Run, evaluations: Mapping[str, Composition], composition: str, column: str, store: RunStore
    ) -> float | None:
        found = _record(run, evaluations, composition, column, store)
        metric = SCORE if column in run.planned_data.benchmarks else self.config.metric
        return None if found is None else found["metrics"].get(metric)


def _record(
    run: Run, evaluations: Mapping[str, Composition], composition: str, column: str, store: RunStore
) -> dict[str, Any] | None:
    done = store.evaluations(run.fingerprint)
    for name, wanted in evaluations.items():
        if (wanted.source, wanted.label) == (column, composition) and name in done:
            return done[name]
    return None


def averages(name: str, config: TableConfig, seeds: list[int], parts: dict[str, Grid]) -> Grid:
    """A table of averages: systems are those of its parts, columns the parts.

    Args:
        name, config, seeds: of the table.
        parts: column -> the table whose average it shows.
    """
    systems = {name: system for part in parts.values() for name, system in part.config.systems.items()}
    reference: dict[str, dict[str, float]] = {}
    for column, part in parts.items():
        for system, numbers in part.config.reference.items():
            if AVERAGE in numbers:
                reference.setdefault(system, {})[column] = numbers[AVERAGE]
    cells = {
        system: {
            column: part.cells[system][AVERAGE] if system in part.cells else Cell() for column, part in parts.items()
        }
        for system in systems
    }
    shown = dataclasses.replace(config, systems=systems, columns=list(parts), reference=reference)
    return Grid(name, shown, seeds, cells)


def _is_per_column(system: SystemConfig) -> bool:
    return any("{column}" in word for word in system.overrides)


def _evaluate_only(composed: DictConfig, columns: Sequence[str]) -> None:
    """Leaves those sources in `data.evaluation`, and benchmarks, that the table shows.

    Raises:
        UsageError: one is not there.
    """
    parts = (composed.data.evaluation, composed.data.benchmarks)
    known = [name for part in parts for name in part]
    absent = [column for column in columns if column not in known]
    if absent:
        raise UsageError(
            f"table.columns: {', '.join(absent)} not in data.evaluation or data.benchmarks of "
            f"experiment={composed.experiment_name}; there are {', '.join(known) or 'none'}"
        )
    for part in parts:
        with open_dict(part):
            for name in [name for name in part if name not in columns]:
                del part[name]
