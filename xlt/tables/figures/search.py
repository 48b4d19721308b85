"""Results of a search (thesis Figure E.1): a panel for each searched system, a line for each setting of other keys."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from xlt.errors import UsageError
from xlt.plan.store import RunStore
from xlt.tables.config import FigureConfig
from xlt.tables.figures.figure import Point, Runs, SeriesStyles, draw_lines, has_published, legend, published

if TYPE_CHECKING:
    from matplotlib.figure import FigureBase

    from xlt.tables.grid import Grid

_WORDS = {"learning_rate": "learning rate", "weight_decay": "weight decay"}
_COLUMNS = 3


def gather(config: FigureConfig, runs: Runs, store: RunStore, grid: Grid) -> dict[str, Any]:
    """Returns for each system `label`, `key`, `lines` and `best`.

    `key` is the last key of the search, which is on the x axis; `lines` has the points for each setting of the other
    keys; `best` is the published best setting.
    """
    numbers: dict[str, Any] = {}
    for name, search in grid.config.searches.items():
        lines: dict[str, list[Point]] = {}
        label = name
        for row, system in grid.config.systems.items():
            base, _, setting = row.partition(" ")
            if base != name:
                continue
            last = setting.rpartition(" ")[2]
            label = system.label.removesuffix(setting).strip()
            cell = grid.cells[row]["avg"]
            ours = (cell.mean, cell.spread) if cell.values and system.label in runs else (None, None)
            point = [float(last.partition("=")[2]), *ours, published(grid, row, "avg")]
            lines.setdefault(_others(row), []).append(point)
        if any(point[1] is not None for points in lines.values() for point in points):
            key = list(search.over)[-1].rpartition(".")[2]
            numbers[name] = {"label": label, "key": key, "lines": lines, "best": search.best}
    if not numbers:
        raise UsageError("table.figure.kind=search: no system has all its columns yet")
    return numbers


def labels(grid: Grid) -> list[str]:
    searched = (row for row in grid.config.systems if row.partition(" ")[0] in grid.config.searches)
    return list(dict.fromkeys(map(_others, searched)))


def size(numbers: dict[str, Any]) -> tuple[float, float]:
    columns = min(len(numbers), _COLUMNS)
    return (7.2 if columns > 1 else 4.0), 0.5 + 2.4 * -(-len(numbers) // _COLUMNS)


def draw(config: FigureConfig, numbers: dict[str, Any], figure: FigureBase, styles: SeriesStyles) -> None:
    columns = min(len(numbers), _COLUMNS)
    grid = figure.subplots(-(-len(numbers) // _COLUMNS), columns, squeeze=False, sharey=True)
    for spare in grid.flat[len(numbers) :]:
        spare.set_visible(False)
    for axes, result in zip(grid.flat, numbers.values(), strict=False):
        draw_lines(axes, result["lines"], styles)
        ticks = sorted({point[0] for points in result["lines"].values() for point in points})
        axes.set_xscale("log" if ticks[0] > 0 else "symlog", **({} if ticks[0] > 0 else {"linthresh": ticks[1]}))
        axes.set_xticks(ticks, [f"{tick:.0e}" if 0 < tick < 0.01 else f"{tick:g}" for tick in ticks], fontsize=7)
        axes.minorticks_off()
        axes.set_xlabel(_WORDS.get(result["key"], result["key"]))
        best = "" if result["best"] is None else f"\nthesis: {result['best']}"
        axes.set_title(f"{result['label']}{best}", fontsize=8)
        legend(axes, has_published(result["lines"]), fontsize=7)
    for row in grid:
        row[0].set_ylabel(config.metric or "score")


def _others(row: str) -> str:
    """Returns the setting of a row, `SYSTEM KEY=VALUE ...`, without its last key."""
    return row.partition(" ")[2].rpartition(" ")[0]
