"""Score over operations an example, a disc a system whose area is its parameters (thesis Figure 5.1)."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any

from xlt.config import UsageError
from xlt.results.figures.figure import FigureConfig, Runs
from xlt.results.store import RunStore

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from xlt.results.table import Grid

_AVERAGE = "avg"
_LARGEST = 900.0  # points squared, of the disc with the most parameters


def gather(config: FigureConfig, runs: Runs, store: RunStore, grid: Grid) -> dict[str, Any]:
    """System -> `score`, mean over its columns, `flops` of an example and `parameters`, means over its evaluations."""
    numbers: dict[str, Any] = {}
    for name, system in grid.config.systems.items():
        cell = grid.cells[name][_AVERAGE]
        if not cell.values or system.label not in runs:
            continue
        costs = [
            record["cost"]
            for run in runs[system.label]
            for record in store.evaluations(run.fingerprint).values()
            if record["composition"] == system.composition
            and record["source"] in grid.config.sources
            and "cost" in record
        ]
        if not costs:
            raise UsageError(
                f"table.figure.kind=trade_off: the evaluations of {system.label} do not say what an example costs; "
                "they are older than that: remove evaluation.json of its runs and make the table again"
            )
        numbers[system.label] = {
            "score": cell.mean,
            "spread": cell.spread,
            **{what: statistics.fmean(cost[what] for cost in costs) for what in ("flops", "parameters")},
        }
    if not numbers:
        raise UsageError("table.figure.kind=trade_off: no system has all its columns yet")
    return numbers


def draw(config: FigureConfig, numbers: dict[str, Any]) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.6, 3.6), layout="constrained")
    axes = figure.subplots()
    whole = max(point["flops"] for point in numbers.values())
    most = max(point["parameters"] for point in numbers.values())
    for label, point in numbers.items():
        at, size = point["flops"] / whole, _LARGEST * point["parameters"] / most
        told = f"{label} ({_short(point['parameters'])})"
        (bars, *_) = axes.errorbar([at], [point["score"]], yerr=[point["spread"] or 0.0], marker=".", linestyle="")
        axes.scatter([at], [point["score"]], s=size, alpha=0.35, linewidth=0, color=bars.get_color(), label=told)
    axes.set_xlim(0, 1.12)
    axes.margins(y=0.15)
    axes.set_xlabel("operations an example, relative to the largest")
    axes.set_ylabel("score, average over targets")
    legend = axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), title="system (parameters)")
    for handle in legend.legend_handles:
        handle.set_sizes([60.0])  # type: ignore[union-attr]
    return figure


def _short(count: float) -> str:
    return f"{count / 1e6:.0f}M" if count >= 1e7 else f"{count / 1e6:.1f}M"
