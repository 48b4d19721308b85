"""Scores by the densities of language and task module (thesis Figure 4.3): a cell for each pair of densities."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from xlt.errors import UsageError
from xlt.plan.store import RunStore
from xlt.tables.config import FigureConfig
from xlt.tables.figures.figure import Runs, SeriesStyles

if TYPE_CHECKING:
    from matplotlib.figure import FigureBase

    from xlt.tables.grid import Grid


def gather(config: FigureConfig, runs: Runs, store: RunStore, grid: Grid) -> dict[str, Any]:
    """Returns `language` and `task`, densities in percent, and `scores`, one row for each task density.

    A score is None if its runs are not finished.
    """
    means: dict[tuple[float, float], float] = {}
    places = []
    for name, system in grid.config.systems.items():
        setting = name.partition(" ")[2]  # a search over method.density and language_modules.overrides
        of_task = re.search(r"(?<!\.)density=([\d.]+)", setting)
        of_language = re.search(r"method\.density=([\d.]+)", setting)
        if of_task is None or of_language is None:
            raise UsageError(f"table.figure.kind=densities: system {name} does not say both densities; give a search")
        places.append((100 * float(of_language[1]), 100 * float(of_task[1])))
        cell = grid.cells[name]["avg"]
        if cell.values and system.label in runs:
            means[places[-1]] = cell.mean
    if not means:
        raise UsageError("table.figure.kind=densities: no system has all its columns yet")
    languages, tasks = (sorted({place[axis] for place in places}) for axis in (0, 1))
    scores = [[means.get((language, task)) for language in languages] for task in tasks]
    return {"language": languages, "task": tasks, "scores": scores}


def labels(grid: Grid) -> list[str]:
    return []


def size(numbers: dict[str, Any]) -> tuple[float, float]:
    return max(1.9 + 0.55 * len(numbers["language"]), 4.2), max(1.4 + 0.42 * len(numbers["task"]), 2.8)


def draw(config: FigureConfig, numbers: dict[str, Any], figure: FigureBase, styles: SeriesStyles) -> None:
    scores = numbers["scores"]
    axes = figure.subplots()
    known = [value for row in scores for value in row if value is not None]
    low, high = min(known), max(known)
    shown = [[float("nan") if value is None else value for value in row] for row in scores]
    image = axes.imshow(shown, origin="lower", aspect="auto", cmap="viridis", vmin=low, vmax=high)
    for row, values in enumerate(scores):
        for column, value in enumerate(values):
            if value is not None:
                ink = "black" if value > (low + high) / 2 else "white"
                axes.text(column, row, f"{value:.1f}", ha="center", va="center", color=ink, fontsize=7)
    if len(known) == len(shown) * len(shown[0]) and min(len(shown), len(shown[0])) > 2:
        axes.contour(shown, levels=5, colors="white", linewidths=0.6, alpha=0.7)
    axes.set_xticks(range(len(numbers["language"])), [f"{density:g}" for density in numbers["language"]])
    axes.set_yticks(range(len(numbers["task"])), [f"{density:g}" for density in numbers["task"]])
    axes.grid(visible=False)
    axes.set_xlabel("density of the language SFT (%)")
    axes.set_ylabel("density of the task SFT (%)")
    figure.colorbar(image, ax=axes, label=f"{config.metric or 'score'}, average over targets")
