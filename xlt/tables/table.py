"""Makes a grid: adds its runs to a plan, and reads its cells from the store."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from omegaconf import DictConfig, open_dict

from xlt.compose import compose
from xlt.compose.overrides import key_of
from xlt.config import NO_MODULE
from xlt.config.run import LANGUAGE
from xlt.data.language_facts import LanguageFacts
from xlt.engine.benchmarks import SCORE
from xlt.engine.build import build_task
from xlt.engine.composed import files_of
from xlt.engine.run import Composition
from xlt.errors import UsageError
from xlt.plan.planner import Plan, Run
from xlt.plan.store import RunStore
from xlt.tables.columns import column_facts, run_words, shown_label
from xlt.tables.config import AVERAGE, GridConfig, SystemConfig
from xlt.tables.grid import Cell, Grid
from xlt.tasks.joint import MEAN


class Table:
    """The runs of a grid.

    Args:
        name: of the files in which the grid is saved.
        config: systems and columns of the grid; each setting of a search is a system.
        seeds: every system has one run for each seed.
        overrides: the user's overrides, for every run.
        plan: the runs are added to it.
    Raises:
        UsageError: configs of runs have faults.
    """

    def __init__(self, name: str, config: GridConfig, seeds: list[int], overrides: list[str], plan: Plan) -> None:
        self.name, self.config, self.seeds = name, config, seeds
        self._runs: dict[tuple[str, int, str | None], tuple[Run, dict[str, Composition]]] = {}
        self._labels: dict[tuple[str, str | None], str] = {}
        faults: list[str] = []
        for system_name in config.systems:
            composed_for: dict[str | None, DictConfig] = {}  # a plan changes no config
            for seed, column in itertools.product(seeds, _columns_of_runs(config, system_name)):
                try:
                    if (composed := composed_for.get(column)) is None:
                        composed = _composed(config, system_name, overrides, column)
                        self._labels[system_name, column] = shown_label(composed)
                        composed_for[column] = composed
                    composed.seed = seed
                    shown = {self._labels[system_name, column]}
                    self._runs[system_name, seed, column] = plan.ask(composed, shown)
                except UsageError as error:
                    faults += error.lines
        faults = faults or self._rows_made_equal(overrides, plan.store)
        if faults:
            raise UsageError(*faults)

    def _rows_made_equal(self, overrides: Sequence[str], store: RunStore) -> list[str]:
        """Returns a line for each of the user's overrides by which rows become equal that their names tell apart.

        An override comes after those of a row. Without this check each row would show the numbers of the same runs.
        """
        alike: dict[Hashable, list[str]] = {}
        for name in self.config.systems:
            shown = [
                (seed, column, run.fingerprint, frozenset(evaluations), self._labels[name, column])
                for (system, seed, column), (run, evaluations) in self._runs.items()
                if system == name
            ]
            alike.setdefault(frozenset(shown), []).append(name)
        lines = []
        for names in (names for names in alike.values() if len(names) > 1):
            keys = {key_of(word) for name in names for word in self.config.systems[name].overrides}
            labels = " and ".join(f'"{self.config.systems[name].label}"' for name in names)
            lines += [
                f"{word}: takes the place of what rows set: {labels} would show the same runs; leave it out, or one of "
                f"the rows: ~table.parts.PART.systems.{names[-1]}"
                for word in dict.fromkeys(overrides)
                if any(_overlap(key, key_of(word)) for key in keys)
                or self._differ_without(word, names, overrides, store)
            ]
        return lines

    def _differ_without(self, word: str, names: Sequence[str], overrides: Sequence[str], store: RunStore) -> bool:
        """Returns whether rows that are equal would differ without one of the overrides, as with another composition.

        Overrides without which the runs cannot be planned, such as the folder of the data, are not the reason.
        """
        rest, plan = [other for other in overrides if other != word], Plan(store)
        shown = set()
        for name in names:
            row = []
            for column in _columns_of_runs(self.config, name):
                try:
                    composed = _composed(self.config, name, rest, column)
                    composed.seed, label = self.seeds[0], shown_label(composed)
                    run, evaluations = plan.ask(composed, {label})
                except UsageError:
                    return False
                row.append((column, run.fingerprint, frozenset(evaluations), label))
            shown.add(frozenset(row))
        return len(shown) > 1

    def runs(self) -> dict[str, list[Run]]:
        """Returns label of a system -> its runs in the order of the seeds, for all columns."""
        by_label: dict[str, list[Run]] = {}
        for (name, _, _), (run, _) in self._runs.items():
            by_label.setdefault(self.config.systems[name].label, []).append(run)
        return by_label

    def run(self, system: str, seed: int, column: str) -> Run:
        """Returns the run of a cell."""
        return self._run_and_evaluations(system, seed, column)[0]

    def composition(self, system: str, seed: int, column: str) -> Composition | None:
        """Returns the composition that is evaluated for a cell; None if the column is a group."""
        return self._shown(self._run_and_evaluations(system, seed, column)[1], system, column)[1]

    def cost(self, system: str, seed: int, column: str, store: RunStore) -> dict[str, float]:
        """Returns the cost per example in a cell's evaluation; empty if it is not finished or has no cost."""
        run, evaluations = self._run_and_evaluations(system, seed, column)
        key, _ = self._shown(evaluations, system, column)
        record = store.evaluations(run.fingerprint).get(key or "")
        return (record or {}).get("cost", {})

    def _run_and_evaluations(self, system: str, seed: int, column: str) -> tuple[Run, dict[str, Composition]]:
        """Returns a cell's run and this system's evaluations of it; systems may share runs but not evaluations."""
        return self._runs[system, seed, column if _is_per_column(self.config.systems[system]) else None]

    def grid(self, store: RunStore, failures: Mapping[str, str]) -> Grid:
        """Makes the grid from the finished evaluations that are now in the store.

        Args:
            store: the store with the finished runs.
            failures: fingerprint -> why a run failed in this session.
        """
        cells = {name: self._row(name, store, failures) for name in self.config.systems}
        return Grid(self.name, self.config, self.seeds, cells, languages=self._languages())

    def _languages(self) -> dict[str, LanguageFacts]:
        """Returns column -> facts about its language, for a scoreboard."""
        if self.config.scoreboard is None:
            return {}
        first = next(run for run, _ in self._runs.values())
        return column_facts(first, [name for name in self.config.sources if name in first.planned_data.evaluation])

    def _shown(
        self, evaluations: Mapping[str, Composition], system: str, column: str
    ) -> tuple[str | None, Composition | None]:
        """Returns key and composition of the evaluation that a cell shows; (None, None) if the column is a group."""
        label = self._labels[system, column if _is_per_column(self.config.systems[system]) else None]
        for key, composition in evaluations.items():
            if (composition.source, composition.label) == (column, label):
                return key, composition
        return None, None

    def _row(self, name: str, store: RunStore, failures: Mapping[str, str]) -> dict[str, Cell]:
        config = self.config
        row = {column: Cell() for column in [*config.columns, *config.sources, AVERAGE]}
        means = {AVERAGE: self._averaged(), **config.groups}
        missing: dict[str, dict[str, list[int]]] = {column: {} for column in row}
        for seed in self.seeds:
            scores: dict[str, float] = {}
            behind: dict[str, str] = {}
            lacking: dict[str, str] = {}
            for column in config.sources_of(name):
                run, evaluations = self._run_and_evaluations(name, seed, column)
                key, composition = self._shown(evaluations, name, column)
                behind[column] = run.fingerprint
                row[column].stand_in = _stand_in(run, composition)
                record: dict[str, Any] | None = store.evaluations(run.fingerprint).get(key or "")
                metric = SCORE if column in run.planned_data.benchmarks else config.metric
                if metric == MEAN:  # each column has the metric of its own task
                    metric = (record or {}).get("metric") or build_task(run.config.task).metric
                value = None if record is None else record["metrics"].get(metric)
                if value is not None:
                    scores[column] = value
                    row[column].values.append(value)
                    row[column].backed_by.append(run.fingerprint)
                    if key is not None and (file := store.predictions_file(run.fingerprint, key)).is_file():
                        row[column].predictions.append(file)
                    row[column].costs += [record["cost"]] if record and record.get("cost") else []
                elif record is not None:
                    lacking[column] = f"the evaluation has no metric {metric}"
                else:
                    lacking[column] = failures.get(run.fingerprint) or store.failure(run.fingerprint) or "not run"
            for column, members in means.items():
                if members and all(member in scores for member in members):
                    row[column].values.append(statistics.fmean(scores[member] for member in members))
                    row[column].backed_by += dict.fromkeys(behind[member] for member in members)
                elif column != AVERAGE:
                    lacking[column] = next(lacking[m] for m in members if m not in scores)
            for column, reason in lacking.items():
                missing[column].setdefault(reason, []).append(seed)
        for column, reasons in missing.items():
            row[column].reason = "; ".join(f"{_seeds(seeds)}: {reason}" for reason, seeds in reasons.items()) or None
        return row

    def _averaged(self) -> list[str]:
        """Returns the names in data.evaluation over which the average is taken; groups are replaced by members."""
        config = self.config
        return [name for column in config.average or config.columns for name in config.groups.get(column, [column])]


def _seeds(seeds: Sequence[int]) -> str:
    return f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"


def _overlap(key: str, other: str) -> bool:
    """Returns whether keys are equal, or one is part of the other, as model.path is of the group model."""
    return f"{key}.".startswith(f"{other}.") or f"{other}.".startswith(f"{key}.")


def _stand_in(run: Run, composition: Composition | None) -> str | None:
    """Returns the language whose module replaces that of the evaluated language; None if none is replaced.

    It is "none" if a composition with language modules has none for this language, because the config says so.
    """
    if composition is None or composition.entry not in run.planned_data.evaluation:
        return None
    language = run.planned_data.evaluation[composition.entry].language
    roles = composition.identity["modules"]
    if roles.get(LANGUAGE) == NO_MODULE:
        return NO_MODULE
    asked = {None, language, *(role.removeprefix(f"{LANGUAGE}.") for role in roles)}
    used = (file.language for file in files_of(composition.modules))
    return next((code for code in used if code not in asked), None)


def _is_per_column(system: SystemConfig) -> bool:
    return any("{column}" in word for word in system.overrides)


def _columns_of_runs(config: GridConfig, system: str) -> list[str | None]:
    """Returns the columns for which a system has runs of their own; [None] if a run is for all of them."""
    return [*config.sources_of(system)] if _is_per_column(config.systems[system]) else [None]


def _composed(config: GridConfig, system: str, overrides: Sequence[str], column: str | None) -> DictConfig:
    """Composes a system's run for a column, or for all columns if it is None.

    Raises:
        UsageError: the config cannot be composed, or lacks a column.
    """
    composed = compose(run_words(config, config.systems[system], overrides, column))
    _evaluate_only(composed, [column] if column else config.sources_of(system))
    return composed


def _evaluate_only(composed: DictConfig, columns: Sequence[str]) -> None:
    """Removes all evaluation sources and benchmarks that the grid does not show from a config, in place.

    Raises:
        UsageError: a source or benchmark that the grid shows is not in the config.
    """
    parts = (composed.data.evaluation, composed.data.benchmarks)
    known = [name for part in parts for name in part]
    absent = [column for column in columns if column not in known]
    if absent:
        raise UsageError(
            f"columns: {', '.join(absent)} not in data.evaluation or data.benchmarks of "
            f"experiment={composed.experiment_name}; there are {', '.join(known) or 'none'}"
        )
    for part in parts:
        with open_dict(part):
            for name in [name for name in part if name not in columns]:
                del part[name]
