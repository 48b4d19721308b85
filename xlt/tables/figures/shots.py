"""Scores by the number of gold target examples (thesis Figure 6.1): a line for each kind of module.

A band shows the spread over languages.
"""

from __future__ import annotations

import re
import statistics
from typing import TYPE_CHECKING, Any

from xlt.errors import UsageError
from xlt.plan.store import RunStore
from xlt.tables.config import FigureConfig
from xlt.tables.figures.figure import (
    Point,
    Runs,
    SeriesStyles,
    by_seed,
    draw_lines,
    has_published,
    legend,
    one_panel_size,
    published,
)

if TYPE_CHECKING:
    from matplotlib.figure import FigureBase

    from xlt.tables.grid import Grid

_LINES = {"": "SFT", "adapter_": "adapters"}

size = one_panel_size


def gather(config: FigureConfig, runs: Runs, store: RunStore, grid: Grid) -> dict[str, Any]:
    """Returns kind of module -> points by the number of shots.

    The mean is over the seeds that all target languages have, the spread is over the languages.
    """
    numbers: dict[str, list[Point]] = {}
    for name, system in grid.config.systems.items():
        named = re.fullmatch(r"(\w*?)k(\d+)", name)
        if named is None or named[1] not in _LINES:
            raise UsageError(f"table.figure.kind=shots: system {name} is not called kNUMBER or adapter_kNUMBER")
        columns = grid.config.average or grid.config.sources
        values_by_seed = [by_seed(grid.cells[name][column], runs.get(system.label, ())) for column in columns]
        seeds = set.intersection(*map(set, values_by_seed)) if values_by_seed else set()
        means = [statistics.fmean(values[seed] for seed in seeds) for values in values_by_seed] if seeds else []
        spread = statistics.stdev(means) if len(means) > 1 else None
        point = [float(named[2]), statistics.fmean(means) if means else None, spread, published(grid, name, "avg")]
        numbers.setdefault(_LINES[named[1]], []).append(point)
    if all(point[1] is None for points in numbers.values() for point in points):
        raise UsageError("table.figure.kind=shots: no system has all its columns yet")
    return {label: sorted(points, key=lambda point: point[0]) for label, points in numbers.items()}


def labels(grid: Grid) -> list[str]:
    return list(_LINES.values())


def draw(config: FigureConfig, numbers: dict[str, Any], figure: FigureBase, styles: SeriesStyles) -> None:
    axes = figure.subplots()
    draw_lines(axes, numbers, styles, band=True)
    ticks = sorted({point[0] for points in numbers.values() for point in points})
    axes.set_xscale("symlog", linthresh=20)
    axes.set_xticks(ticks, [f"{tick:.0f}" for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel("gold examples of the target language")
    axes.set_ylabel(f"{config.metric or 'score'}, average over targets")
    legend(axes, has_published(numbers), loc="lower right")
