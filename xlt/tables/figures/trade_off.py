"""Score over operations per example (thesis Figure 5.1): a disc for each system, with an area by its parameters.

Operations and parameters are relative to the whole model, which is the system whose published operations are 1. If no
operations are published, absolute numbers are shown.
"""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any

from xlt.errors import UsageError
from xlt.plan.store import RunStore
from xlt.tables.config import FigureConfig
from xlt.tables.figures.figure import PUBLISHED, Runs, SeriesStyles, legend, published, system_labels

if TYPE_CHECKING:
    from matplotlib.figure import FigureBase

    from xlt.tables.grid import Grid

_AVERAGE = "avg"
_DISC = 900.0  # area of the whole model's disc, in square points

labels = system_labels


def gather(config: FigureConfig, runs: Runs, store: RunStore, grid: Grid) -> dict[str, Any]:
    """Returns for each system `score`, `flops`, `parameters`, `published` and `whole`.

    `score` is the average over the columns; `flops` per example and `parameters` are means over the evaluations;
    `published` has the score, and the flops relative to the whole model; `whole` says whether it is the whole model.
    """
    facts = grid.config.facts or {}
    whole = next((name for name in grid.config.systems if facts.get(name, {}).get("flops") == 1.0), None)
    numbers: dict[str, Any] = {}
    for name, system in grid.config.systems.items():
        cell = grid.cells[name][_AVERAGE]
        if not cell.values or system.label not in runs:
            continue
        costs = [cost for column in grid.config.sources for cost in grid.cells[name][column].costs]
        if not costs:
            raise UsageError(
                f"table.figure.kind=trade_off: the evaluations of {system.label} do not say what an example costs; "
                "they are older than that: remove evaluation.json of its runs and make the table again"
            )
        numbers[system.label] = {
            "score": cell.mean,
            "spread": cell.spread,
            **{key: statistics.fmean(cost[key] for cost in costs) for key in ("flops", "parameters")},
            "published": _published(grid, name),
            "whole": name == whole,
        }
    if not numbers:
        raise UsageError("table.figure.kind=trade_off: no system has all its columns yet")
    if whole is not None and not any(point["whole"] for point in numbers.values()):
        reasons = [cell.reason for cell in grid.cells[whole].values() if cell.reason]
        raise UsageError(
            f"table.figure.kind=trade_off: operations are relative to {grid.config.systems[whole].label}, "
            f"which is missing: {'; '.join(dict.fromkeys(reasons)) or 'not run'}"
        )
    return numbers


def size(numbers: dict[str, Any]) -> tuple[float, float]:
    return 5.0, 4.2


def draw(config: FigureConfig, numbers: dict[str, Any], figure: FigureBase, styles: SeriesStyles) -> None:
    axes = figure.subplots()
    whole = next((label for label, point in numbers.items() if point["whole"]), None)
    one = 1.0 if whole is None else numbers[whole]["flops"]
    full = max(p["parameters"] for p in numbers.values()) if whole is None else numbers[whole]["parameters"]
    for label, point in numbers.items():
        look = styles(label)
        at, area = point["flops"] / one, _DISC * point["parameters"] / full
        text = f"{label} ({_short(point['parameters'])})"
        axes.scatter([at], [point["score"]], s=area, alpha=0.3, linewidth=0, color=look["color"])
        axes.errorbar([at], [point["score"]], yerr=[point["spread"] or 0.0], linestyle="", label=text, **look)
        if whole is not None and point["published"] is not None:
            theirs = point["published"]
            axes.plot([theirs["flops"]], [theirs["score"]], **{**PUBLISHED, **look, "linestyle": ""})
    axes.set_xlim(0, 1.12 * max(point["flops"] / one for point in numbers.values()))
    axes.margins(y=0.15)
    axes.set_xlabel("operations an example" + (f", relative to {whole}" if whole is not None else ""))
    axes.set_ylabel("score, average over targets")
    theirs = whole is not None and any(point["published"] is not None for point in numbers.values())
    legend(axes, theirs, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2, title="system (parameters)")


def _published(grid: Grid, name: str) -> dict[str, float] | None:
    """Returns the published score, and operations relative to the whole model; None if one is not published."""
    score, flops = published(grid, name, _AVERAGE), (grid.config.facts or {}).get(name, {}).get("flops")
    return None if score is None or flops is None else {"score": score, "flops": flops}


def _short(count: float) -> str:
    return f"{count / 1e6:.0f}M" if count >= 1e7 else f"{count / 1e6:.1f}M"
