"""Scores by a searched number (thesis Figures 3.2, 3.3): a line for each system, a panel for each language group."""

from __future__ import annotations

import re
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
    published,
    system_labels,
    unsearched,
)

if TYPE_CHECKING:
    from matplotlib.figure import FigureBase

    from xlt.tables.grid import Grid

_AVERAGE = "avg"
_WORDS = {"cap_words": "words of text", "data": "source languages", "cap": "examples"}

labels = system_labels


def gather(config: FigureConfig, runs: Runs, store: RunStore, grid: Grid) -> dict[str, Any]:
    """Returns `panels`, group (or `avg`) -> system -> points by the searched number, and `key`, the searched key."""
    panels: dict[str, dict[str, list[Point]]] = {}
    keys = set()
    for name, system in grid.config.systems.items():
        setting = name.partition(" ")[2]  # a search's systems are named SYSTEM KEY=VALUE
        key, _, value = setting.partition("=")
        number = re.search(r"\d+(\.\d+)?", value)
        if number is None:
            raise UsageError(
                f"table.figure.kind=settings: system {name} has no searched number for the x axis; give a search"
            )
        keys.add(key)
        label = unsearched(name, system)
        for panel in grid.config.groups or (_AVERAGE,):
            cell, theirs = grid.cells[name][panel], published(grid, name, panel)
            ours = (cell.mean, cell.spread) if cell.values and system.label in runs else (None, None)
            if ours[0] is not None or theirs is not None:
                panels.setdefault(panel, {}).setdefault(label, []).append([float(number[0]), *ours, theirs])
    panels = {
        panel: lines
        for panel, lines in panels.items()
        if any(point[1] is not None for points in lines.values() for point in points)
    }
    if not panels:
        raise UsageError("table.figure.kind=settings: no system has all its columns yet")
    ordered = {
        panel: {label: sorted(points, key=lambda point: point[0]) for label, points in lines.items()}
        for panel, lines in panels.items()
    }
    return {"key": ", ".join(sorted(keys)), "panels": ordered}


def size(numbers: dict[str, Any]) -> tuple[float, float]:
    panels = len(numbers["panels"])
    return (1.4 + 2.6 * panels if panels > 1 else 5.0), 3.2


def draw(config: FigureConfig, numbers: dict[str, Any], figure: FigureBase, styles: SeriesStyles) -> None:
    panels = numbers["panels"]
    all_axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (panel, lines) in zip(all_axes, panels.items(), strict=True):
        draw_lines(axes, lines, styles)
        ticks = sorted({point[0] for points in lines.values() for point in points})
        axes.set_xscale("log")
        axes.set_xticks(ticks, [f"{tick:,.0f}" if tick >= 1 else f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
        axes.set_xlabel(_WORDS.get(numbers["key"], numbers["key"]))
        if panel != _AVERAGE:
            axes.set_title(panel)
    all_axes[0].set_ylabel(f"{config.metric or 'score'}, average over targets")
    legend(all_axes[0], any(has_published(lines) for lines in panels.values()))
