"""Scores by the time of a training step and by memory (thesis Figure 7.3): a mark for each system."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from xlt.errors import UsageError
from xlt.plan.store import RunStore
from xlt.tables.config import FigureConfig
from xlt.tables.figures.figure import Runs, SeriesStyles, system_labels

if TYPE_CHECKING:
    from matplotlib.figure import FigureBase

    from xlt.tables.grid import Grid

_AVERAGE = "avg"
_FACTS = {"seconds": "seconds a step", "GB": "GPU memory (GB)"}

labels = system_labels


def gather(config: FigureConfig, runs: Runs, store: RunStore, grid: Grid) -> dict[str, Any]:
    """Returns panel -> system -> [x, score].

    In panel `ours`, x is the seconds per step of our runs; in the thesis's panels it is the published time or memory.
    Our runs do not record their memory; scripts/bench_llm.py measures it.
    """
    ours: dict[str, list[float]] = {}
    theirs: dict[str, dict[str, list[float]]] = {}
    for name, system in grid.config.systems.items():
        cell, facts = grid.cells[name][_AVERAGE], (grid.config.facts or {}).get(name, {})
        if cell.values and system.label in runs:
            seconds = [_seconds_a_step(store, run.fingerprint) for run in runs[system.label]]
            ours[system.label] = [statistics.fmean(seconds), cell.mean]
        for fact, axis_label in _FACTS.items():
            if fact in facts:
                theirs.setdefault(f"thesis, {axis_label}", {})[system.label] = [facts[fact], facts["score"]]
    if not ours:
        raise UsageError("table.figure.kind=speed: no system has all its columns yet")
    return {"ours, seconds a step": ours, **theirs}


def size(numbers: dict[str, Any]) -> tuple[float, float]:
    return (7.2 if len(numbers) > 1 else 4.4), 3.4


def draw(config: FigureConfig, numbers: dict[str, Any], figure: FigureBase, styles: SeriesStyles) -> None:
    labels = list(dict.fromkeys(label for panel in numbers.values() for label in panel))
    all_axes = figure.subplots(1, len(numbers), squeeze=False)[0]
    for axes, (panel, points) in zip(all_axes, numbers.items(), strict=True):
        for label, (at, score) in points.items():
            look = styles(label)
            axes.plot([at], [score], linestyle="", markersize=7, **look)
        origin, _, axis_label = panel.partition(", ")
        axes.set_title(origin)
        axes.set_xlabel(axis_label)
        axes.margins(0.18)
    all_axes[0].set_ylabel(f"{config.metric or 'score'}, average over benchmarks")
    handles = [_handle(label, styles(label)) for label in labels]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 4))


def _handle(label: str, look: Mapping[str, Any]) -> Any:
    from matplotlib.lines import Line2D

    return Line2D([], [], linestyle="", label=label, **look)


def _seconds_a_step(store: RunStore, fingerprint: str) -> float:
    """Returns the mean seconds per step over all phases, with validation."""
    last: dict[str, int] = {}
    for record in store.metrics(fingerprint):
        last[record["phase"]] = record["step"]
    if not last:
        raise UsageError(f"table.figure.kind=speed: {store.folder(fingerprint)} has no metric records; train it again")
    return store.result(fingerprint)["training"]["seconds"] / sum(last.values())
