"""Turns the file of a table into grids at one scale: looks up systems and adds published numbers."""

from __future__ import annotations

import dataclasses
import statistics
import weakref
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf, SCMode, open_dict
from omegaconf.errors import OmegaConfBaseException

from xlt.compose import one_line
from xlt.compose.environment import count_asked, refuse_environment
from xlt.config import faults
from xlt.data.listing import EVERY
from xlt.errors import UsageError
from xlt.tables.catalogue import config_file
from xlt.tables.config import (
    AVERAGE,
    EntryConfig,
    GridConfig,
    PartConfig,
    PublishedConfig,
    SearchConfig,
    SystemConfig,
    TableConfig,
)

_FILES: weakref.WeakKeyDictionary[Any, dict[tuple[str, str], Any]] = weakref.WeakKeyDictionary()


def at_scale(table: DictConfig, scale: str) -> None:
    """Overrides keys of a table by those of its part for the scale, in place; the other scale's part is removed.

    Raises:
        UsageError: a value in the part for the scale has a wrong type.
    """
    overrides = table.get(scale)
    with open_dict(table):  # keys that no schema has are refused later, after all is composed
        for name in ("mini", "thesis"):
            table[name] = None
        if overrides is not None:
            try:
                table.merge_with(overrides)
            except OmegaConfBaseException as error:
                raise UsageError(f"table.{scale}: {one_line(error)}") from error
        for part in table.without:
            if part in table.parts:
                del table.parts[part]


def grids_of(table: TableConfig, scale: str, headings: Sequence[str] = ()) -> dict[str, GridConfig]:
    """Returns the grid of each heading; each setting of a search becomes a system of its own.

    Args:
        table: checked; `at_scale` has been applied.
        scale: mini or thesis; replaces {scale} in overrides.
        headings: the headings to return; empty: all.
    Raises:
        UsageError: a system, or a file of published numbers, does not exist.
    """
    requested = [heading for heading in table.headings or headings or _headings(table)]
    grids = {}
    for part_name, part in table.parts.items():
        for heading in part.metrics:
            if heading in requested:
                grids[heading] = _grid(table, part_name, part, heading, scale).searched()
    return grids


def _headings(table: TableConfig) -> list[str]:
    return [heading for part in table.parts.values() for heading in part.metrics]


def _grid(table: TableConfig, part_name: str, part: PartConfig, heading: str, scale: str) -> GridConfig:
    entries = {name: entry for name, entry in part.systems.items() if not table.rows or name in table.rows}
    groups = part.groups
    grouped = [name for column in part.columns for name in groups.get(column, [])]
    known = {*part.columns, *grouped}
    columns = [column for column in table.columns if column in known or EVERY in known] or part.columns
    if table.columns and columns is not part.columns:
        groups = {column: members for column, members in groups.items() if column in columns}
    average = [column for column in table.average if column in columns] or [
        column for column in part.average if column in columns
    ]
    title = part.title or (table.title if len(_headings(table)) == 1 else f"{table.title}: {heading}")
    grid = GridConfig(
        title=title.replace("{heading}", heading),
        metric=part.metrics[heading],
        systems={name: _system(name, entry, part, heading, scale) for name, entry in entries.items()},
        columns=list(columns),
        overrides=[_filled(word, part.experiment, scale) for word in part.overrides],
        searches={name: _search(entry.search, part, scale) for name, entry in entries.items() if entry.search},
        groups={column: list(members) for column, members in groups.items()},
        average=average,
        note="\n".join(note for note in (part.note, table.note) if note),
        figure=part.figure,
        scoreboard=part.scoreboard,
    )
    if part.published is not None:
        _add_published(grid, published_numbers(part.published), heading, entries, part.experiment, scale)
    return grid


def _system(name: str, entry: EntryConfig, part: PartConfig, heading: str, scale: str) -> SystemConfig:
    system = _typed_file(SystemConfig, "system", entry.system or name)
    experiment = entry.experiment or system.experiment or part.experiment
    overrides = [*system.overrides, *entry.overrides, *entry.by_metric.get(heading, [])]
    return SystemConfig(
        label=entry.label or system.label,
        experiment=experiment,
        overrides=[_filled(word, experiment, scale) for word in overrides],
        composition=entry.composition or system.composition,
        with_data_of=entry.with_data_of or system.with_data_of,
    )


def _search(search: SearchConfig, part: PartConfig, scale: str) -> SearchConfig:
    over = {name: [_filled(value, part.experiment, scale) for value in values] for name, values in search.over.items()}
    return dataclasses.replace(search, over=over)


def _filled(word: str, experiment: str, scale: str) -> str:
    return word.replace("{experiment}", experiment).replace("{scale}", scale)


def published_numbers(name: str) -> PublishedConfig:
    """Reads a file of `conf/published`.

    Raises:
        UsageError: there is no such file, or it has faults.
    """
    return _typed_file(PublishedConfig, "published", name)


def _add_published(
    grid: GridConfig,
    published: PublishedConfig,
    heading: str,
    entries: Mapping[str, EntryConfig],
    experiment: str,
    scale: str,
) -> None:
    """Adds the published numbers for the grid's systems and columns to the grid.

    The printed average is used if the grid's average is over the same columns. Otherwise the mean of the published
    numbers of the grid's columns is used, if each column has one.
    """
    numbers = published.numbers.get(heading, {})
    averaged = [source for column in grid.average or grid.columns for source in grid.groups.get(column, [column])]
    computed = False
    for name in grid.systems:
        entry = entries[name]
        for row, printed in _published_rows(name, entry, numbers):
            printed_over = published.over.get(heading) or [column for column in printed if column != AVERAGE]
            shown = {column: printed[column] for column in grid.columns if column in printed}
            if AVERAGE in printed and set(averaged) == set(printed_over):
                shown[AVERAGE] = printed[AVERAGE]
            elif averaged and all(column in printed for column in averaged):
                shown[AVERAGE] = round(statistics.fmean(printed[column] for column in averaged), 2)
                computed = computed or AVERAGE in printed
            if shown:
                grid.reference[_filled(row, experiment, scale)] = shown
    if grid.reference:
        grid.reference_name = published.name + ("; averages over the columns shown" if computed else "")
    grid.facts = {name: dict(facts) for name, facts in published.facts.items()}


def _published_rows(
    name: str, entry: EntryConfig, numbers: Mapping[str, Mapping[str, float]]
) -> Iterator[tuple[str, Mapping[str, float]]]:
    """Yields rows of the grid with their published numbers; for a search, one row for each published setting."""
    base = entry.published or name
    if entry.search is None:
        if base in numbers:
            yield name, numbers[base]
        return
    for row, printed in numbers.items():
        if row == base or row.startswith(f"{base} "):
            yield name + row.removeprefix(base), printed


def _typed_file(schema: Any, group: str, name: str) -> Any:
    """Reads a file of a config group once for each Hydra; callers share the object and do not change it.

    Raises:
        UsageError: there is no such file, or it has faults.
    """
    known = _FILES.setdefault(GlobalHydra.instance().config_loader(), {})
    if (group, name) not in known:
        known[group, name] = _typed(schema, config_file(group, name), f"conf/{group}/{name}")
    return known[group, name]


def _typed(schema: Any, content: DictConfig, where: str) -> Any:
    """Converts the content of a file to an object of its schema.

    Raises:
        UsageError: a key is not in the schema, or a value has a wrong type.
    """
    try:
        before = count_asked()
        merged = OmegaConf.merge(OmegaConf.structured(schema), content)
        typed = OmegaConf.to_container(
            merged, resolve=True, throw_on_missing=False, structured_config_mode=SCMode.INSTANTIATE
        )
    except OmegaConfBaseException as error:
        raise UsageError(f"{where}: {one_line(error)}") from error
    refuse_environment(merged, before)
    if lines := list(faults(typed)):
        raise UsageError(*(f"{where}: {line}" for line in lines))
    return typed
