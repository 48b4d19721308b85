"""Scores by the size of the task module (thesis Figure 4.2): a line for a searched system, a mark for any other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from xlt.errors import UsageError
from xlt.plan.store import RunStore
from xlt.tables.config import FigureConfig
from xlt.tables.figures.figure import (
    Point,
    Runs,
    SeriesStyles,
    draw_lines,
    has_published,
    legend,
    log_axis,
    one_panel_size,
    published,
    system_labels,
    unsearched,
)

if TYPE_CHECKING:
    from matplotlib.figure import FigureBase

    from xlt.tables.grid import Grid

labels = system_labels
size = one_panel_size


def gather(config: FigureConfig, runs: Runs, store: RunStore, grid: Grid) -> dict[str, Any]:
    """Returns system -> points by the percent of the model's parameters that are trained."""
    numbers: dict[str, list[Point]] = {}
    for name, system in grid.config.systems.items():
        cell = grid.cells[name]["avg"]
        system_runs = runs.get(system.label)
        if not system_runs or not cell.values:
            continue
        share = 100 * store.result(system_runs[0].fingerprint)["module"]["density"]
        point = [share, cell.mean, cell.spread, published(grid, name, "avg")]
        numbers.setdefault(unsearched(name, system), []).append(point)
    if not numbers:
        raise UsageError("table.figure.kind=sizes: no system has all its columns yet")
    return {label: sorted(points, key=lambda point: point[0]) for label, points in numbers.items()}


def draw(config: FigureConfig, numbers: dict[str, Any], figure: FigureBase, styles: SeriesStyles) -> None:
    axes = figure.subplots()
    draw_lines(axes, numbers, styles)
    log_axis(axes, [point[0] for points in numbers.values() for point in points])
    axes.set_xlabel("parameters trained (% of the model)")
    axes.set_ylabel(f"{config.metric or 'score'}, average over targets")
    legend(axes, has_published(numbers))
