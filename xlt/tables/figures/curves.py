"""Learning curves: a validation metric over training steps; a line for each system, with a band for its seeds."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any

from xlt.errors import UsageError
from xlt.plan.store import RunStore
from xlt.tables.config import FigureConfig
from xlt.tables.figures.figure import Runs, SeriesStyles, one_panel_size, system_labels

if TYPE_CHECKING:
    from matplotlib.figure import FigureBase

    from xlt.tables.grid import Grid

labels = system_labels
size = one_panel_size


def gather(config: FigureConfig, runs: Runs, store: RunStore, grid: Grid) -> dict[str, Any]:
    """Returns system -> step -> the metric of every seed; the steps of several phases are counted together."""
    numbers: dict[str, Any] = {}
    for label, system_runs in runs.items():
        points: dict[int, list[float]] = {}
        for run in system_runs:
            for step, value in _curve(store, run.fingerprint, f"validation/{config.metric}"):
                points.setdefault(step, []).append(value)
        if not points:
            raise UsageError(f"table.figure.metric={config.metric}: the runs of {label} have no validation of that")
        numbers[label] = {str(step): values for step, values in sorted(points.items())}
    return numbers


def draw(config: FigureConfig, numbers: dict[str, Any], figure: FigureBase, styles: SeriesStyles) -> None:
    axes = figure.subplots()
    for label, points in numbers.items():
        steps = [int(step) for step in points]
        means = [statistics.fmean(values) for values in points.values()]
        (line,) = axes.plot(steps, means, label=label, **styles(label))
        if any(len(values) > 1 for values in points.values()):
            low, high = [min(values) for values in points.values()], [max(values) for values in points.values()]
            axes.fill_between(steps, low, high, color=line.get_color(), alpha=0.15, linewidth=0)
    axes.set_xlabel("step")
    axes.set_ylabel(f"validation {config.metric}")
    axes.legend()


def _curve(store: RunStore, fingerprint: str, metric: str) -> list[tuple[int, float]]:
    points, start, last, phase = [], 0, 0, None
    for record in store.metrics(fingerprint):
        if phase not in (None, record["phase"]):
            start = last
        phase, last = record["phase"], start + record["step"]
        if record.get(metric) is not None:
            points.append((last, float(record[metric])))
    return points
