"""Scores by the size of the task module (thesis Figure 4.2): a line a searched system, the others as level lines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from xlt.config import UsageError
from xlt.results.figures.figure import FigureConfig, Runs
from xlt.results.store import RunStore

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from xlt.results.table import Grid


def gather(config: FigureConfig, runs: Runs, store: RunStore, grid: Grid) -> dict[str, Any]:
    """System -> its points, [percent of the model's parameters that are trained, mean score, spread over seeds]."""
    numbers: dict[str, Any] = {}
    for name, system in grid.config.systems.items():
        cell = grid.cells[name]["avg"]
        of = runs.get(system.label)
        if not of or not cell.values:
            continue
        share = 100 * store.result(of[0].fingerprint)["module"]["density"]
        setting = name.partition(" ")[2]  # of a search: SYSTEM KEY=VALUE
        label = system.label.removesuffix(setting).strip()
        numbers.setdefault(label, []).append([share, cell.mean, cell.spread])
    if not numbers:
        raise UsageError("table.figure.kind=sizes: no system has all its columns yet")
    return {label: sorted(points, key=lambda point: point[0]) for label, points in numbers.items()}


def draw(config: FigureConfig, numbers: dict[str, Any]) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.0, 3.4), layout="constrained")
    axes = figure.subplots()
    for label, points in numbers.items():
        shares, means = [point[0] for point in points], [point[1] for point in points]
        if len(points) == 1:
            axes.plot(shares, means, marker="D", markersize=5, linestyle="none", label=label)
            continue
        spreads = [point[2] or 0.0 for point in points]
        axes.errorbar(shares, means, yerr=spreads, marker="o", markersize=3, linewidth=1.4, capsize=2, label=label)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlabel("parameters trained (% of the model)")
    axes.set_ylabel(f"{config.metric or 'score'}, average over targets")
    axes.legend()
    return figure
