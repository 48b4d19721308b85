"""Gains from language adaptation by the size of a language's text (thesis Figure 6.2): a mark for each language."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any

from xlt.errors import UsageError
from xlt.plan.store import RunStore
from xlt.tables.config import FigureConfig
from xlt.tables.figures._text_size import as_points, published_megabytes, scatter, series_handles, text_megabytes
from xlt.tables.figures.figure import Runs, SeriesStyles, by_seed, published

if TYPE_CHECKING:
    from matplotlib.figure import FigureBase

    from xlt.tables.grid import Grid

_WITHOUT = "_la"
"""Suffix of a name: system NAME_la is system NAME without language adaptation."""


def gather(config: FigureConfig, runs: Runs, store: RunStore, grid: Grid) -> dict[str, Any]:
    """Returns `ours` and `thesis`: system -> language -> [megabytes of text, gain in points].

    Our gain is the mean over the seeds that have scores with and without adaptation.
    """
    sizes, their_sizes = text_megabytes(runs, store), published_megabytes(grid)
    numbers: dict[str, dict[str, Any]] = {"ours": {}, "thesis": {}}
    for name, system in grid.config.systems.items():
        bare = grid.config.systems.get(name + _WITHOUT)
        if bare is None:
            continue
        ours, theirs = {}, {}
        for column in grid.config.sources:
            adapted = by_seed(grid.cells[name][column], runs.get(system.label, ()))
            without = by_seed(grid.cells[name + _WITHOUT][column], runs.get(bare.label, ()))
            if seeds := adapted.keys() & without.keys():
                ours[column] = statistics.fmean(adapted[seed] - without[seed] for seed in seeds)
            pair = published(grid, name, column), published(grid, name + _WITHOUT, column)
            if pair[0] is not None and pair[1] is not None:
                theirs[column] = round(pair[0] - pair[1], 6)
        for part, gains, megabytes in (("ours", ours, sizes), ("thesis", theirs, their_sizes)):
            if points := as_points(gains, megabytes):
                numbers[part][system.label] = points
    if not numbers["ours"]:
        raise UsageError("table.figure.kind=gains: no language with and without adaptation, its text in a file, yet")
    return {part: series for part, series in numbers.items() if series}


def labels(grid: Grid) -> list[str]:
    return [system.label for name, system in grid.config.systems.items() if name + _WITHOUT in grid.config.systems]


def size(numbers: dict[str, Any]) -> tuple[float, float]:
    return (7.2 if len(numbers) > 1 else 5.0), 3.4


def draw(config: FigureConfig, numbers: dict[str, Any], figure: FigureBase, styles: SeriesStyles) -> None:
    all_axes = figure.subplots(1, len(numbers), squeeze=False)[0]
    labels = list(dict.fromkeys(label for series in numbers.values() for label in series))
    for axes, (part, series) in zip(all_axes, numbers.items(), strict=True):
        scatter(axes, series, styles)
        axes.axhline(0, color="0.4", linewidth=0.8)
        axes.set_title(part)
    all_axes[0].set_ylabel(f"{config.metric or 'score'} gained by\nlanguage adaptation")
    figure.legend(handles=series_handles(labels, styles, True), loc="outside lower center", ncols=4, fontsize=7)
